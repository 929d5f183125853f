"""`FakeWorkers`: a pool without processes on a simulated clock, whose workers can die, freeze and recover."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from dali_mix.loading.chunks import Chunk, Question
from dali_mix.loading.workers import NoWorkers, WorkerLost


class Clock:
    """Simulated time in seconds, advanced only by `wait` and the tests."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass(eq=False)
class Ticket:
    worker: str
    question: Question


@dataclasses.dataclass
class Worker:
    """A worker that takes between `latency[0]` and `latency[1]` seconds per chunk.

    If `serial`, it handles one chunk at a time, otherwise all chunks concurrently.
    """

    latency: tuple[float, float] = (0.05, 0.2)
    serial: bool = False
    frozen: bool = False
    gone: bool = False  # its pending questions are lost
    listed: bool = True  # whether the pool lists it
    free: float = 0.0
    suspected: float = 0.0  # until this time, other workers are preferred


def answer(question: Question, bad: Collection[int] = ()) -> Chunk:
    """Return the chunk for a question: images (n, 3, 2, 2) and targets (n,) computed from record numbers and epoch."""
    rows = np.array([row for row in question.rows.tolist() if row not in bad], np.int64)
    found = tuple((row, f"record {row}: bad", row % 2 == 0) for row in question.rows.tolist() if row in bad)
    images = np.empty((len(rows), 3, 2, 2), np.uint8)
    images[:] = ((rows * 7 + question.epoch * 31)[:, None] + np.arange(12)).reshape(images.shape) % 251
    images.flags.writeable = False
    return Chunk(rows, images, rows * 3 + question.epoch, None, found)


class FakeWorkers:
    """A simulated pool that implements `Workers`.

    `log` has (time, worker, question) for every question sent to a worker.

    Args:
        count: number of workers, or name → `Worker`.
        answer: function that returns the answer to a question.
        twice: probability that an answer is delivered twice; without effect if `one_by_one`.
        losing: probability that an answer is lost (`WorkerLost`).
        one_by_one: whether `wait` returns at most one answer per call.
    """

    def __init__(
        self,
        count: int | dict[str, Worker] = 3,
        *,
        seed: int = 0,
        answer: Callable[[Question], Any] = answer,
        twice: float = 0.0,
        losing: float = 0.0,
        one_by_one: bool = False,
    ) -> None:
        self.clock = Clock()
        self.workers = count if isinstance(count, dict) else {f"w{number}": Worker() for number in range(count)}
        self.random = random.Random(seed)
        self.log: list[tuple[float, str, Question]] = []
        self.script: list[tuple[float, Callable[[], None]]] = []  # (time, event)
        self.refused = self.closed = self.dropped = 0
        self.before_wait: Callable[[], None] = dict  # any callable without effect
        self.most = 0  # largest number of chunks held or pending since a test set it to 0
        self._answer = answer
        self._twice = twice
        self._losing = losing
        self._one_by_one = one_by_one
        self._ready: list[tuple[Any, Any]] = []
        self._open: set[Ticket] = set()
        self._events: list[tuple[float, int, Ticket]] = []
        self._count = itertools.count()
        self._chunks: WeakKeyDictionary[Chunk, bytes] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        fresh = {"_open": set(), "_events": [], "_ready": [], "_chunks": None, "script": [], "log": []}
        return vars(self) | fresh

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _chunks=WeakKeyDictionary())

    def ask(self, question: Question, avoid: Collection[Any]) -> Ticket:
        self._run_script()
        for name in avoid:
            self.workers[name].suspected = self.clock.now + 5
        able = [name for name, worker in self.workers.items() if worker.listed and name not in avoid]
        able = [name for name in able if self.workers[name].suspected <= self.clock.now] or able
        if not able:
            self.refused += 1
            raise NoWorkers
        name = self.random.choice(able)
        worker, ticket = self.workers[name], Ticket(name, question)
        begin = max(self.clock.now, worker.free) if worker.serial else self.clock.now
        worker.free = begin + self.random.uniform(*worker.latency)
        self._open.add(ticket)
        self._push(worker.free, ticket)
        self.log.append((self.clock.now, name, question))
        self.count()
        return ticket

    def wait(self, timeout: float) -> list[tuple[Any, Any]]:
        self.before_wait()
        end = self.clock.now + timeout
        while True:
            self._ready += self._due_answers()
            if self._ready:
                cut = 1 if self._one_by_one else len(self._ready)
                ready, self._ready = self._ready[:cut], self._ready[cut:]
                self.count()
                return ready
            if self.clock.now >= end:
                return []
            times = [self._events[0][0]] if self._events else []
            times += [self.script[0][0]] if self.script else []
            self.clock.now = min([end, *(max(time, self.clock.now) for time in times)])

    def drop(self, ticket: Ticket) -> None:
        self.dropped += ticket in self._open
        self._open.discard(ticket)
        self._ready = [(other, answer) for other, answer in self._ready if other is not ticket]

    def close(self) -> None:
        self.closed += 1
        self._open.clear()
        self._ready.clear()

    @property
    def under_way(self) -> int:
        """The number of tickets that are not answered, lost or dropped."""
        return len(self._open)

    @property
    def asked(self) -> Counter[bytes]:
        """The number of times each question was sent to a worker."""
        return Counter(question.key for _, _, question in self.log)

    def count(self) -> None:
        """Update `most` with the number of chunks that are pending or held by the source."""
        questions = {ticket.question.key for ticket in self._open}
        self.most = max(self.most, len(questions.union(self._chunks.values())))

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Call `what` once the clock has advanced by `seconds`."""
        self.script = sorted([*self.script, (self.clock.now + seconds, what)], key=lambda entry: entry[0])

    def change(self, name: str, **state: bool) -> None:
        for key, value in state.items():
            setattr(self.workers[name], key, value)

    def _push(self, time: float, ticket: Ticket) -> None:
        heapq.heappush(self._events, (time, next(self._count), ticket))

    def _run_script(self) -> None:
        while self.script and self.script[0][0] <= self.clock.now:
            self.script.pop(0)[1]()

    def _due_answers(self) -> list[tuple[Any, Any]]:
        self._run_script()
        ready: list[tuple[Any, Any]] = []
        while self._events and self._events[0][0] <= self.clock.now:
            _, _, ticket = heapq.heappop(self._events)
            if ticket not in self._open:
                continue
            worker = self.workers[ticket.worker]
            if worker.frozen and not worker.gone:
                self._push(self.clock.now + 0.3, ticket)
                continue
            self._open.discard(ticket)
            if worker.gone or self.random.random() < self._losing:
                ready.append((ticket, WorkerLost(ticket.worker)))
                continue
            found = self._answer(ticket.question)
            if isinstance(found, Chunk):
                self._chunks[found] = ticket.question.key
            ready += [(ticket, found)] * (1 + (not self._one_by_one and self.random.random() < self._twice))
        self.random.shuffle(ready)
        return ready
