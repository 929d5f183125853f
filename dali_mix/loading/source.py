"""`Source`: where a loader's images come from. It restarts after a fork and in a pickle."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import weakref
from abc import ABC, abstractmethod
from typing import Any

import torch
from nvidia.dali.pipeline import Pipeline as DaliPipeline

from dali_mix.loading.feed import BadRecords, Fed
from dali_mix.loading.order import Schedule
from dali_mix.pipelines import Pipeline
from dali_mix.recordio import RecordSet


class Source(ABC):
    """Base of the sources that run a DALI pipeline.

    A source has fixed attributes (records, schedule, …) and running state: the attributes that `_idle` returns, with
    their values while nothing runs. `close`, pickling and a fork of a running pipeline put a source back into that
    state; the next fetch starts it again.

    A fork copies the memory of a DALI pipeline but not its threads. In the child both running it and destroying it wait
    forever for them, so it is leaked there: its destructor must never run, not even at exit.
    """

    _dali: DaliPipeline | None = None

    def __init__(
        self,
        records: RecordSet,
        pipeline: Pipeline,
        schedule: Schedule,
        *,
        device: torch.device,
        num_threads: int,
        bad: BadRecords,
        verify_crc: bool,
    ) -> None:
        self._records = records
        self._pipeline = pipeline
        self._schedule = schedule
        self._device = device
        self._num_threads = num_threads
        self._bad = bad
        self._verify_crc = verify_crc
        self._forked = False
        vars(self).update(self._idle())
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
    def _idle(self) -> dict[str, Any]:
        """Return the attributes of the running state, each with a new idle value."""

    @abstractmethod
    def fetch(self, epoch: int, position: int) -> tuple[Fed, torch.Tensor | None]:
        """Return the step that begins at `position` of `epoch`, and its images, uint8 or normalized already, or None if
        all its records are bad and skipped.

        Raise ValueError naming file and record for one that cannot be used, unless bad records are skipped.
        """

    def steps_left(self, position: int) -> int:
        """Return the number of steps this rank takes from `position` of an epoch on."""
        return self._schedule.steps_left(position)

    def close(self) -> None:
        """Free threads and memory. The next fetch starts the source again."""
        vars(self).update(self._idle())

    def check_process(self) -> None:
        """Raise RuntimeError in a forked child when the source uses CUDA."""
        if self._forked:
            raise RuntimeError(
                "this loader was built for a GPU before the process was forked, and CUDA cannot be used in the child:"
                " build the loader in the child, or start the child with the method 'spawn'"
            )

    def abandon(self) -> None:
        """Drop the parent's DALI pipeline in a forked child, without destroying it."""
        self._forked = self._device.type == "cuda"
        if self._dali is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._dali._pipe))
            self._dali._pipe = None  # or DALI's exit handler would destroy it
            if not self._forked:  # memory of the GPU cannot be freed here
                self.close()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | self._idle() | {"_forked": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        _sources.add(self)


_sources: weakref.WeakSet[Source] = weakref.WeakSet()


def _abandon_all() -> None:
    for source in list(_sources):
        source.abandon()


os.register_at_fork(after_in_child=_abandon_all)
