#!/usr/bin/env python3
"""Run `dali-mix evaluate`."""

import sys

from dali_mix.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
