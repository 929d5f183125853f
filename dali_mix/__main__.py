"""`python -m dali_mix`, `torchrun … -m dali_mix`: run the command `dali-mix`."""

import sys

from dali_mix.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
