"""The client of a pool: `connect`, and the workers that loaders ask."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from dali_mix import pipelines
from dali_mix.loading.chunks import Chunk, Question
from dali_mix.loading.workers import NoWorkers, Opened, Spec, WorkerDied, WorkerLost
from dali_mix.options import choice
from dali_mix.recordio import RecordSet
from dali_mix.service import cluster
from dali_mix.service.spec import Code, code_differences, code_of, differences, key_of, versions

ANSWER = 3.0  # seconds for the pool to name a worker
DIRECTLY = 5.0  # seconds to ask workers directly after the pool did not answer
REFRESH = 10.0  # seconds between updates of the list of workers
OPEN = 20.0  # seconds for a worker to open a set before another is tried
WAIT_FOR_WORKERS = 20.0  # seconds
RESTART = 25.0  # seconds for the pool's actor to start again


def connect(address: str = "auto", *, fallback: str = "wait") -> RayPool:
    """Connect to the pool at `address`: HOST[:PORT], or "auto" for one on this machine (see `cluster.split_address`).

    Signal handlers are left unchanged. Raise ValueError, with advice, if Ray, the token or the pool is missing, or the
    connection fails.

    Args:
        fallback: what loaders do while there are no workers. With "wait", they wait for one up to ten minutes, or 20
            seconds when a loader is built. With "local", they decode in their own process, which needs the set at the
            same path, and a GPU if the workers decode on GPUs. If the workers decode on CPUs, the results are
            bit-identical.
    """
    choice("fallback", fallback, ("wait", "local"))
    ray, where = cluster.join(address)
    pool = copy.copy(_pool(ray, where, ray.get_runtime_context().get_job_id()))
    pool.fallback = fallback
    return pool


@functools.cache
def _pool(ray: Any, address: str, connection: str) -> RayPool:
    """Return the pool at `address`, the same object for the same connection, since each pool starts a `Watch`.

    `connection` is the id of Ray's job, which changes when this process connects again.
    """
    return RayPool(ray, address)


class RayPool:
    """A pool of workers on a Ray cluster that this process is connected to. `fallback`: see `connect`."""

    fallback = "wait"

    def __init__(self, ray: Any, address: str) -> None:
        self.ray = ray
        self.address = address
        self.watch = cluster.Watch(ray, address)

    def close(self) -> None:
        """Disconnect this process from the cluster. Loaders that use the pool can no longer be used."""
        self.watch.close()
        self.ray.shutdown()

    def actor(self) -> Any:
        """Return the handle of the pool's actor. Raise ValueError if there is none, and the errors of `Watch.check`."""
        self.watch.check()
        return cluster.pool_actor(self.ray, self.address)

    def status(self) -> dict[str, Any]:
        """Return the pool's status, shown by `dali-mix serve --status`: see `pool.Pool.status`."""
        return self._of_pool("status")

    def _of_pool(self, method: str) -> Any:
        """Call `method` of the pool's actor and return its result.

        While the actor restarts, call it again. Raise ValueError if it still does not answer after `RESTART` seconds,
        PoolGone if the pool has ended, and RayTaskError if the method itself raises an error.
        """
        end = time.monotonic() + RESTART
        while True:
            try:
                return self.ray.get(getattr(self.actor(), method).remote(), timeout=RESTART)
            except self.ray.exceptions.RayTaskError:
                raise
            except self.ray.exceptions.RayError:
                self.watch.check()
                self.watch.check_head()
                if time.monotonic() > end:
                    raise ValueError(
                        f"{self.address}: the pool does not answer: look at the output of `dali-mix serve`"
                    ) from None
            time.sleep(0.2)

    def open(self, spec: Spec) -> Opened:
        """Open a set on the pool: see `loading.workers.Pool`.

        If no worker joins within `WAIT_FOR_WORKERS` seconds, open the set in this process if the fallback is "local",
        and raise ValueError if it is "wait".
        """
        actor, end = self.actor(), time.monotonic() + WAIT_FOR_WORKERS
        code = code_of(pipelines.build(spec.pipeline, spec.train, spec.options))
        key_of(spec, "")  # raise for invalid specs before waiting
        while not (workers := self._of_pool("workers")):
            if time.monotonic() > end:
                if self.fallback == "local":
                    return self._open_here(spec, actor, code)
                raise ValueError(cluster.no_worker(self.address))
            time.sleep(0.5)
        for name, details in workers.items():
            if differ := differences(versions(), details["versions"]):
                raise ValueError(cluster.other_versions(self.address, differ))
            if spec.decode not in ("auto", details["decode"]):
                raise ValueError(
                    f"{self.address}: decode={spec.decode!r}, but the pool decodes on the {details['decode'].upper()}"
                )
            try:
                handle = self.ray.get_actor(name, namespace=cluster.NAMESPACE)
                found = self.ray.get(handle.describe_set.remote(spec), timeout=OPEN)
            except self.ray.exceptions.RayTaskError as error:
                kind = FileNotFoundError if isinstance(error.cause, FileNotFoundError) else ValueError
                raise kind(f"{self.address}: {error.cause}") from None
            except (self.ray.exceptions.RayError, ValueError):  # this worker died or hangs
                continue
            if differ := code_differences(code, found["code"], details["host"]):
                raise ValueError(f"{self.address}: {differ}: make the files equal, and restart the workers")
            fingerprint = found["metainfo"]["fingerprint"]
            key = key_of(spec, fingerprint, code)
            opened = RayWorkers(self.ray, self.address, actor, self.watch, spec, key, fingerprint)
            local = details["decode"] if self.fallback == "local" else None
            taller = np.array(found["taller"], bool)
            return Opened(spec.prefix, found["count"], found["metainfo"], taller, opened, local)
        raise ValueError(f"{self.address}: no worker opened {spec.prefix}: look at `dali-mix serve --status`")

    def _open_here(self, spec: Spec, actor: Any, code: Code) -> Opened:
        """Open a set while the pool has no workers: this process reads its metadata, and decodes until workers join."""
        records = RecordSet(spec.prefix)
        key = key_of(spec, records.fingerprint, code)
        opened = RayWorkers(self.ray, self.address, actor, self.watch, spec, key, records.fingerprint)
        local = "gpu" if spec.decode == "gpu" else "cpu"
        return Opened(spec.prefix, len(records), records.metainfo, records.taller, opened, local)


@dataclass(eq=False)
class _Ticket:
    worker: str
    reference: Any


class RayWorkers:
    """The workers of a pool, for one set and pipeline: see `loading.workers.Workers`."""

    def __init__(
        self, ray: Any, address: str, pool: Any, watch: cluster.Watch, spec: Spec, key: str, fingerprint: str
    ) -> None:
        self._ray = ray
        self._address = address
        self._pool = pool
        self._watch = watch
        self._spec = (key, spec, fingerprint)
        self._trainer = f"{socket.gethostname()}:{os.getpid()}"
        self._tickets: dict[Any, list[_Ticket]] = {}  # by object reference; questions may share an answer
        self._known: list[tuple[str, Any]] = []  # workers' names and handles
        self._refreshed = self._pool_lost = -math.inf
        self._turn = 0

    def ask(self, question: Question, avoid: Collection[Any]) -> _Ticket:
        """Send a question to a worker chosen by the pool, or to any worker while the pool does not answer.

        Return the ticket. Raise NoWorkers if there is no worker outside `avoid`, a collection of names, and
        RuntimeError if the pool's actor fails. The errors of `Watch.check` are raised too.
        """
        self._watch.check()
        reference, worker = self._ask(question, avoid)
        ticket = _Ticket(worker, reference)
        self._tickets.setdefault(reference, []).append(ticket)
        return ticket

    def _ask(self, question: Question, avoid: Collection[str]) -> tuple[Any, str]:
        found, errors = None, self._ray.exceptions
        if time.monotonic() - self._pool_lost > DIRECTLY:
            try:
                found = self._ask_pool(question, avoid)
                if found is None:
                    raise NoWorkers
            except errors.RayTaskError as error:  # it would fail again
                raise RuntimeError(f"the pool at {self._address} failed: {error}") from None
            except errors.RayError:  # the pool is restarting, or hangs
                self._pool_lost = time.monotonic()
        return found or self._ask_directly(question, avoid)

    def _ask_pool(self, question: Question, avoid: Collection[str]) -> tuple[Any, str] | None:
        asked = self._pool.ask.remote(*self._spec, question, sorted(avoid), self._trainer)
        if time.monotonic() - self._refreshed > REFRESH:
            names = self._ray.get(self._pool.workers.remote(), timeout=ANSWER)
            self._known = [(name, handle) for name in names if (handle := self._handle(name)) is not None]
            self._refreshed = time.monotonic()
        found = self._ray.get(asked, timeout=ANSWER)
        return found and (found[0][0], found[1])

    def _handle(self, name: str) -> Any:
        for known, handle in self._known:
            if known == name:
                return handle
        with contextlib.suppress(ValueError):  # it has ended
            return self._ray.get_actor(name, namespace=cluster.NAMESPACE)
        return None

    def _ask_directly(self, question: Question, avoid: Collection[str]) -> tuple[Any, str]:
        workers = [(name, handle) for name, handle in self._known if name not in avoid]
        if not workers:
            raise NoWorkers
        self._turn += 1
        name, handle = workers[self._turn % len(workers)]
        return handle.answer.options(num_returns=2).remote(*self._spec, question)[0], name

    def wait(self, timeout: float) -> list[tuple[_Ticket, Chunk | Exception]]:
        """Return (ticket, answer) pairs: see `loading.workers.Workers`."""
        self._watch.check()
        self._watch.check_head()
        references = list(self._tickets)
        if not references:
            time.sleep(timeout)
            return []
        try:
            ready, others = self._ray.wait(references, num_returns=1, timeout=timeout, fetch_local=True)
        except OSError as error:  # the raylet has ended; the watch may not have noticed yet
            raise cluster.PoolGone(cluster.gone(self._address)) from error
        if ready and others:
            ready += self._ray.wait(others, num_returns=len(others), timeout=0, fetch_local=True)[0]
        answers = [(reference, self._get(reference)) for reference in ready]
        return [(ticket, answer) for reference, answer in answers for ticket in self._tickets.pop(reference)]

    def _get(self, reference: Any) -> Chunk | Exception:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference, timeout=10)
        except errors.RayTaskError as error:
            if isinstance(error.cause, errors.RayError | MemoryError):
                return WorkerLost(str(error.cause))
            if isinstance(error.cause, ValueError | OSError):
                return type(error.cause)(str(error.cause))
            return RuntimeError(f"a worker of {self._address} failed: {error}")
        except errors.RayError as error:  # its process or its machine died, or the answer was lost with the pool
            # Only the message tells whether the process had the question when it died, or was still restarting.
            died = isinstance(error, errors.ActorUnavailableError) and "is restarting" not in str(error)
            return (WorkerDied if died else WorkerLost)(str(error))

    def drop(self, ticket: _Ticket) -> None:
        """Discard a ticket, so that `wait` does not return its answer."""
        tickets = self._tickets.get(ticket.reference, [])
        if ticket in tickets:
            tickets.remove(ticket)
            if not tickets:
                del self._tickets[ticket.reference]

    def close(self) -> None:
        """Discard all tickets."""
        self._tickets.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        key, spec, fingerprint = self._spec
        return _reconnected, (self._address, spec, key, fingerprint)


def _reconnected(address: str, spec: Spec, key: str, fingerprint: str) -> RayWorkers:
    pool = connect(address)
    return RayWorkers(pool.ray, address, pool.actor(), pool.watch, spec, key, fingerprint)
