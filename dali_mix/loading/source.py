"""`Source`: base class of the sources of a loader's images."""

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
    """The data of a step.

    Attributes:
        rows: (B,) int64, the step's records without bad ones. If it is empty, images, targets and sizes are None.
        images: (B, 3, H, W) uint8, or float32 if already normalized.
        targets: see `targets.targets_of`.
        sizes: (B, 2) height and width of each image without padding, if the pipeline has no fixed image size;
            else None.
    """

    step: Step
    rows: np.ndarray
    images: torch.Tensor | None = None
    targets: Any = None
    sizes: np.ndarray | None = None


class Source(ABC):
    """Base class of objects from which a `Loader` gets the steps of a schedule, with images and targets.

    `close` discards all running and prefetched work, and the next `fetch` restarts the source. A pickled or forked copy
    starts closed.

    Attributes:
        threads: number of DALI threads in this process; 0 if batches come from a pool or from a cache.
        interrupted: called about once a second while `fetch` waits for workers; once it returns True, `fetch` raises
            InterruptedError.
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
        """Return the number of records per block of the order (see `grouped_order`), or None if it is not grouped."""
        return None if self._schedule.groups is None else self._schedule.group_step

    def regroup(self, step: int) -> None:
        """Switch to the order that is grouped into blocks of `step` records. Close the source if `step` changes."""
        if step != self._schedule.group_step:
            self.close()  # pending steps have another order
            self._schedule = dataclasses.replace(self._schedule, group_step=step)

    @abstractmethod
    def fetch(self, epoch: int, position: int) -> Fetched:
        """Return this rank's part of the step that begins at `position` of `epoch`, without rows if all are bad.

        Raise ValueError for a bad record, unless bad records are skipped, and if no record of the set can be read.
        Raise InterruptedError as described for `interrupted`.
        """

    def steps_left(self, position: int) -> int:
        """Return the number of steps of this rank from `position` to the end of an epoch."""
        return self._schedule.steps_left(position)

    @abstractmethod
    def close(self) -> None:
        """Free threads and memory. The next fetch restarts the source."""

    def check_process(self) -> None:
        """Raise RuntimeError in a forked child if the source uses CUDA."""
        if self._forked:
            raise RuntimeError(
                "this loader was built for a GPU before the process was forked, and CUDA cannot be used in the child:"
                " build the loader in the child, or start the child with the method 'spawn'"
            )

    def abandon(self) -> None:
        """Drop the parent's threads and pipelines; called in the child after a fork.

        Overrides must call this method. It resets `clock`, and makes `check_process` raise if the device is a GPU.
        """
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
