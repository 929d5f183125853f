"""Run the `dali-mix` command for `python -m dali_mix` and `torchrun … -m dali_mix`."""

import sys

from dali_mix.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
