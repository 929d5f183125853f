"""`RemoteSource`: batches cut out of chunks that a pool of workers decodes, in the order of a `Schedule`.

A chunk is a pure function of its question, so any worker may answer, twice or again; the first answer counts. The
trainer keeps order and asks again itself: it has some chunks under way, waits for those of the step that is due, and
asks another worker where one is late or its worker is lost. Nothing here knows how workers are reached: see `Workers`.
"""

from __future__ import annotations

import dataclasses
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from dali_mix.loading.bad_records import BadRecords
from dali_mix.loading.chunks import Chunk, Question, cut, numbers_of, question
from dali_mix.loading.order import Schedule, Step
from dali_mix.loading.source import Fetched, Source
from dali_mix.pipelines import Pipeline

WINDOW = 4  # chunks under way beyond those of the step that is due
PATIENCE = 1.0, 4.0  # a chunk is late after so many seconds, or so many times the median of what chunks took
FIRST_PATIENCE = 15.0  # seconds, before any chunk has come: workers start their pipelines
SILENCE = 30.0  # seconds without any worker until a word about it
LATENCIES = 64  # chunks that the median is of


class WorkerLost(Exception):
    """The worker that was asked cannot answer; another can."""


class NoWorkers(Exception):
    """There is no worker to ask."""


class Ticket(Protocol):
    """A question that was put to a worker."""

    @property
    def worker(self) -> Hashable:
        """Identifies the worker."""


class Workers(Protocol):
    """A pool of workers that decode one set by one pipeline."""

    def ask(self, question: Question, avoid: Collection[Hashable]) -> Ticket:
        """Put a question to a worker, if possible to none of `avoid`, and return at once. Raise NoWorkers."""

    def wait(self, timeout: float) -> list[tuple[Any, Chunk | Exception]]:
        """Return the tickets answered since the last call, each once, waiting for one for at most `timeout` seconds.

        An answer is a chunk; WorkerLost; or another exception, which every worker would raise.
        """

    def drop(self, ticket: Any) -> None:
        """Forget a ticket: its answer is not wanted. One answered or dropped already is ignored."""

    def close(self) -> None:
        """Forget all tickets."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """What workers are to decode: a set and a pipeline by name. `decode`: on "cpu", "gpu", or "auto": as they do."""

    prefix: Path
    pipeline: str
    options: Mapping[str, Any]
    train: bool
    seed: int
    decode: str
    verify_crc: bool


@dataclasses.dataclass(frozen=True)
class Opened:
    """A set that a pool has opened, and who decodes it. metainfo, taller: those of `RecordSet`."""

    prefix: Path
    count: int
    metainfo: dict[str, Any]
    taller: np.ndarray
    workers: Workers

    def __len__(self) -> int:
        return self.count


class Pool(Protocol):
    """A pool of workers, before it is known what for."""

    def open(self, spec: Spec) -> Opened:
        """Open a set. Raise ValueError or FileNotFoundError for one that cannot be decoded there."""


@dataclasses.dataclass(eq=False)
class _Piece:
    """A chunk that a step under way needs: asked for, or here."""

    question: Question
    tickets: list[Any] = dataclasses.field(default_factory=list)
    tried: set[Hashable] = dataclasses.field(default_factory=set)
    asked: float = 0.0
    chunk: Chunk | None = None


class RemoteSource(Source):
    """Takes steps from `workers`. `normalizing`: into float32 on the CPU, in the pass that cuts a step out of chunks.

    Args:
        timeout: seconds without any answer to a question after which it is a RuntimeError.
        clock: a function that returns seconds; for tests.

    Attributes:
        second_asks: questions that were put to more than one worker, so far.
        waited: seconds that `fetch` waited for chunks, so far.
    """

    def __init__(
        self,
        workers: Workers,
        pipeline: Pipeline,
        schedule: Schedule,
        bad: BadRecords,
        *,
        device: torch.device,
        normalizing: bool,
        timeout: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(schedule, device)
        self._workers = workers
        self._normalizer = pipeline if normalizing and pipeline.image_size is not None else None
        self._bad = bad
        self._timeout = timeout
        self._clock = clock
        self.second_asks = 0
        self.waited = 0.0
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self._idle()

    def _idle(self) -> None:
        self._orders: dict[int, np.ndarray] = {}
        self._steps: Iterator[Step] = iter(())
        self._planned: deque[Step] = deque()
        self._pieces: dict[tuple[int, int], _Piece] = {}

    def fetch(self, epoch: int, position: int) -> Fetched:
        self._plan(epoch, position)
        step = self._planned[0]
        pieces = [self._pieces[epoch, number] for number in numbers_of(step)]
        self._await(pieces)
        self._planned.popleft()
        self._forget({(later.epoch, number) for later in self._planned for number in numbers_of(later)})
        chunks = [piece.chunk for piece in pieces if piece.chunk is not None]
        own = set(step.rows.tolist())
        for chunk in chunks:
            for row, reason, decode in chunk.bad:
                if row in own:
                    self._bad.found(row, reason, decode=decode)
        share = cut(chunks, step.rows, self._normalizer)
        return Fetched(step, share.rows, share.images, share.targets, share.sizes)

    def close(self) -> None:
        self._workers.close()
        self._idle()

    def abandon(self) -> None:
        super().abandon()
        self._idle()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_steps": iter(()), "_planned": deque(), "_pieces": {}}

    # What is under way

    def _plan(self, epoch: int, position: int) -> None:
        """Ask for the chunks of the step due and of steps after it."""
        if not self._planned or (self._planned[0].epoch, self._planned[0].start) != (epoch, position):
            self._planned.clear()
            self._steps = self._schedule.steps_from(epoch, position)
            self._planned.append(next(self._steps))
        due = len(numbers_of(self._planned[0]))
        while len(wanted := self._wanted()) < due + WINDOW:
            step = next(self._steps, None)
            # Nobody may want another epoch of an evaluation, nor the one after the next.
            if step is None or step.epoch > epoch + self._schedule.train:
                break
            self._planned.append(step)
        self._forget(wanted)
        for number in sorted(wanted - self._pieces.keys()):
            self._pieces[number] = _Piece(question(self._order(number[0]), *number))
            self._ask(self._pieces[number])

    def _wanted(self) -> set[tuple[int, int]]:
        return {(step.epoch, number) for step in self._planned for number in numbers_of(step)}

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {known: order for known, order in self._orders.items() if known + 1 == epoch}
            self._orders[epoch] = self._schedule.order(epoch)
        return self._orders[epoch]

    def _forget(self, wanted: Collection[tuple[int, int]]) -> None:
        for number in [number for number in self._pieces if number not in wanted]:
            for ticket in self._pieces.pop(number).tickets:
                self._workers.drop(ticket)

    # Asking and waiting

    def _ask(self, piece: _Piece) -> bool:
        """Put a question to a worker that was not asked before, if there is one. Return False if there is no worker."""
        try:
            ticket = self._workers.ask(piece.question, piece.tried)
        except NoWorkers:
            return False
        self.second_asks += len(piece.tried) == 1
        piece.tickets.append(ticket)
        piece.tried.add(ticket.worker)
        piece.asked = self._clock()
        return True

    def _await(self, pieces: list[_Piece]) -> None:
        """Wait until all `pieces` are here."""
        begun = heard = self._clock()
        silent = told = False
        while any(piece.chunk is None for piece in pieces):
            now, reached = self._clock(), True
            for piece in self._pieces.values():
                if piece.chunk is None and (not piece.tickets or now - piece.asked > self._patience(piece)):
                    reached = self._ask(piece) and reached
            for ticket, answer in self._workers.wait(0.1 if not reached else self._next_look(now)):
                heard = self._clock()
                self._take(ticket, answer)
            now = self._clock()
            silent = silent or not reached
            if now - heard > SILENCE and not told:
                told = True
                logging.getLogger(__name__).warning(
                    "no worker for %.0f s: start one with `dali-mix serve --join ADDRESS`, training goes on then"
                    if silent
                    else "no answer from any worker for %.0f s: `dali-mix serve --status` shows what they do",
                    now - heard,
                )
            if now - heard > self._timeout:
                raise RuntimeError(
                    f"{'no worker' if silent else 'no answer from any worker'} for {now - heard:.0f} s: look at"
                    " `dali-mix serve --status`, then start the training again with --resume"
                )
        self.waited += self._clock() - begun

    def _patience(self, piece: _Piece) -> float:
        if not self._latencies:
            return FIRST_PATIENCE
        patience = max(PATIENCE[0], PATIENCE[1] * statistics.median(self._latencies))
        return patience * 2 ** (len(piece.tickets) - 1)

    def _next_look(self, now: float) -> float:
        """Return the seconds until the next question under way is late."""
        late = [piece.asked + self._patience(piece) for piece in self._pieces.values() if piece.chunk is None]
        return min(1.0, max(0.01, min(late, default=now) - now))

    def _take(self, ticket: Any, answer: Chunk | Exception) -> None:
        piece = next((piece for piece in self._pieces.values() if ticket in piece.tickets), None)
        if piece is None or piece.chunk is not None:
            return
        if isinstance(answer, WorkerLost):
            piece.tickets.remove(ticket)
            return
        if isinstance(answer, Exception):
            self.close()
            raise answer
        self._latencies.append(self._clock() - piece.asked)
        piece.chunk = answer
        for other in piece.tickets:
            if other is not ticket:
                self._workers.drop(other)
