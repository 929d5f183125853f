"""`dali-mix train RECIPE --work-dir D`: train or resume a run. Under torchrun, every rank runs this command."""

from __future__ import annotations

import argparse
import os
import signal
from contextlib import suppress
from types import FrameType

from dali_mix._signals import handled
from dali_mix.cli.arguments import add_recipe
from dali_mix.cli.exit_status import INTERRUPTED, PREEMPTED
from dali_mix.cli.pools import add_service, guarded, set_service

NOTHING_TO_SAVE = "SIGTERM while no step was under way: nothing to save; start it again (with --resume=auto)"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "A run killed at any point continues from its newest checkpoint with --resume; on a CPU it ends with the\n"
        "same weights, bit for bit. SIGTERM and Ctrl-C finish the step, save, and exit with status 75 and 130; a\n"
        "second Ctrl-C stops at once. For several processes use scripts/train_dist.sh; status 3: ended because\n"
        "another process did."
    )
    add_recipe(parser)
    parser.add_argument(
        "--work-dir", required=True, help="folder for config.json, logs, metrics.jsonl and checkpoints/"
    )
    add_service(parser)
    resume = (
        "continue from the newest checkpoint, with the values in the run's config.json; without a checkpoint "
        "--resume is an error, and --resume=auto starts at step 0"
    )
    parser.add_argument("--resume", nargs="?", const="must", default="no", choices=("must", "auto"), help=resume)


def run(args: argparse.Namespace) -> int:
    with handled(_end, signal.SIGTERM):
        return _train(args)


def _train(args: argparse.Namespace) -> int:
    from dali_mix.engine.start import train

    set_service(args)
    status = guarded("train", lambda: train(args.recipe, args.work_dir, resume=args.resume, options=args.cfg_options))
    return 1 if status is None else {"preempted": PREEMPTED, "interrupted": INTERRUPTED}.get(status, 0)


def _end(number: int, frame: FrameType | None) -> None:
    """Print that nothing was saved, and end the process at once with status 75.

    This is the SIGTERM handler while `process_group.StopSignal` is not installed. It does not raise an exception, since
    libraries that are being imported could swallow or replace the exception.
    """
    # The launcher (see `cli.rank`) prints this message once for all its ranks.
    if "DALI_MIX_RANKS" not in os.environ and os.environ.get("LOCAL_RANK", "0") == "0":
        with suppress(OSError):
            os.write(2, f"dali-mix train: {NOTHING_TO_SAVE}\n".encode())
    os._exit(PREEMPTED)
