"""`Source`: where a loader's images come from. It restarts after a fork and in a pickle."""

from __future__ import annotations

import dataclasses
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dali_mix.loading.order import Schedule, Step
from dali_mix.loading.stats import Clock


@dataclasses.dataclass(frozen=True)
class Fetched:
    """What there is of a step. `rows` (B,): its records without the bad ones; without any, nothing else is set.

    images: (B, 3, H, W) uint8, or float32 that is normalized already. targets: see `targets.targets_of`. sizes: (B, 2)
    height and width of each image, where the batch is padded.
    """

    step: Step
    rows: np.ndarray
    images: torch.Tensor | None = None
    targets: Any = None
    sizes: np.ndarray | None = None


class Source(ABC):
    """Base of the sources: a schedule, and what runs to serve it.

    `close`, pickling and a fork stop what runs; the next fetch starts it again.

    Attributes:
        threads: of DALI's, in this process.
        interrupted: asked once a second by a `fetch` that waits for other processes; True: it raises InterruptedError.
    """

    threads: int = 0
    interrupted: Callable[[], bool] | None = None

    def __init__(self, schedule: Schedule, device: torch.device) -> None:
        self.clock = Clock()
        self._schedule = schedule
        self._device = device
        self._forked = False
        _sources.add(self)

    @property
    def group_step(self) -> int | None:
        """The number of records that batches of one group were made for; None where records are not grouped."""
        return None if self._schedule.groups is None else self._schedule.group_step

    def regroup(self, step: int) -> None:
        """Use the order that was made for `step` records."""
        if step != self._schedule.group_step:
            self.close()  # what is under way has another order
            self._schedule = dataclasses.replace(self._schedule, group_step=step)

    @abstractmethod
    def fetch(self, epoch: int, position: int) -> Fetched:
        """Return the step that begins at `position` of `epoch`.

        Raise ValueError naming file and record for one that cannot be used, unless bad records are skipped.
        """

    def steps_left(self, position: int) -> int:
        """Return the number of steps this rank takes from `position` of an epoch on."""
        return self._schedule.steps_left(position)

    @abstractmethod
    def close(self) -> None:
        """Free threads and memory. The next fetch starts the source again."""

    def check_process(self) -> None:
        """Raise RuntimeError in a forked child when the source uses CUDA."""
        if self._forked:
            raise RuntimeError(
                "this loader was built for a GPU before the process was forked, and CUDA cannot be used in the child:"
                " build the loader in the child, or start the child with the method 'spawn'"
            )

    def abandon(self) -> None:
        """Drop what ran in the parent, in a forked child."""
        self.clock.stop()
        self._forked = self._device.type == "cuda"

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_forked": False, "interrupted": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.clock.stop()
        _sources.add(self)


_sources: weakref.WeakSet[Source] = weakref.WeakSet()


def _abandon_all() -> None:
    for source in list(_sources):
        source.abandon()


os.register_at_fork(after_in_child=_abandon_all)
