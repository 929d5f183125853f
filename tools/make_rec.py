#!/usr/bin/env python3
"""Pack a dataset: the same as `dali-mix pack`."""

import sys

from dali_mix.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["pack", *sys.argv[1:]]))
