#!/usr/bin/env python3
"""The same as `dali-mix train`."""

import sys

from dali_mix.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
