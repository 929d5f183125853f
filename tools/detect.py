#!/usr/bin/env python3
"""Run `dali-mix detect`: train, evaluate or predict."""

import sys

from dali_mix.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["detect", *sys.argv[1:]]))
