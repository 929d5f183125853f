"""`Workers`: what a pool that decodes for loaders has to offer. Protocols: see `RemoteSource`, which asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dali_mix.loading.chunks import Chunk, Question


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
        """Put a question to a worker that is none of `avoid` and return at once. Raise NoWorkers if there is none.

        `avoid` are workers that were late with this question, or were lost: others should be asked first for a while.
        """

    def wait(self, timeout: float) -> list[tuple[Any, Chunk | Exception]]:
        """Return the tickets answered since the last call, each once, waiting for one for at most `timeout` seconds.

        An answer is a chunk; WorkerLost; or another exception, which every worker would raise. Without a ticket under
        way it takes all of `timeout`.
        """

    def drop(self, ticket: Any) -> None:
        """Forget a ticket: its answer is not wanted. One answered or dropped already is ignored."""

    def close(self) -> None:
        """Forget all tickets. The next question opens it again."""


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
    """A set that a pool has opened, and who decodes it. metainfo, taller: those of `RecordSet`.

    local: on what this process may decode while no worker answers, "cpu" or "gpu" as the workers do; None: it may not.
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
    """A pool of workers, before it is known what for."""

    def open(self, spec: Spec) -> Opened:
        """Open a set, with `workers` for this caller alone.

        Raise ValueError or FileNotFoundError for one that cannot be decoded there.
        """
