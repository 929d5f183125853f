"""Rendezvous: a key-value store at rank 0 through which ranks connect, compare settings and report failures.

The store opens before any process group. If a rank is missing or fails, two processes have the same rank, or settings
differ, the user gets one clear message instead of a hang or transport errors on every other machine. All keys have the
prefix dali_mix/ATTEMPT/, since torchrun's store outlives a restart of the ranks:

    joined/RANK    number of processes that joined as this rank; more than one is an error
    host/RANK      machine of the first process that joined as this rank
    NAME/RANK      the value this rank passed to `exchange(NAME, …)`
    failed         [rank, message] of the first rank that failed; set once, by compare_set
    seen/RANK      set when this rank has read `failed` or has failed itself

`exchange` checks `failed` and the deadline while it waits. The server is a thread of rank 0 and ends with it. After a
failure, rank 0 therefore keeps the store open (`_linger`) until all ranks have set `seen`, for at most 10 s.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist

from dali_mix._signals import handled

JOIN_SECONDS = 35.0
_LINGER_SECONDS = 10.0
_POLL_SECONDS = 0.05


class RankLost(ConnectionError):
    """Raised if another rank failed or exited. The output of that rank shows the error."""

    lost = True  # read by the command line, which does not import torch


class RanksMissing(ConnectionError):
    """Raised if not all ranks connected in time."""


class Rendezvous:
    """A rank's connection to the store at rank 0, which rank 0 opens unless torchrun already has.

    Args:
        rank: rank of this process, from 0 to `world_size` - 1.
        world_size: number of ranks.
        host, port: address of rank 0.
        seconds: how long to wait for the other ranks; by default the environment variable DALI_MIX_JOIN_SECONDS, or 35
            if it is not set.

    Raises:
        ValueError: the host name cannot be resolved.
        OSError: rank 0's port is in use, or does not answer in time.
    """

    def __init__(self, rank: int, world_size: int, host: str, port: int, seconds: float | None = None) -> None:
        self.rank, self.world_size = rank, world_size
        self.host = socket.gethostname()
        self._seconds = seconds or float(os.environ.get("DALI_MIX_JOIN_SECONDS") or JOIN_SECONDS)
        self._deadline = time.monotonic() + self._seconds
        by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._serves = rank == 0 and not by_torchrun
        _check_resolves(host)
        if self._serves:
            _check_free(port)
        else:
            self._await_server(host, port)
        try:
            self.store: dist.Store = dist.TCPStore(
                host, port, None, self._serves, timedelta(seconds=self._seconds), wait_for_workers=False
            )
        except RuntimeError as error:
            raise ConnectionError(f"no store at {host}:{port}: {_first_line(error)}") from error
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if by_torchrun else "0"
        self.store = dist.PrefixStore(f"dali_mix/{attempt}", self.store)
        self._count = self.store.add(f"joined/{rank}", 1)
        if self._count == 1:
            self.store.set(f"host/{rank}", self.host)

    def exchange(self, name: str, value: str) -> list[str]:
        """Exchange `value` with the other ranks and return all values in rank order.

        Each name can be used only once, since the store keeps its values.

        Raises:
            RankLost: another rank failed meanwhile, or rank 0 exited.
            ConnectionError: ranks did not connect in time, or two processes have the same rank.
        """
        keys = [f"{name}/{rank}" for rank in range(self.world_size)]
        try:
            self._check_unique()
            self.store.set(keys[self.rank], value)
            while not self.store.check(keys):
                self._check_unique()
                if self.store.check(["failed"]):
                    raise RankLost(self._failed())
                if time.monotonic() > self._deadline:
                    raise RanksMissing(self._missing(keys))
                time.sleep(_POLL_SECONDS)
            return [self.store.get(key).decode() for key in keys]
        except RuntimeError as error:  # raised by the store when its server has exited
            raise RankLost(f"rank 0 has exited; its output has the error ({_first_line(error)})") from error

    def compare(self, values: dict[str, str]) -> None:
        """Raise ValueError if `values` (name → value) are not equal on all ranks. It can be called only once.

        The time limit for later exchanges starts when all ranks have sent their values.

        Raises:
            ValueError: values differ; the message lists the values, and which ranks have them.
            RankLost, ConnectionError: as `exchange`.
        """
        found = [json.loads(text) for text in self.exchange("values", json.dumps([self.host, values]))]
        self._deadline = time.monotonic() + self._seconds
        if message := differences([of_rank for _, of_rank in found], [host for host, _ in found]):
            raise ValueError(message)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Report an error in the block to the other ranks, and raise it again.

        If the error means that another rank cannot be reached, or if another rank has already reported an error with
        the same message, `RankLost` is raised instead. `RankLost` and `RanksMissing` from the block are raised again,
        but not reported.
        """
        try:
            yield
        except RankLost:
            raise
        except Exception as error:
            if _is_loss(error):
                raise RankLost(self._failed(wait=3.0)) from error
            if isinstance(error, RanksMissing):  # there is no other rank to wait for
                raise
            if self._reported_before(str(error)):
                lost = RankLost(self._failed())  # read the message while the server waits for this rank
                self._linger()
                raise lost from error
            self._linger()
            raise

    def _reported_before(self, text: str) -> bool:
        """Report the error `text` of this rank, unless another rank has already reported an error.

        Return True if another rank has reported an error with the same message. If two processes have this rank, or if
        the store's server has exited, report nothing and return False.
        """
        with suppress(RuntimeError):
            ours = json.dumps([self.rank, text])
            first = self.store.compare_set("failed", "", ours).decode() if self._count == 1 else ours
            return first != ours and json.loads(first)[1] == text
        return False

    def _linger(self) -> None:
        """Set `seen` for this rank. If this rank serves the store, wait until all ranks have set it, at most 10 s.

        SIGTERM is ignored meanwhile, since it would close the store.
        """
        end = time.monotonic() + _LINGER_SECONDS
        others = [f"seen/{rank}" for rank in range(self.world_size)]
        # RuntimeError is raised by the store if its server has exited.
        with suppress(RuntimeError), handled(signal.SIG_IGN, signal.SIGTERM):
            self.store.set(f"seen/{self.rank}", "")
            while self._serves and not self.store.check(others) and time.monotonic() < end:
                time.sleep(_POLL_SECONDS)

    def _check_unique(self) -> None:
        if self._count > 1 or self.store.add(f"joined/{self.rank}", 0) > 1:
            raise ConnectionError(
                f"two processes are rank {self.rank} of this run, one of them on {self._host_of(self.rank)}: set "
                f"a different RANK for every process (scripts/train_dist.sh: a different NODE_RANK per machine)"
            )

    def _await_server(self, host: str, port: int) -> None:
        while True:
            try:
                socket.create_connection((host, port), timeout=5).close()
                return
            except OSError as error:
                if time.monotonic() > self._deadline:
                    raise ConnectionError(
                        f"rank {self.rank} on {self.host} waited {self._seconds:.0f} s for rank 0 at "
                        f"{host}:{port} ({error.strerror or error}): start rank 0 there, or correct MASTER_ADDR and "
                        f"MASTER_PORT; set DALI_MIX_JOIN_SECONDS=N to wait longer"
                    ) from None
            time.sleep(0.2)

    def _missing(self, keys: list[str]) -> str:
        missing = [rank for rank, key in enumerate(keys) if not self.store.check([key])]
        there = [rank for rank in range(self.world_size) if rank not in missing]
        hosts = sorted({self._host_of(rank) for rank in there})
        return (
            f"{spans(missing)} of {self.world_size} did not connect in {self._seconds:.0f} s; {spans(there)} did, on "
            f"{', '.join(hosts)}. Start the same command on every machine and check the output of the missing ranks; "
            f"set DALI_MIX_JOIN_SECONDS=N to wait longer"
        )

    def _host_of(self, rank: int) -> str:
        return self.store.get(f"host/{rank}").decode() if self.store.check([f"host/{rank}"]) else "an unknown machine"

    def _failed(self, wait: float = 0.0) -> str:
        """Return a message about the rank that failed first, waiting up to `wait` seconds for its report.

        If there is a report, set `seen` for this rank. Without a report, or if the store's server has exited, the
        message says so.
        """
        end = time.monotonic() + wait
        try:
            while not self.store.check(["failed"]) and time.monotonic() < end:
                time.sleep(_POLL_SECONDS)
            if not self.store.check(["failed"]):
                return "another rank exited without a message (killed? out of memory?)"
            rank = json.loads(self.store.get("failed"))[0]
            where = self._host_of(rank)
            self.store.set(f"seen/{self.rank}", "")
        except RuntimeError:
            return "the connection to rank 0 was lost; its output has the error"
        return f"rank {rank} on {where} failed; its output has the error"


def differences(values: list[dict[str, str]], hosts: list[str], most: int = 3) -> str:
    """Return a message about values that differ between ranks, or "" if all are equal.

    Args:
        values: for each rank, name → value.
        hosts: the machine of each rank.
        most: maximum number of names in the message.
    """
    names = dict.fromkeys(name for each in values for name in each)
    shown = []
    for name in names:
        ranks: dict[str, list[int]] = {}
        for rank, each in enumerate(values):
            ranks.setdefault(each.get(name, "not set"), []).append(rank)
        if len(ranks) > 1:
            found = (f"{_short(value)} on {spans(of)} ({hosts[of[0]]})" for value, of in ranks.items())
            shown.append(f"{name}: {', '.join(found)}")
    if not shown:
        return ""
    more = f"; and {len(shown) - most} more" if len(shown) > most else ""
    return (
        f"the ranks of this run differ in {'; '.join(shown[:most])}{more}. Start every rank with the same recipe, "
        f"options, sets and versions"
    )


def spans(ranks: list[int]) -> str:
    """Format ranks as ranges: [0, 1, 2, 5] → "ranks 0-2, 5"."""
    ranges: list[list[int]] = []
    for rank in ranks:
        if ranges and ranges[-1][-1] == rank - 1:
            ranges[-1][1:] = [rank]
        else:
            ranges.append([rank])
    return f"rank{'s' * (len(ranks) > 1)} {', '.join('-'.join(map(str, ends)) for ends in ranges)}"


def _short(value: str) -> str:
    return value if len(value) <= 48 else f"{value[:47]}…"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _is_loss(error: Exception) -> bool:
    """Return True if `error`, raised by torch.distributed, means that another rank cannot be reached."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _check_resolves(host: str) -> None:
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise ValueError(
            f"MASTER_ADDR={host} does not resolve on {socket.gethostname()} ({error.strerror}): set it to the name or "
            f"address of rank 0's machine"
        ) from None


def _check_free(port: int) -> None:
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise OSError(
                    f"MASTER_PORT {port} is in use on this machine, by another run or a second process of rank 0: "
                    f"choose another port"
                ) from None
