#!/usr/bin/env python3
"""The same as `dali-mix predict`."""

import sys

from dali_mix.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
