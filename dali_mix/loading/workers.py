"""Protocols for a pool of decoding workers, used by `RemoteSource`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dali_mix.loading.chunks import Chunk, Question


class WorkerLost(Exception):
    """The answer to a question whose worker was lost before it answered. Another worker can be asked."""


class WorkerDied(WorkerLost):
    """The answer to a question whose worker's process died before it answered. The question may be the cause."""


class NoWorkers(Exception):
    """No worker is available for a question."""


class Ticket(Protocol):
    """A question that was sent to a worker."""

    @property
    def worker(self) -> Hashable:
        """Return a value that identifies the worker."""


class Workers(Protocol):
    """A pool of workers that decode one set with one pipeline."""

    def ask(self, question: Question, avoid: Collection[Hashable]) -> Ticket:
        """Send a question to a worker that is not in `avoid`, without waiting. Raise NoWorkers if there is none.

        `avoid` contains `Ticket.worker` of workers that were late with this question or lost it. For a while, the pool
        should prefer workers outside `avoid` for other questions too.
        """

    def wait(self, timeout: float) -> list[tuple[Any, Chunk | Exception]]:
        """Return (ticket, answer) for each answer received since the last call.

        Wait up to `timeout` seconds for the first answer; the list is empty if none arrives. Without pending tickets,
        wait for the full `timeout`. Each ticket is returned once. An answer is a chunk, an instance of WorkerLost or
        WorkerDied, or another exception that every worker would raise.
        """

    def drop(self, ticket: Any) -> None:
        """Discard a ticket whose answer is no longer needed. Tickets already answered or dropped are ignored."""

    def close(self) -> None:
        """Discard all tickets. The next question reopens the pool."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """What workers decode: a set, and a pipeline with its options.

    Attributes:
        prefix: absolute prefix of the set on the workers' machines.
        pipeline, options: the pipeline's name and keyword arguments.
        decode: "cpu", "gpu", or "auto" for the workers' default.
        train, seed, verify_crc: as in `build_loader`.
    """

    prefix: Path
    pipeline: str
    options: Mapping[str, Any]
    train: bool
    seed: int
    decode: str
    verify_crc: bool


@dataclasses.dataclass(frozen=True)
class Opened:
    """A set opened by a pool, with its workers.

    Attributes:
        count: number of records.
        metainfo, taller: as in `RecordSet`.
        local: where this process decodes while no worker answers, "cpu" or "gpu"; None if it must not decode. If a
            worker opened the set, this is where that worker decodes.
    """

    prefix: Path
    count: int
    metainfo: dict[str, Any]
    taller: np.ndarray
    workers: Workers
    local: str | None = None

    def __len__(self) -> int:
        return self.count


class Pool(Protocol):
    """A pool of workers that is not yet bound to a set."""

    def open(self, spec: Spec) -> Opened:
        """Open the set of `spec`. The `workers` of the result serve only this caller.

        Raise FileNotFoundError if a file of the set is missing on the workers' machines, and ValueError if the pool
        cannot decode the set as `spec` says.
        """
