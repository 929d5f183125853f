"""Work on many machines: what packing and verifying ask of them, and what runs there. `service.packing` has them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

TICK = 0.5  # seconds from one word on progress to the next
_PACKAGES = ("numpy", "opencv-python", "opencv-python-headless", "pillow")

Progress = Callable[[int], object]


class Machines(Protocol):
    """Machines that share a file system with this one."""

    def map(
        self,
        work: Callable[..., Any],
        count: int,
        arguments: Callable[[int], tuple[Any, ...]],
        sees: Mapping[Path, str],
        progress: Progress | None = None,
    ) -> Generator[Any]:
        """Yield `work(*arguments(n), tell)` for n from 0 to `count` - 1, in order; an error of the first n to fail is
        raised. What is lost with a process or machine is done again, so work may run twice, even at the same time.

        `tell` and `progress` are called with what was done since the last call. Raise ValueError if a machine does not
        see the files or folders `sees`, path → its name in the message. Relative paths count from the current folder,
        there too.
        """
        ...


def pixel_versions() -> dict[str, str]:
    """Return the versions that decide the bytes of packed images."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name.removesuffix("-headless").removesuffix("-python")] = version(name)
        except PackageNotFoundError:
            continue
    return found


def look(folder: str, sees: Mapping[Path, str]) -> tuple[str, dict[str, str], list[str]]:
    """Return this machine's name and versions, and which of the paths it does not see from `folder`, by name."""
    try:
        os.chdir(folder)
    except OSError:
        return socket.gethostname(), pixel_versions(), [folder]
    return socket.gethostname(), pixel_versions(), [name for path, name in sees.items() if not path.exists()]


def run(work: Callable[..., Any], arguments: tuple[Any, ...], folder: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Run `work` as `Machines.map` does. Yield what was done since, and at last the result, in a tuple of one."""
    os.chdir(folder)
    done: list[int] = []  # appended to by the thread that works

    def since() -> int:
        count = len(done)
        told = sum(done[:count])
        del done[:count]
        return told

    with ThreadPoolExecutor(1) as pool:
        result: Future[Any] = pool.submit(work, *arguments, done.append)
        while not wait([result], TICK).done:
            yield since(), ()
        value = result.result()
    yield since(), (value,)
