"""`RayMachines`: the machines of a pool, for packing and verifying.

Each try of a shard is a Ray task on a fixed machine. Tasks require no resources, so they never wait for those held by
workers. A machine runs as many tasks at a time as it has workers. Scheduling and retries are done in this process, not
by Ray:

    waiting ── start ──▶ under way ── result ──▶ yielded, in order
       ▲                     │
       └── lost with its process or machine; after TRIES losses, an error

A try that takes much longer than others is duplicated if a machine is free; the first result counts. A try without a
heartbeat for `FROZEN` seconds counts as lost. Each try writes its own files, so a lost try that still runs does no
harm.

More than 300 lines: one scheduler, whose methods share the table of tries.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dali_mix import _machines
from dali_mix._machines import Progress
from dali_mix._text import worded
from dali_mix.service import cluster
from dali_mix.service.client import ANSWER, WAIT_FOR_WORKERS, RayPool
from dali_mix.service.spec import differences, versions

TRIES = 4  # per shard
REFRESH = 5.0  # seconds between updates of the list of machines
AVOID = 2.0  # seconds for which a machine that lost a try gets no new one
LATE, LATE_AT_LEAST = 4, 5.0  # duplicate a try after 4 times the longest so far, but at least 5 s
LATE_AT_FIRST = 60.0  # while no shard is done, duplicate a try after this many seconds: the first try may be frozen
FROZEN = 120.0  # seconds without a heartbeat (two per second) until a try counts as lost
SILENCE, TIMEOUT = 30.0, 600.0  # seconds without any machine, once tries have started, until a warning and an error
START = 5.0  # seconds to wait for all machines at first; then use those that answered
CANCEL = 3.0  # seconds to wait for tasks to end
FETCH = 60.0  # seconds to transfer a result that is ready


class RayMachines:
    """The machines of a pool that share a file system with this one: see `_machines.Machines`.

    Args:
        pool: this process's connection.
    """

    def __init__(self, pool: RayPool) -> None:
        self.pool = pool
        self.lost = 0  # tries lost with their process or machine

    def map(
        self,
        work: Callable[..., Any],
        count: int,
        arguments: Callable[[int], tuple[Any, ...]],
        sees: Mapping[Path, str],
        progress: Progress | None = None,
    ) -> Generator[Any]:
        """Run `count` calls of `work` on the pool's machines and yield their results: see `_machines.Machines.map`.

        Raise PoolGone if the pool ends, and ValueError if a call is lost `TRIES` times or no machine is available for
        too long. When the generator is closed or fails, running calls are cancelled.
        """
        mapping = _Mapping(self, work, count, arguments, sees, progress)
        try:
            yield from mapping.results()
        finally:
            mapping.cancel(mapping.tries)


@functools.cache
def _task(ray: Any, function: Callable[..., Any]) -> Any:
    """Return `function` as a Ray task.

    The result is cached, since Ray sends every new remote function to the head, and waits if the head has just ended.
    """
    return ray.remote(function)


@dataclass
class _Node:
    host: str
    slots: int = 0  # concurrent tries
    avoided: float = 0.0  # no new tries until this time


@dataclass(eq=False)
class _Try:
    index: int
    node: str
    stream: Any
    begun: float
    heard: float  # time of the last heartbeat
    done: int = 0


class _Mapping:
    """One call of `RayMachines.map`: runs each shard on a machine, and again if that machine or process is lost."""

    def __init__(
        self,
        machines: RayMachines,
        work: Callable[..., Any],
        count: int,
        arguments: Callable[[int], tuple[Any, ...]],
        sees: Mapping[Path, str],
        progress: Progress | None,
    ) -> None:
        self._machines, self._pool, self._ray = machines, machines.pool, machines.pool.ray
        self._work, self._count, self._arguments, self._progress = work, count, arguments, progress
        self._sees = sees
        self._folder = "/" if all(path.is_absolute() for path in sees) else str(Path.cwd())
        self._check()
        self._actor = self._pool.actor()
        self._nodes: dict[str, _Node] = {}
        self._hosts: dict[str, str] = {}  # node → its host
        self._looks: dict[str, Any] = {}  # node → pending answer on which paths it can access
        self._refused: set[str] = set()  # nodes that joined later and are unsuitable
        self._begun = False  # True once a try has started
        self._looked = self._longest = 0.0
        self._alone: float | None = None  # time since which there is no machine
        self._told = False
        self._waiting = list(range(count))  # a heap
        self.tries: list[_Try] = []
        self._losses: Counter[int] = Counter()
        self._shown: Counter[int] = Counter()  # index → progress already reported
        self._ended: set[int] = set()
        self._values: dict[int, Any] = {}
        self._errors: dict[int, Exception] = {}

    def results(self) -> Iterator[Any]:
        """Yield the results in order.

        Raise the error of the first shard that failed, in place of its result, and PoolGone if the pool has ended.
        """
        for index in range(self._count):
            while index not in self._values:
                if index in self._errors:
                    raise self._errors[index] from None
                try:
                    self._step()
                except OSError as error:  # the pool has ended; Ray may notice it first
                    raise cluster.PoolGone(cluster.gone(self._pool.address)) from error
            yield self._values.pop(index)

    def _step(self) -> None:
        """Start tries on free machines, and process results that arrive within half a second."""
        self._check()
        if time.monotonic() - self._looked > REFRESH:
            if self._pool.watch.ended:  # calling Ray could end this process; `_check` raises if the pool is gone
                time.sleep(0.2)
                return
            self._look()
        self._start()
        if not self.tries:
            time.sleep(0.2)
            return
        streams = {attempt.stream: attempt for attempt in self.tries}
        ready, _ = self._ray.wait(list(streams), num_returns=1, timeout=0.5)
        if ready:
            ready, _ = self._ray.wait(list(streams), num_returns=len(streams), timeout=0)
        for stream in ready:
            if streams[stream] in self.tries:  # else it has been cancelled
                self._take(streams[stream])
        for attempt in list(self.tries):
            if attempt in self.tries and time.monotonic() - attempt.heard > FROZEN:
                self._lose(attempt, TimeoutError(f"without a sign from it for {FROZEN:.0f} s"))

    def _check(self) -> None:
        self._pool.watch.check()
        self._pool.watch.check_head()

    # Machines

    def _look(self) -> None:
        """Update the list of machines.

        Raise ValueError if no machine has been available for `WAIT_FOR_WORKERS` seconds or, once a try has started, for
        `TIMEOUT` seconds. Raise it also if the pool's versions differ from those of this process, or if a machine turns
        out to be unsuitable before the first try (see `_meet`).
        """
        now = time.monotonic()
        self._looked = now
        try:
            workers = self._ray.get(self._actor.live_workers.remote(), timeout=ANSWER)
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError:  # the pool is restarting, or hangs
            slots = Counter({name: node.slots for name, node in self._nodes.items()})
        else:
            slots = Counter(details["node"] for details in workers.values())
            self._hosts = {details["node"]: details["host"] for details in workers.values()}
            for details in workers.values():
                if differ := differences(versions(), details["versions"]):
                    raise ValueError(cluster.other_versions(self._pool.address, differ))
        for gone in [name for name in self._nodes if name not in slots]:
            del self._nodes[gone]
        for new in slots.keys() - self._nodes.keys() - self._looks.keys() - self._refused:
            self._looks[new] = self._remote(_machines.look, new).remote(self._folder, self._sees)
        self._meet()
        for name, node in self._nodes.items():
            node.slots = slots[name]
        if self._nodes:
            self._alone = None
            return
        self._alone = self._alone or now
        silent = now - self._alone
        if silent > (TIMEOUT if self._begun else WAIT_FOR_WORKERS):
            raise ValueError(cluster.no_worker(self._pool.address))
        if silent > SILENCE and not self._told:
            self._told = True
            logging.getLogger(__name__).warning("for %.0f s: %s", silent, cluster.no_worker(self._pool.address))

    def _meet(self) -> None:
        """Use the machines that have answered, unless they cannot access the paths or have different versions.

        For such an unsuitable machine, raise ValueError or, once a try has started, log a warning.
        """
        errors = self._ray.exceptions
        pending = list(self._looks.values())
        if not pending:
            return
        timeout = 0 if self._nodes else START  # a machine that was just lost does not answer
        ready, _ = self._ray.wait(pending, num_returns=len(pending), timeout=timeout)
        unseen, wrong = defaultdict(set), ""
        for name, reference in [item for item in self._looks.items() if item[1] in ready]:
            del self._looks[name]
            try:
                host, found, missing = self._ray.get(reference, timeout=ANSWER)
            except errors.RayTaskError as error:
                if isinstance(error.cause, errors.RayError | MemoryError):  # also lost
                    continue
                self._refused.add(name)
                host, cause = self._hosts.get(name, name), error.cause
                reason = worded(cause) if isinstance(cause, OSError) else repr(cause)
                wrong = f"{host}, of the pool at {self._pool.address}, cannot access the files: {reason}"
                continue
            except errors.RayError:  # probably lost; if not, the next update tries again
                continue
            if differ := differences(_machines.pixel_versions(), found):
                wrong = cluster.other_versions(self._pool.address, differ)
            for path in missing:
                unseen[path].add(host)
            if missing or differ:
                self._refused.add(name)
            else:
                self._nodes[name] = _Node(host)
        if unseen:
            path, hosts = min(unseen.items())
            wrong = (
                f"{path}: not found on {', '.join(sorted(hosts))}, of the pool at {self._pool.address}: --cluster needs"
                " a file system that all machines of the pool share, mounted at the same path"
            )
        if wrong and not self._begun:
            raise ValueError(wrong)
        if wrong:
            logging.getLogger(__name__).warning("a machine that joined is not used: %s", wrong)

    def _remote(self, function: Callable[..., Any], node: str, **options: Any) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        on_node = NodeAffinitySchedulingStrategy(node, soft=False)
        task = _task(self._ray, function)
        return task.options(num_cpus=0, max_retries=0, scheduling_strategy=on_node, **options)

    # Tries

    def _start(self) -> None:
        """Start tries on free machines: first of waiting shards, then second tries of late shards (see `_late`)."""
        while True:
            busy = Counter(attempt.node for attempt in self.tries)
            now = time.monotonic()
            free = [name for name, node in self._nodes.items() if node.avoided < now and busy[name] < node.slots]
            if not free:
                return
            name = max(free, key=lambda name: self._nodes[name].slots - busy[name])
            if self._waiting:
                index = heapq.heappop(self._waiting)
            else:
                late = self._late(now)
                if late is None:
                    return
                index = late
            stream = self._remote(_machines.run, name, num_returns="streaming").remote(
                self._work, self._arguments(index), self._folder
            )
            self.tries.append(_Try(index, name, stream, now, now))
            self._begun = True

    def _late(self, now: float) -> int | None:
        """Return the index of a shard to try a second time, or None.

        It is the shard with a single try that has run longest, if this try exceeds the limit set by `LATE`,
        `LATE_AT_LEAST` and `LATE_AT_FIRST`.
        """
        count = Counter(attempt.index for attempt in self.tries)
        allowed = max(LATE * self._longest, LATE_AT_LEAST) if self._longest else LATE_AT_FIRST
        late = [attempt for attempt in self.tries if now - attempt.begun > allowed and count[attempt.index] == 1]
        return min(late, key=lambda attempt: attempt.begun).index if late else None

    def _take(self, attempt: _Try) -> None:
        """Process a heartbeat or the result that a try has yielded, or the error that ended it."""
        errors = self._ray.exceptions
        try:
            done, result = self._ray.get(next(attempt.stream), timeout=FETCH)
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, errors.RayError | MemoryError):
                self._lose(attempt, cause)
            elif isinstance(cause, ValueError | OSError):
                self._fail(attempt.index, cause.with_traceback(None))
            else:
                self._fail(attempt.index, RuntimeError(f"a worker of {self._pool.address} failed: {error}"))
            return
        except (errors.RayError, StopIteration) as error:  # its process or its machine ended
            self._lose(attempt, error)
            return
        attempt.heard = time.monotonic()
        attempt.done += done
        if self._progress and attempt.done > self._shown[attempt.index]:
            self._progress(attempt.done - self._shown[attempt.index])
            self._shown[attempt.index] = attempt.done
        if result:
            self._longest = max(self._longest, time.monotonic() - attempt.begun)
            self.tries.remove(attempt)
            self._ended.add(attempt.index)
            [self._values[attempt.index]] = result
            self.cancel([other for other in self.tries if other.index == attempt.index], wait=False)

    def _lose(self, attempt: _Try, error: BaseException) -> None:
        """Cancel a lost try, and queue its shard again unless another try of it is running.

        After `TRIES` losses, record an error for the shard instead. The machine gets no new try for `AVOID` seconds.
        """
        self.cancel([attempt], wait=False)  # already ended, unless only its result was lost
        self._machines.lost += 1
        self._losses[attempt.index] += 1
        self._looked = 0.0  # check at once whether the machine is still there
        host = "a machine that is gone"
        if attempt.node in self._nodes:
            host = self._nodes[attempt.node].host
            self._nodes[attempt.node].avoided = time.monotonic() + AVOID
        if self._losses[attempt.index] < TRIES:
            if not any(other.index == attempt.index for other in self.tries):
                heapq.heappush(self._waiting, attempt.index)
            return
        reason = " ".join(str(error).split())
        self._fail(
            attempt.index,
            ValueError(
                f"shard {attempt.index} of {self._count} was lost {TRIES} times with the process that worked on it,"
                f" last on {host} ({reason[:300]}): look there for a lack of memory, or try it without --cluster"
            ),
        )

    def _fail(self, index: int, error: Exception) -> None:
        """Record an error and cancel later shards. Earlier ones continue: if one fails, its error is raised instead."""
        self._errors[index] = error
        self._waiting = [other for other in self._waiting if other < index]
        heapq.heapify(self._waiting)
        self.cancel([attempt for attempt in self.tries if attempt.index >= index])

    def cancel(self, tries: Sequence[_Try], *, wait: bool = True) -> None:
        """Cancel `tries` and remove them from `self.tries`.

        With `wait`, wait up to `CANCEL` seconds until they end, so that they write no file after the packer has cleaned
        up. If the pool has ended, Ray must not be called, and the tasks are not cancelled.
        """
        ending = list(tries)
        self.tries = [attempt for attempt in self.tries if attempt not in ending]
        if not ending or self._pool.watch.ended:
            return
        with contextlib.suppress(OSError):  # the pool is ending
            for attempt in ending:
                self._ray.cancel(attempt.stream, force=True)
            if wait:
                references = [attempt.stream.completed() for attempt in ending]
                self._ray.wait(references, num_returns=len(references), timeout=CANCEL)
