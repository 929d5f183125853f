"""`python -m dali_mix`, `torchrun … -m dali_mix`: the same as the console program `dali-mix`."""

import sys

from dali_mix.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
