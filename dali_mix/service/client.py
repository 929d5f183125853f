"""`connect`: a pool as loaders take it."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from dali_mix.loading.chunks import Chunk, Question
from dali_mix.loading.remote import NoWorkers, Opened, Spec, WorkerLost
from dali_mix.service import cluster
from dali_mix.service.spec import versions

ANSWER = 3.0  # seconds for the pool to name a worker; after that workers are asked directly
WAIT_FOR_WORKERS = 30.0  # seconds
HEAD_CHECK, HEAD_GONE = 1.0, 8.0  # seconds between looks at the head, and until it counts as dead


def connect(address: str = "auto") -> RayPool:
    """Return the pool at `address`, HOST:PORT, or the one on this machine.

    Signal handlers stay as they are. Raise ValueError, saying what to do, if there is none or it cannot be entered.
    """
    ray, where = cluster.join(address)
    return RayPool(ray, where)


class RayPool:
    """A pool of workers on a Ray cluster that this process is connected to."""

    def __init__(self, ray: Any, address: str) -> None:
        self._ray = ray
        self.address = address

    def actor(self) -> Any:
        """Return the handle of the pool's actor. Raise ValueError if there is none."""
        try:
            return self._ray.get_actor(cluster.POOL, namespace=cluster.NAMESPACE)
        except ValueError:
            raise ValueError(f"{self.address}: a Ray cluster, but no pool of dali_mix: run `dali-mix serve`") from None

    def status(self) -> dict[str, Any]:
        """Return what `dali-mix serve --status` shows."""
        return self._ray.get(self.actor().status.remote(), timeout=30)

    def open(self, spec: Spec) -> Opened:
        """Open a set on the pool: see `loading.remote.Pool`."""
        actor, end = self.actor(), time.monotonic() + WAIT_FOR_WORKERS
        while "workers" in (found := self._ray.get(actor.open.remote(spec, versions()), timeout=90)):
            if time.monotonic() > end:
                raise ValueError(
                    f"{self.address}: the pool has no worker: start some with `dali-mix serve --join {self.address}`"
                )
            time.sleep(0.5)
        if "error" in found:
            raise (FileNotFoundError if found.get("missing") else ValueError)(f"{self.address}: {found['error']}")
        workers = RayWorkers(self._ray, self.address, actor, spec, found["key"], found["fingerprint"])
        return Opened(spec.prefix, found["count"], found["metainfo"], np.array(found["taller"], bool), workers)


@dataclass(eq=False)
class _Ticket:
    worker: str
    reference: Any


class RayWorkers:
    """The workers of a pool, for one set and pipeline: see `loading.remote.Workers`."""

    def __init__(self, ray: Any, address: str, pool: Any, spec: Spec, key: str, fingerprint: str) -> None:
        self._ray = ray
        self._address = address
        self._pool = pool
        self._spec = (key, spec, fingerprint)
        self._trainer = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
        self._tickets: dict[Any, list[_Ticket]] = {}  # by reference; two questions may share an answer
        self._handles: dict[str, Any] = {}
        self._turn = 0
        self._looked = self._alive = time.monotonic()

    def ask(self, question: Question, avoid: Collection[Any]) -> _Ticket:
        """Put a question to a worker of the pool's choice."""
        try:
            asked = self._pool.ask.remote(*self._spec, question, sorted(avoid), self._trainer)
            found = self._ray.get(asked, timeout=ANSWER)
            if not self._handles:
                self._handles = self._ray.get(self._pool.workers.remote(), timeout=ANSWER)
        except self._ray.exceptions.RayError:  # the pool is restarted, or frozen
            found = self._ask_directly(question, avoid)
        if found is None:
            raise NoWorkers
        [reference], worker = found
        ticket = _Ticket(worker, reference)
        self._tickets.setdefault(reference, []).append(ticket)
        return ticket

    def _ask_directly(self, question: Question, avoid: Collection[Any]) -> Any:
        names = sorted(self._handles, key=lambda name: name in avoid)
        names = [name for name in names if name not in avoid] or names
        if not names:
            return None
        self._turn += 1
        name = names[self._turn % len(names)]
        answer = self._handles[name].answer.options(num_returns=2).remote(*self._spec, question)
        return [answer[0]], name

    def wait(self, timeout: float) -> list[tuple[_Ticket, Chunk | Exception]]:
        """Return the tickets answered, with their answers."""
        self._check_head()
        references = list(self._tickets)
        if not references:
            time.sleep(timeout)
            return []
        ready, _ = self._ray.wait(references, num_returns=1, timeout=timeout, fetch_local=True)
        found: list[tuple[_Ticket, Chunk | Exception]] = []
        for reference in ready:
            answer = self._get(reference)
            found += [(ticket, answer) for ticket in self._tickets.pop(reference)]
            self._alive = time.monotonic()
        return found

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
            return WorkerLost(str(error))

    def drop(self, ticket: _Ticket) -> None:
        """Forget a ticket."""
        tickets = self._tickets.get(ticket.reference, [])
        if ticket in tickets:
            tickets.remove(ticket)
            if not tickets:
                del self._tickets[ticket.reference]

    def close(self) -> None:
        """Forget all tickets."""
        self._tickets.clear()

    def _check_head(self) -> None:
        """Raise RuntimeError when the head has not answered for `HEAD_GONE` seconds."""
        now = time.monotonic()
        if now - self._looked < HEAD_CHECK or now - self._alive < HEAD_CHECK:
            return
        self._looked = now
        if cluster.reachable(*cluster.split_address(self._address)):
            self._alive = now
        elif now - self._alive > HEAD_GONE:
            raise RuntimeError(
                f"the pool at {self._address} is gone: start it again with `dali-mix serve`, then go on with --resume"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        key, spec, fingerprint = self._spec
        return _reconnected, (self._address, spec, key, fingerprint)


def _reconnected(address: str, spec: Spec, key: str, fingerprint: str) -> RayWorkers:
    pool = connect(address)
    return RayWorkers(pool._ray, address, pool.actor(), spec, key, fingerprint)
