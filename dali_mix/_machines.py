"""Interface for packing and verifying on several machines, and functions that run on each of these machines.

`service.packing` implements the interface.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from dali_mix._code import code_digest

TICK = 0.5  # seconds between progress reports
_CODE = ("dali_mix.datasets", "dali_mix.recordio", "dali_mix.tasks", "dali_mix._labels")
_PACKAGES = ("numpy", "opencv-python", "opencv-python-headless", "pillow")

Progress = Callable[[int], object]


class Machines(Protocol):
    """A group of machines that share a file system with this one."""

    def map(
        self,
        work: Callable[..., Any],
        count: int,
        arguments: Callable[[int], tuple[Any, ...]],
        sees: Mapping[Path, str],
        progress: Progress | None = None,
    ) -> Generator[Any]:
        """Yield the result of `work(*arguments(n), report)` for each n from 0 to `count` - 1, in order.

        If a process or machine is lost, its calls are repeated. `work` must therefore allow a call to run twice, even
        concurrently. It may use relative paths only if `sees` contains one. Every machine then resolves them against
        this process's current folder.

        If a call fails, raise its error instead of yielding its result. Before any work has started, raise ValueError
        if a machine cannot access a path in `sees`, or differs from this machine in `pixel_versions`. A machine that
        joins later and fails this check is not used.
        """
        ...


def pixel_versions() -> dict[str, str]:
    """Return the versions of packages and the digests of our modules that determine the bytes of records, by name.

    Packages that are not installed are omitted.
    """
    found = {name: code_digest(name) for name in _CODE}
    for name in _PACKAGES:
        try:
            found[name.removesuffix("-headless").removesuffix("-python")] = version(name)
        except PackageNotFoundError:
            continue
    return found


def look(folder: str, sees: Mapping[Path, str]) -> tuple[str, dict[str, str], list[str]]:
    """Return this machine's name, `pixel_versions()`, and the names of the paths in `sees` that do not exist here.

    Relative paths are resolved against `folder`, which becomes the current folder first. If that fails, `folder` is the
    only name returned as missing.
    """
    try:
        os.chdir(folder)
    except OSError:
        return socket.gethostname(), pixel_versions(), [folder]
    return socket.gethostname(), pixel_versions(), [name for path, name in sees.items() if not path.exists()]


def run(work: Callable[..., Any], arguments: tuple[Any, ...], folder: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Change the current folder to `folder` and call `work(*arguments, report)`. Raise the errors of `work`.

    Yield (amount done since the last yield, ()) every `TICK` seconds, and at the end (remaining amount, (result,)),
    where `result` is what `work` returned. `Machines.map` runs each of its calls in this way.
    """
    os.chdir(folder)
    done: list[int] = []  # the worker thread appends to it

    def since() -> int:
        count = len(done)
        reported = sum(done[:count])
        del done[:count]
        return reported

    with ThreadPoolExecutor(1) as pool:
        result: Future[Any] = pool.submit(work, *arguments, done.append)
        while not wait([result], TICK).done:
            yield since(), ()
        value = result.result()
    yield since(), (value,)
