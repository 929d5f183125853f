"""`service.json`: the pools on this machine, in the order they were started; used by `service="auto"`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from dali_mix._files import replacing

NAME = "service.json"


def noted(folder: Path) -> list[str]:
    """Return the addresses of this machine's pools listed in `folder`; empty if the file is missing or invalid."""
    try:
        found = json.loads((folder / NAME).read_text())
    except (OSError, ValueError):
        return []
    pools = found.get("pools") if isinstance(found, dict) else None
    return [
        pool["address"]
        for pool in (pools if isinstance(pools, list) else [])
        if isinstance(pool, dict) and isinstance(pool.get("address"), str) and pool.get("host") == socket.gethostname()
    ]


def note(folder: Path, address: str, answers: Callable[[str], bool]) -> None:
    """Rewrite the list in `folder` with `address` at its end.

    Addresses for which `answers` returns False are removed, and so are those of other machines. The folder is locked
    meanwhile.
    """
    with _locked(folder):
        others = [other for other in noted(folder) if other != address and answers(other)]
        _write(folder, [*others, address])


def forget(folder: Path, address: str) -> None:
    """Remove `address` from the list in `folder`, and the file if the list is then empty. An OSError is ignored."""
    with contextlib.suppress(OSError), _locked(folder):
        if address in (addresses := noted(folder)):
            _write(folder, [other for other in addresses if other != address])


def _write(folder: Path, addresses: list[str]) -> None:
    if not addresses:
        (folder / NAME).unlink()
        return
    pools = [{"address": address, "host": socket.gethostname()} for address in addresses]
    with replacing(folder / NAME) as file:
        file.write_text(json.dumps({"pools": pools}))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
