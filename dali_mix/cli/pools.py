"""What commands that may decode in a pool share."""

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
    """Make a value to set of --service."""
    if args.service is not None:
        args.cfg_options.append(f"service={args.service}")


def guarded(command: str, work: Callable[[], T]) -> T | None:
    """Return what `work` does; None if its pool has ended, which is printed already.

    Ray may end the process at any moment after its raylet has ended, so the message comes at once, and only once.
    """
    from dali_mix.service import cluster

    cluster.command.speaker = f"dali-mix {command}: error: "
    try:
        return work()
    except Exception:
        cluster.command.status = 1
        if not cluster.command.pool_gone:
            raise
        return None
