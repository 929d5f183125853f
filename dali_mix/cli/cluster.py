"""`--cluster ADDRESS`: the machines of a pool, for packing and verifying."""

from __future__ import annotations

from collections.abc import Callable

from dali_mix._machines import Machines


def add_cluster(add: Callable[..., object], what: str) -> None:
    """Add the option; `what` is the verb that begins its help text ("pack", "verify")."""
    text = (
        f"{what} the shards on the machines of a pool (`dali-mix serve`) that share a file system: HOST:PORT, or auto"
    )
    add("--cluster", metavar="ADDRESS", help=text)


def machines_of(address: str) -> Machines:
    """Return the machines of the pool at `address`. Raise ValueError as `service.connect`."""
    from dali_mix.service import RayMachines, connect  # Ray, an extra, is imported where a command asks for it

    return RayMachines(connect(address))
