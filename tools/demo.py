#!/usr/bin/env python3
"""Run `dali-mix predict`."""

import sys

from dali_mix.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
