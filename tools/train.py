#!/usr/bin/env python3
"""Run `dali-mix train`."""

import sys

from dali_mix.cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    sys.exit(main())
