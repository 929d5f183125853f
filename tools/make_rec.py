#!/usr/bin/env python3
"""Run `dali-mix pack`: pack a dataset."""

import sys

from dali_mix.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["pack", *sys.argv[1:]]))
