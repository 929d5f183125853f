#!/usr/bin/env python3
"""The same as `dali-mix detect`: train, evaluate, predict."""

import sys

from dali_mix.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["detect", *sys.argv[1:]]))
