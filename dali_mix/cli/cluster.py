"""The option `--cluster ADDRESS`, which packs or verifies on the machines of a pool."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from dali_mix._machines import Machines
from dali_mix.cli.pools import guarded


def add_cluster(add: Callable[..., object], what: str) -> None:
    """Add `--cluster` with `add`, a parser's `add_argument`. `what` begins the help text: "write" or "check"."""
    text = (
        f"{what} the shards on the machines of a pool (`dali-mix serve`) that share a file system: HOST:PORT, or auto"
    )
    add("--cluster", metavar="ADDRESS", help=text)


def with_cluster(command: str, args: argparse.Namespace, work: Callable[[Machines | None], int]) -> int:
    """Call `work` with the machines of --cluster, or with None without the option, and return its exit status.

    Return 1 if `work` fails because the pool has ended. Other errors of `work`, and those of `service.connect`, are
    raised. `command` is the name of the subcommand, for messages.
    """
    if args.cluster is None:
        return work(None)
    from dali_mix.service import RayMachines, connect  # imports Ray, which is optional

    status = guarded(command, lambda: work(RayMachines(connect(args.cluster))))
    return 1 if status is None else status
