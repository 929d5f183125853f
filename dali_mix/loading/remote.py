"""`RemoteSource`: batches cut from chunks decoded by a worker pool, in the order of a `Schedule`.

A chunk is a pure function of its question, so any worker may answer it, even several; the first answer counts. The
trainer keeps the order and repeats questions itself: it requests several chunks ahead, waits for those of the current
step, and asks another worker if a chunk is late or lost. How workers are reached is up to the `Workers` object.

More than 300 lines: one class, whose table of pieces is shared by planning, asking and waiting.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
import torch

from dali_mix.loading.bad_records import BadRecords
from dali_mix.loading.chunks import POSITIONS, Chunk, Question, cut, numbers_of, question
from dali_mix.loading.decoder import Decoder
from dali_mix.loading.order import Schedule, Step
from dali_mix.loading.source import Fetched, Source
from dali_mix.loading.workers import NoWorkers, WorkerDied, WorkerLost, Workers
from dali_mix.pipelines import Pipeline

WINDOW = 4  # chunks requested or received beyond those of the current step; raised to the number that a step needs
PATIENCE = 1.0, 4.0  # a chunk is late after 1 s or 4 times the median latency, whichever is longer
FIRST_PATIENCE = 15.0  # seconds until the first chunk is late; workers start their pipelines first
DEATHS = 4  # worker deaths per chunk until an error; after half as many, the chunk is a suspect
PAUSES = 0.1, 5.0  # shortest and longest delay in seconds before a question is repeated; none after its first loss
SILENCE = 30.0  # seconds without any chunk until a warning
ALONE = 10.0  # seconds without any chunk until this process decodes, if allowed
PROBE = 10.0  # seconds until another worker is probed while this process decodes
LATENCIES = 64  # number of latencies in the median
WARNINGS = {
    False: "no worker for %.0f s: start one with `dali-mix serve --join ADDRESS`",
    True: "no answer from any worker for %.0f s: `dali-mix serve --status` shows what they do",
}


@dataclasses.dataclass(eq=False)
class _Piece:
    """A chunk of the current or a later step, requested or received."""

    question: Question
    tickets: list[tuple[Any, float]] = dataclasses.field(default_factory=list)  # pending, with the times they were sent
    tried: set[Hashable] = dataclasses.field(default_factory=set)  # workers that were asked
    asks: int = 0
    losses: int = 0
    deaths: int = 0  # losses because a process died
    again: float = 0.0  # earliest time of the next request
    chunk: Chunk | None = None

    @property
    def suspect(self) -> bool:
        """Return True if at least `DEATHS` // 2 workers died with the question. A record may crash any process."""
        return self.deaths >= DEATHS // 2


class RemoteSource(Source):
    """A source whose steps are cut from chunks that `workers` decode.

    It holds at most `window` chunks, received or pending, beyond those of the current step.

    Args:
        normalizing: normalize to float32 on the CPU while a step is cut from its chunks.
        window: number of chunks; raised to the batch size divided by `POSITIONS`, rounded up, if it is lower.
        timeout: seconds without a new chunk after which `fetch` raises RuntimeError.
        local: a decoder that answers questions in this process, one chunk at a time, while no worker answers.
        clock: a function that returns the time in seconds; tests replace it.

    Attributes:
        second_asks: number of questions sent to workers more than once.
        waited: total seconds that `fetch` waited for chunks.
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
        window: int = WINDOW,
        timeout: float = 600.0,
        local: Decoder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(schedule, device)
        self._workers = workers
        self._normalizer = pipeline if normalizing else None
        self._bad = bad
        self._window = max(window, -(-schedule.batch_size // POSITIONS))
        self._timeout = timeout
        self._local = local
        self._alone = False  # True while this process decodes because no worker answers
        self._clock = clock
        self.second_asks = 0
        self.waited = 0.0
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self._idle()

    def _idle(self) -> None:
        self._next: tuple[int, int] | None = None  # epoch and position after the last step; None after a restart
        self._orders: dict[int, np.ndarray] = {}
        self._coming: Iterator[tuple[int, int]] = iter(())  # keys (epoch, number) not yet requested
        self._wanted: deque[tuple[int, int]] = deque()
        self._pieces: dict[tuple[int, int], _Piece] = {}  # by key, within the window
        self._looked = 0.0  # when answers were last collected
        self._probe: tuple[Any, float, _Piece] | None = None  # while alone: the question sent to a worker

    def fetch(self, epoch: int, position: int) -> Fetched:
        moved, self._next = self._next != (epoch, position), None  # None, in case of an interrupt
        step = self._schedule.step(self._order(epoch), epoch, position)
        keys = [(epoch, number) for number in numbers_of(step)]
        with self.clock.part("service"):
            self._plan(step, keys, moved)
            chunks = self._await([self._pieces[key] for key in keys])
        own = set(step.rows.tolist()) if any(chunk.bad for chunk in chunks) else set()
        for row, reason, decode in (bad for chunk in chunks for bad in chunk.bad if bad[0] in own):
            self._bad.found(row, reason, decode=decode)
        if len(self._bad) == self._schedule.count:
            raise ValueError(f"{self._bad.prefix}: none of its records can be read: {self._bad.skipped[0][1]}")
        with self.clock.part("finishing"):
            share = cut(chunks, step.rows, self._normalizer)
        self._next = (epoch, step.end)
        if self._schedule.train and not self._schedule.steps_left(step.end):
            self._next = (epoch + 1, 0)
        return Fetched(step, share.rows, share.images, share.targets, share.sizes)

    def close(self) -> None:
        self._workers.close()
        if self._local is not None:
            self._local.close()
        self._idle()

    def abandon(self) -> None:
        super().abandon()
        if self._local is not None:
            self._local.abandon()
        self._idle()

    def __getstate__(self) -> dict[str, Any]:
        idle = RemoteSource.__new__(RemoteSource)
        idle._idle()
        return super().__getstate__() | vars(idle)

    # Pending chunks

    def _plan(self, step: Step, due: list[tuple[int, int]], moved: bool) -> None:
        """Request the chunks of `step` and of the window after it that are not yet requested, and drop all others.

        `due` are the keys of the step's chunks. `moved` is True if the step does not follow the previous one. While
        this process decodes because no worker answers, new chunks are listed in `_pieces` but not requested.
        """
        if moved:
            self._wanted.clear()
            self._coming = self._keys(step.epoch, step.start)
        while self._wanted and self._wanted[0] < due[0]:
            self._wanted.popleft()
        self._wanted.extend(itertools.islice(self._coming, len(due) + self._window - len(self._wanted)))
        for key in self._pieces.keys() - self._wanted:
            self._drop(self._pieces.pop(key))
        now = self._clock()
        for key in self._wanted:
            if key not in self._pieces:
                epoch, number = key
                self._pieces[key] = piece = _Piece(question(self._order(epoch), epoch, number))
                if not self._alone:
                    self._ask(piece, now)

    def _keys(self, epoch: int, position: int) -> Iterator[tuple[int, int]]:
        """Yield the key (epoch, number) of each chunk that this rank needs from `position` of `epoch` on, in order.

        In evaluation, stop at the end of the epoch. In training, continue with the following epochs, forever.
        """
        while True:
            last = -1
            while self._schedule.steps_left(position):
                step = self._schedule.step(self._order(epoch), epoch, position)
                for number in numbers_of(step):
                    if number > last:
                        yield epoch, number
                        last = number
                position = step.end
            if not self._schedule.train:
                return
            epoch, position = epoch + 1, 0

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = dict(list(self._orders.items())[-1:])  # keep at most two, as they may be large
            self._orders[epoch] = self._schedule.order(epoch)
        return self._orders[epoch]

    def _drop(self, piece: _Piece) -> None:
        for ticket, _ in piece.tickets:
            self._workers.drop(ticket)
        piece.tickets.clear()

    # Asking and waiting

    def _ask(self, piece: _Piece, now: float) -> bool:
        """Send the question of `piece` to a worker that was not asked yet, else to one that lost the question.

        A worker that still has the question is not asked again, since a single slow worker would have to decode
        everything twice. Pieces that are `suspect` are sent one at a time, because a crash also loses the worker's
        other questions. If the question cannot be sent, `piece.again` is set to try again after a pause.

        Return False if no worker has the question. Return True if a worker has it, or if `piece` is a suspect and has
        to wait for another suspect.
        """
        if piece.suspect and any(own.suspect and own.tickets for own in self._pieces.values() if own is not piece):
            piece.again = now + PAUSES[0]
            return True
        for avoid in (set(piece.tried), {ticket.worker for ticket, _ in piece.tickets}):
            with contextlib.suppress(NoWorkers):
                ticket = self._workers.ask(piece.question, avoid)
                piece.tickets.append((ticket, now))
                piece.tried.add(ticket.worker)
                piece.asks += 1
                self.second_asks += piece.asks == 2
                return True
        piece.again = now + PAUSES[0]
        return bool(piece.tickets)

    def _await(self, pieces: list[_Piece]) -> list[Chunk]:
        """Wait for the chunks of all `pieces` and return them in the same order.

        Meanwhile, send late questions again, including those of the window. After `ALONE` seconds without any chunk,
        decode the missing chunks in this process if there is a local decoder, except chunks that are `suspect`.

        Raises:
            InterruptedError: `interrupted` returned True.
            RuntimeError: no chunk arrived for `timeout` seconds, or `DEATHS` workers died with the same question.
            Exception: any other exception that a worker answered with.
        """
        begun = heard = self._clock()
        reached, warned = True, False
        if any(piece.chunk is None for piece in pieces):
            looked = self._looked
            while self._collect(0.0, looked):  # answers received since the last check are not late
                pass
        while missing := [piece for piece in pieces if piece.chunk is None]:
            if self.interrupted is not None and self.interrupted():
                raise InterruptedError("stopped while it waited for workers")
            if self._alone and self._local is not None and not missing[0].suspect:
                self._look_for_workers()
                if self._alone and missing[0].chunk is None:
                    self._answer_here(self._local, missing[0])
                heard = self._clock()
                continue
            now, patience = self._clock(), self._patience()
            late = [piece for piece in self._pieces.values() if self._when(piece, patience) <= now]
            if late:
                reached = False not in [self._ask(piece, now) for piece in late]
            next_look = min(self._when(piece, patience) for piece in self._pieces.values())
            if self._collect(min(1.0, max(0.0, next_look - now))):
                heard, reached = self._clock(), True
            silent = self._clock() - heard
            if self._local is not None and silent > ALONE and not self._alone:
                self._alone = True
                logging.getLogger(__name__).warning("no answer from any worker for %.0f s: decoding here", silent)
            if silent > SILENCE and not warned:
                warned = True
                logging.getLogger(__name__).warning(WARNINGS[reached], silent)
            if silent > self._timeout:
                rows = missing[0].question.rows
                raise RuntimeError(
                    f"{WARNINGS[reached] % silent}; then resume the training. It waits for"
                    f" {len(rows)} records, {rows[:5].tolist()} … of epoch {missing[0].question.epoch}"
                )
        self.waited += self._clock() - begun
        return [piece.chunk for piece in pieces if piece.chunk is not None]

    # Without workers

    def _look_for_workers(self) -> None:
        """Find out whether a worker answers again, while this process decodes; then collect the answers received.

        One worker at a time is asked for the last chunk of the window. After `PROBE` seconds without an answer, the
        question is dropped and sent to another worker. With more questions, work would pile up at workers that are
        slower than this process.
        """
        now = self._clock()
        if self._probe is None or now - self._probe[1] > PROBE:
            avoid = set() if self._probe is None else {self._probe[0].worker}
            if self._probe is not None:
                self._workers.drop(self._probe[0])
            piece, self._probe = self._pieces[self._wanted[-1]], None
            with contextlib.suppress(NoWorkers):
                self._probe = self._workers.ask(piece.question, avoid), now, piece
        self._collect(0.0)

    def _answer_here(self, local: Decoder, piece: _Piece) -> None:
        self._drop(piece)
        self.threads = local.num_threads
        with self.clock.part("dali"):
            piece.chunk = local.answer(piece.question)

    def _patience(self) -> float:
        if not self._latencies:
            return FIRST_PATIENCE
        return max(PATIENCE[0], PATIENCE[1] * statistics.median(self._latencies))

    @staticmethod
    def _when(piece: _Piece, patience: float) -> float:
        """Return the time at which to send the question of `piece` again, or infinity if its chunk has arrived.

        This is never before `piece.again`.

        patience: seconds from the latest pending request until the chunk is late. Each pending request after the
            second doubles this time.
        """
        if piece.chunk is not None:
            return math.inf
        if not piece.tickets:
            return piece.again
        return max(piece.again, piece.tickets[-1][1] + patience * 2 ** max(0, len(piece.tickets) - 2))

    def _collect(self, timeout: float, arrived: float | None = None) -> bool:
        """Process answers that arrive within `timeout` seconds. Return True if they include a chunk.

        arrived: the time to which latencies are measured, by default the time of reading the answers. Pass an earlier
            time if the answers may have waited to be read.
        """
        answers = self._workers.wait(timeout)
        self._looked, chunks = self._clock(), 0
        arrived = self._looked if arrived is None else arrived
        for ticket, answer in answers:
            if self._probe is not None and self._probe[0] == ticket:
                (_, asked_at, piece), self._probe = self._probe, None
                chunks += self._take(piece, answer, arrived - asked_at)
                continue
            for piece in self._pieces.values():
                if asked := [asked for own, asked in piece.tickets if own == ticket]:
                    piece.tickets = [other for other in piece.tickets if other[0] != ticket]
                    chunks += self._take(piece, answer, arrived - asked[0])
                    break
        return chunks > 0

    def _take(self, piece: _Piece, answer: Chunk | Exception, latency: float) -> bool:
        if isinstance(answer, WorkerLost):
            piece.losses += 1
            piece.deaths += isinstance(answer, WorkerDied)
            if piece.deaths >= DEATHS:
                self.close()
                rows = piece.question.rows.tolist()
                raise RuntimeError(
                    f"{self._bad.prefix}: {DEATHS} times a worker's process died while it decoded these {len(rows)}"
                    f" records of epoch {piece.question.epoch}: {rows}. One of them crashes the decoder or a step of"
                    " the pipeline, as it would crash the trainer without a pool, or the workers' machines lack memory"
                )
            piece.again = self._looked + (
                0.0 if piece.losses == 1 else min(PAUSES[1], PAUSES[0] * 2 ** (piece.losses - 2))
            )
            return False
        if isinstance(answer, Exception):
            self.close()
            raise answer
        if self._alone:
            logging.getLogger(__name__).warning("workers answer again")
            self._alone, self.threads = False, 0
        self._latencies.append(max(0.0, latency))
        piece.chunk = answer
        self._drop(piece)
        return True
