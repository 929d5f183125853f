"""`Loader`: epochs of batches from a packed set.

The order of a set's records depends only on the seed and the epoch, even after a resume. With a pipeline whose batches
have one orientation, it also depends on the global batch size.

More than 300 lines: one class, whose state is shared by iteration, position and resuming.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from dali_mix.loading.bad_records import BadRecords
from dali_mix.loading.batch import Batch
from dali_mix.loading.order import Schedule
from dali_mix.loading.source import Fetched, Source
from dali_mix.loading.stats import Stats
from dali_mix.options import whole
from dali_mix.pipelines import Pipeline, normalize


class Dataset(Protocol):
    """The dataset of a loader: a `RecordSet`, or a set opened by a worker pool.

    `metainfo` is a dict with the keys classes, num_classes, task and fingerprint.
    """

    @property
    def prefix(self) -> Path: ...

    @property
    def metainfo(self) -> dict[str, Any]: ...

    def __len__(self) -> int: ...


class Loader:
    """An iterable of `Batch` objects over a packed set. Every `iter()` covers one epoch.

    In training, the first `iter()` is epoch 0, and the `iter()` after a completed epoch starts the next. An epoch is
    complete once its last batch has been yielded: after `len(loader)` batches, or fewer if on_bad_record="skip" leaves
    steps without records. An interrupted epoch starts over, with the same records and crops, so `next(iter(loader))`
    does not change the order.

    In evaluation, every `iter()` starts at the first record. After `load_state_dict`, in training and in evaluation,
    the next `iter()` starts at the restored position.

    Only one iterator is active: a new `iter()` invalidates the previous one, whose `next()` then raises RuntimeError.
    Calling `set_epoch` or `load_state_dict` in the loop body ends that loop.

    `state_dict()` returns the position after the last batch yielded. In the loop body, this includes the current batch.
    Prefetched batches do not count.

    A loader can be pickled, or used in a forked process. The copy restarts at the loader's position. A loader with a
    GPU or a pool of workers raises RuntimeError when it is used after a fork.

    Attributes:
        dataset: the dataset, with `len()` and `metainfo` (classes, num_classes, task, fingerprint).
        epoch, samples_seen: the position; samples_seen counts this epoch's samples over all ranks.
        global_size: planned number of records in the last batch yielded, summed over ranks (including skipped records).
        dropped_boxes: number of boxes on this rank so far that were dropped because a crop or another step of the
            pipeline left them no area.
        skipped: (record number, reason) pairs of bad records, with on_bad_record="skip".
    """

    def __init__(
        self,
        dataset: Dataset,
        pipeline: Pipeline,
        source: Source,
        bad: BadRecords,
        schedule: Schedule,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.dataset = dataset
        self.pipeline = pipeline
        self.batch_size = schedule.batch_size
        self.global_batch_size = schedule.batch_size * schedule.world_size
        self.train = schedule.train
        self.seed = schedule.seed
        self.device = device
        self.dtype = dtype
        self.rank = schedule.rank
        self.world_size = schedule.world_size
        self.epoch = 0
        self.samples_seen = 0
        self.global_size = 0
        self.dropped_boxes = 0
        self._source = source
        self._clock = source.clock
        self._group_step = source.group_step
        self._bad = bad
        self._resuming = False  # a position was loaded and no batch was yielded since
        self._running: object | None = None  # identifies the active iterator
        self._restarted = False

    def __repr__(self) -> str:
        parts = [
            f"{len(self.dataset):,} records",
            f"pipeline {self.pipeline.name!r}",
            "train" if self.train else "eval",
            f"batch_size {self.batch_size}",
            f"epoch {self.epoch}",
            f"samples_seen {self.samples_seen}",
        ]
        if self.world_size > 1:
            parts.append(f"rank {self.rank} of {self.world_size}")
        return f"Loader({str(self.dataset.prefix)!r}: {', '.join(parts)})"

    @property
    def skipped(self) -> list[tuple[int, str]]:
        """Return (record number, reason) pairs of the bad records found so far on this rank."""
        return list(self._bad.skipped)

    def __len__(self) -> int:
        """Return the number of steps of a full epoch on this rank, independent of the current position."""
        return self._source.steps_left(0)

    def __iter__(self) -> Iterator[Batch]:
        """Return an iterator over the next epoch (see `Loader`).

        Its `next()` raises RuntimeError after another `iter()` of this loader, and ValueError for a bad record unless
        bad records are skipped.
        """
        if not self._resuming:
            self._note_restart()
            self.samples_seen = 0
            if self._group_step is not None:  # a resumed epoch may use blocks of another batch size
                self._source.regroup(self._group_step)
        self._running = iterator = object()
        return self._batches(iterator)

    def _batches(self, iterator: object) -> Iterator[Batch]:
        if self._running is not None:  # None: set_epoch or load_state_dict was called
            self._check_running(iterator)
        self._running = iterator
        self._clock.switch("other")
        try:
            yield from self._epoch(iterator)
        finally:
            self._clock.switch(None)

    def _epoch(self, iterator: object) -> Iterator[Batch]:
        ready = self._fetch(self.epoch, self.samples_seen)
        while ready is not None:
            epoch, end = ready.step.epoch, ready.step.end
            # This step completes the epoch if no later step has a readable record: look ahead if records are skipped.
            ahead = self._fetch(epoch, end) if self._bad.skip else None
            last = ahead is None if self._bad.skip else not self._source.steps_left(end)
            self.epoch, self.samples_seen = (epoch + 1, 0) if last else (epoch, end)
            self.global_size, self._resuming = end - ready.step.start, False
            with self._clock.part("finishing"):
                batch = Batch(self._images(ready), self._targets(ready), torch.from_numpy(ready.rows))
            self._clock.batches += 1
            self._clock.images += len(ready.rows)
            self._clock.switch("outside")
            yield batch
            self._clock.switch("other")
            if last or self._running is None:
                return
            self._check_running(iterator)
            ready = ahead or self._fetch(epoch, end)
        self.epoch, self.samples_seen, self._resuming = self.epoch + 1, 0, False

    def _fetch(self, epoch: int, position: int) -> Fetched | None:
        """Return the first step at or after `position` with a readable record, or None if the epoch has no such step.

        With several ranks, raise ValueError for a step without a readable record, since the other ranks would wait.
        """
        self._source.check_process()
        while self._source.steps_left(position):
            fetched = self._source.fetch(epoch, position)
            if len(fetched.rows):
                return fetched
            self._nothing_left(fetched)
            position = fetched.step.end
        return None

    def _check_running(self, iterator: object) -> None:
        if self._running is not iterator:
            raise RuntimeError(
                f"{self!r}: another iter() of this loader was started, which ended this one: build a second loader for"
                " two iterations at the same time"
            )

    def _note_restart(self) -> None:
        """Log a warning the first time that a training epoch restarts after more than one global batch of samples."""
        if self.train and self.samples_seen > self.global_batch_size and not self._restarted:
            self._restarted = True
            logging.getLogger(__name__).warning(
                "%r: this iter() restarts the epoch, with the same records and crops; before it, call set_epoch()"
                " for another epoch, or load_state_dict(state_dict()) to continue inside this one",
                self,
            )

    def _nothing_left(self, fetched: Fetched) -> None:
        if self.world_size > 1:
            rows = fetched.step.rows
            raise ValueError(
                f"{self.dataset.prefix}: all {len(rows)} records of a step of rank {self.rank} are bad"
                f" ({rows[:5].tolist()} …) and the other ranks would wait for it: pack the set again without them"
            )

    def _images(self, fetched: Fetched) -> torch.Tensor:
        assert fetched.images is not None
        images = fetched.images.to(self.device, non_blocking=True)
        if images.dtype == self.dtype:
            return images
        if self.dtype == torch.uint8:
            raise ValueError(f"pipeline {self.pipeline.name!r} returns {images.dtype} images: omit dtype='uint8'")
        if images.dtype != torch.uint8:
            return images
        return normalize(images, self.pipeline.mean, self.pipeline.std, fetched.sizes)

    def _targets(self, fetched: Fetched) -> Any:
        if isinstance(fetched.targets, np.ndarray):
            targets = torch.from_numpy(fetched.targets)
            return targets.to(self.device, non_blocking=True) if self.device.type == "cuda" else targets
        self.dropped_boxes += sum(own["dropped"] for own in fetched.targets)
        return [
            {
                name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
                for name, value in own.items()
                if name != "dropped"
            }
            for own in fetched.targets
        ]

    def set_epoch(self, epoch: int) -> None:
        """Move to the start of `epoch`, even if the position is inside it.

        Loops over consecutive epochs do not need this. A position set by `load_state_dict` is discarded. Raise
        ValueError unless `epoch` is a non-negative integer.
        """
        self._move(whole("epoch", epoch, 0), 0)
        self._resuming = False

    def _move(self, epoch: int, samples_seen: int) -> None:
        self.epoch, self.samples_seen, self._running = epoch, samples_seen, None

    def state_dict(self) -> dict[str, Any]:
        """Return the position as a dict of plain values, equal on all ranks.

        The keys epoch and samples_seen give the position. The keys seed, fingerprint (of the set), global_batch_size
        and train are compared by `load_state_dict`. If batches have one orientation, the key group_step is the number
        of records per block of one orientation (see `grouped_order`); otherwise this key is missing.
        """
        grouped = self._source.group_step
        return {
            "epoch": self.epoch,
            "samples_seen": self.samples_seen,
            "seed": self.seed,
            "fingerprint": self.dataset.metainfo["fingerprint"],
            "global_batch_size": self.global_batch_size,
            "train": self.train,
            **({} if grouped is None else {"group_step": grouped}),
        }

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """Restore the position of `state`, and end the active iterator. The next `iter()` starts at this position.

        A position after the last step of an epoch (in evaluation, after the last record) becomes the start of the next
        epoch.

        Args:
            state: a result of `state_dict`, on any number of ranks.
            strict: False to restore the position even if `state` and this loader differ in seed, dataset, global batch
                size, `train`, or whether records are grouped by orientation. The remaining records may then differ too.

        Raises:
            ValueError: missing keys, a position outside the set, or, if `strict`, a difference listed under `strict`.
        """
        mine = self.state_dict()
        missing = [key for key in mine if key not in state and key != "group_step"]
        if missing:
            raise ValueError(f"the loader's state lacks {', '.join(missing)}: it was not written by state_dict()")
        if strict:
            for key in ("seed", "fingerprint", "global_batch_size", "train"):
                if state.get(key) != mine.get(key):
                    raise ValueError(
                        f"the state was taken with {key} {state.get(key)!r}, this loader has {mine.get(key)!r}: use the"
                        " same, or strict=False to continue anyway"
                    )
            # The value of group_step may differ: the epoch continues with the blocks it started with.
            grouped, now = "group_step" in state, "group_step" in mine
            if grouped != now:
                raise ValueError(
                    f"the state was taken {'with' if grouped else 'without'} batches of one orientation, this loader is"
                    f" {'with' if now else 'without'} them: use the same pipeline, or strict=False to continue anyway"
                )
        epoch, seen = int(state["epoch"]), int(state["samples_seen"])
        if epoch < 0 or not 0 <= seen <= len(self.dataset):
            raise ValueError(
                f"the state is at record {seen} of epoch {epoch}, but the set has {len(self.dataset)} records"
            )
        if seen and not self._source.steps_left(seen) and (self.train or seen == len(self.dataset)):
            epoch, seen = epoch + 1, 0  # completed
        if self._group_step is not None:  # a new epoch uses this loader's blocks
            self._source.regroup(int(state.get("group_step", self._group_step)) if seen else self._group_step)
        self._move(epoch, seen)
        self._resuming = True

    def stats(self, reset: bool = False) -> Stats:
        """Return how time was spent since the loader was built, or since the last call with `reset=True`.

        With `reset`, all counts are set to zero after they are read.
        """
        stats = Stats.of(self._clock, self._source.threads)
        if reset:
            self._clock.reset()
        return stats

    def interrupt_when(self, asked: Callable[[], bool]) -> None:
        """Make `next()` raise InterruptedError if `asked()` returns True while it waits for a pool of workers.

        The loader's position is then unchanged. Loaders that decode in this process never call `asked`.
        """
        self._source.interrupted = asked

    def close(self) -> None:
        """Free threads and memory; iterating again restarts the loader."""
        self._source.close()
