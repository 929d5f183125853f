"""Options and error handling for commands that can decode in a pool of workers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def add_service(parser: argparse.ArgumentParser) -> None:
    """Add --service, which sets the recipe's key `service`."""
    service = "decode in a pool of workers (`dali-mix serve`): HOST:PORT, or auto for the pool on this machine"
    parser.add_argument("--service", metavar="ADDRESS", help=service)


def set_service(args: argparse.Namespace) -> None:
    """If --service is set, append it to `args.cfg_options` as the recipe value `service`."""
    if args.service is not None:
        args.cfg_options.append(f"service={args.service}")


def guarded(command: str, work: Callable[[], T]) -> T | None:
    """Call `work` and return its result, or None if it raised an error after this process's worker pool had ended.

    In that case, `service.cluster.Watch` has already printed a message with the name of the subcommand, `command`. It
    prints at once, since Ray may end this process at any time after its raylet has ended. Other errors are raised.
    """
    from dali_mix.service import cluster

    cluster.command.speaker = f"dali-mix {command}: error: "
    try:
        return work()
    except Exception:  # any error: once the pool has ended, it is a consequence
        cluster.command.status = 1
        if not cluster.command.pool_gone:
            raise
        return None
