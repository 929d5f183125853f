"""Processes of `dali-mix serve` and of clients, and helpers to inspect them."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

TINY = 0.2  # GB of shared memory


_ports = itertools.count(7000 + os.getpid() % 1000 * 20)


def free_port() -> int:
    """Return a port that nothing listens on, a different one each time."""
    for port in _ports:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError


def until(what: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Return the first true value of `what()`. Fail after `seconds`, which allow for a busy machine."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
    return found


def wait_until_idle(pool: Any) -> dict[str, Any]:
    """Wait until the pool has only the two workers of its first machine and both are idle; return its status.

    Chunks that earlier tests requested ahead are then decoded, and machines that they lost are forgotten.
    """

    def look() -> dict[str, Any] | None:
        found = pool.status()
        idle = not any(own["under_way"] for own in found["workers"])
        return found if idle and len(found["workers"]) == 2 else None

    return until(look)


def processes() -> Iterator[tuple[int, int, str]]:
    """Yield (process id, session id, command line) of every running process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text, session = (folder / "stat").read_text(), os.getsid(int(folder.name))
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:  # the process has ended
            continue
        if text.rpartition(")")[2].split()[0] not in "ZX":
            yield int(folder.name), session, command


class Serve:
    """A process of `dali-mix serve ARGUMENTS`, by default with 0.2 GB of shared memory."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        memory = () if "--memory" in arguments else ("--memory", TINY)
        command = [sys.executable, "-m", "dali_mix", "serve", *map(str, (*arguments, *memory))]
        folder.mkdir(exist_ok=True, parents=True)
        self._log = folder / f"serve-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.pid = self.process.pid
        self.begun = time.monotonic()

    @property
    def text(self) -> str:
        return self._log.read_text()

    def ready(self, seconds: float = 180.0) -> Serve:
        """Wait until the server is ready, and return it. Kill it on failure."""
        try:
            until(lambda: "pool  " in self.text or self.process.poll() is not None, seconds)
            assert self.process.poll() is None, self.text
        except AssertionError:
            self.kill()
            raise
        print(f"dali-mix serve: {time.monotonic() - self.begun:.1f} s to start")
        return self

    def ended(self, seconds: float = 180.0) -> tuple[int, str]:
        """Wait until the process ends, and return its status and output. Kill it on a timeout.

        The default timeout also covers a process that has only begun to start.
        """
        try:
            return self.process.wait(seconds), self.text
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def sessions(self) -> set[int]:
        """Return the ids of the process sessions in which this `dali-mix serve` runs Ray."""
        mine = f'"parent": {self.pid},'
        return {session for _, session, name in processes() if "ray_node.py" in name and mine in name}

    def kill(self) -> None:
        """Kill the process and its Ray at once, as a power failure would."""
        sessions = self.sessions()
        self.process.kill()
        for pid, session, name in list(processes()):
            if session in sessions:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                for folder in re.findall(r'"temp_dir": "(/tmp/dali_mix-[^"]*)"', name):
                    shutil.rmtree(folder, ignore_errors=True)
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60.0) -> int:
        """Send a signal, wait until the process ends, and return its status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.ended(seconds)[0]


def client(program: str | Path, *arguments: object, seconds: float = 180.0, **environment: str) -> tuple[str, float]:
    """Run a program (its text or file) until it ends by itself; return what it printed and the seconds it took."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, *([program] if isinstance(program, Path) else ["-c", program]), *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    return done.stdout, time.monotonic() - begun


def same(one: Any, two: Any) -> bool:
    """Return True if two targets or batches are bit-equal."""
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)
