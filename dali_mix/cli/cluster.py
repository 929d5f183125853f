"""`--cluster ADDRESS`: the machines of a pool, for packing and verifying."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from dali_mix._machines import Machines
from dali_mix.cli.pools import guarded


def add_cluster(add: Callable[..., object], what: str) -> None:
    """Add the option; `what` is the verb that begins its help text ("pack", "verify")."""
    text = (
        f"{what} the shards on the machines of a pool (`dali-mix serve`) that share a file system: HOST:PORT, or auto"
    )
    add("--cluster", metavar="ADDRESS", help=text)


def with_cluster(command: str, args: argparse.Namespace, work: Callable[[Machines | None], int]) -> int:
    """Return the status of `work`, which gets the machines of --cluster, None without; 1 if their pool has ended.

    Raise ValueError as `service.connect`.
    """
    if args.cluster is None:
        return work(None)
    from dali_mix.service import RayMachines, connect  # Ray, an extra, is imported where a command asks for it

    status = guarded(command, lambda: work(RayMachines(connect(args.cluster))))
    return 1 if status is None else status
