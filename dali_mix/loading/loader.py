"""`Loader`: epochs of batches from a packed set, the same records in the same order whoever asks and wherever it was
stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch

from dali_mix.loading.batch import Batch
from dali_mix.loading.feed import BadRecords, Fed
from dali_mix.pipelines import Pipeline
from dali_mix.recordio import RecordSet


class Source(Protocol):
    """Where a loader's images come from."""

    resumable: bool  # whether `fetch` can begin inside an epoch

    def steps_left(self, position: int) -> int: ...

    def fetch(self, epoch: int, position: int) -> tuple[Fed, torch.Tensor | None]: ...

    def close(self) -> None: ...


class Dataset:
    """What a loader loads from: `len()` and `metainfo` (classes, num_classes, task, fingerprint)."""

    def __init__(self, records: RecordSet) -> None:
        self.records = records
        info = records.info
        self.metainfo: dict[str, Any] = {
            "classes": tuple(info.classes),
            "num_classes": len(info.classes),
            "task": info.task,
            "fingerprint": records.fingerprint,
        }

    def __len__(self) -> int:
        return len(self.records)


class Loader:
    """Iterates over `Batch`es, from the current position to the end of the epoch; then the next epoch is due.

    Only what the caller has taken counts: a batch counts as seen when it is handed over, a prefetched one does not. So
    `state_dict()` inside the loop's body includes the batch at hand, and breaking out and iterating again goes on
    behind it.

    Attributes:
        epoch, samples_seen: where it stands; samples_seen counts over all ranks, in this epoch.
        global_size: records in the batch last yielded, summed over ranks, as planned (without regard to skipped
            records).
        skipped: (record number, reason) of records found bad, with on_bad_record="skip".
    """

    def __init__(
        self,
        dataset: Dataset,
        pipeline: Pipeline,
        source: Source,
        bad: BadRecords,
        *,
        batch_size: int,
        train: bool,
        seed: int,
        device: torch.device,
        rank: int,
        world_size: int,
    ) -> None:
        self.dataset = dataset
        self.pipeline = pipeline
        self.batch_size = batch_size
        self.global_batch_size = batch_size * world_size
        self.train = train
        self.seed = seed
        self.device = device
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.samples_seen = 0
        self.global_size = 0
        self._source = source
        self._bad = bad

    @property
    def skipped(self) -> list[tuple[int, str]]:
        """(record number, reason) of the records found bad so far on this rank."""
        return list(self._bad.skipped)

    def __len__(self) -> int:
        """Steps of a whole epoch on this rank."""
        return self._source.steps_left(0)

    def __iter__(self) -> Iterator[Batch]:
        while self._source.steps_left(self.samples_seen):
            epoch = self.epoch
            fed, images = self._source.fetch(epoch, self.samples_seen)
            self.samples_seen, self.global_size = fed.step.end, fed.step.end - fed.step.start
            if images is None:
                self._nothing_left(fed)
                continue
            yield Batch(images, self._targets(fed), torch.from_numpy(fed.rows))
            if self.epoch != epoch:  # set_epoch or load_state_dict inside the loop: this epoch is over
                return
        self.epoch, self.samples_seen = self.epoch + 1, 0

    def _nothing_left(self, fed: Fed) -> None:
        if self.world_size > 1:
            raise ValueError(
                f"{self.dataset.records.prefix}: all {len(fed.step.rows)} records of a step of rank {self.rank} are bad"
                f" ({fed.step.rows[:5].tolist()} …) and the other ranks would wait for it: pack the set again without"
                " them"
            )

    def _targets(self, fed: Fed) -> Any:
        records = self.dataset.records
        labels = records.labels(fed.rows)
        if not isinstance(labels, list):
            targets = torch.from_numpy(labels)
            return targets.to(self.device, non_blocking=True) if self.device.type == "cuda" else targets
        height, width = self.pipeline.image_size
        found = []
        for sample, label in enumerate(labels):
            row = records.table[fed.rows[sample]]
            boxes = self.pipeline.map_boxes(label[:, 1:5], row, fed.draws, sample)
            boxes = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
            keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
            target = {"boxes": boxes[keep], "labels": label[keep, 0].astype(np.int64), "difficult": label[keep, 5] > 0}
            found.append({name: torch.from_numpy(value).to(self.device) for name, value in target.items()})
        return found

    def set_epoch(self, epoch: int) -> None:
        """Goes to the beginning of `epoch`, or stays where it is when it is in that epoch already."""
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}: epochs count from 0")
        if epoch != self.epoch:
            self.epoch, self.samples_seen = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, in plain values: the same on all ranks."""
        return {
            "epoch": self.epoch,
            "samples_seen": self.samples_seen,
            "seed": self.seed,
            "fingerprint": self.dataset.records.fingerprint,
            "global_batch_size": self.global_batch_size,
            "train": self.train,
        }

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """Goes where `state` was taken, also on another number of ranks.

        Raises ValueError, naming both values, when seed, dataset, global batch size or train/eval differ: the records
        left would not be the ones that run had left. `strict=False` goes there all the same; position and epoch must
        still fit the set.
        """
        mine = self.state_dict()
        missing = [key for key in mine if key not in state]
        if missing:
            raise ValueError(f"the loader's state lacks {', '.join(missing)}: it was not written by state_dict()")
        if strict:
            for key in ("seed", "fingerprint", "global_batch_size", "train"):
                if state[key] != mine[key]:
                    raise ValueError(
                        f"the state was taken with {key} {state[key]!r}, this loader has {mine[key]!r}: use the same,"
                        " or strict=False to go on regardless"
                    )
        epoch, seen = int(state["epoch"]), int(state["samples_seen"])
        if epoch < 0 or not 0 <= seen <= len(self.dataset):
            raise ValueError(
                f"the state stands at record {seen} of epoch {epoch}, which a set of {len(self.dataset)} does not have"
            )
        if not self._source.resumable and self._source.steps_left(seen) and seen:
            raise ValueError(
                f"the state stands inside epoch {epoch}, where source='native' cannot begin: take the state at an"
                " epoch's end,"
                " or use source='exact'"
            )
        self.epoch, self.samples_seen = epoch, seen

    def close(self) -> None:
        """Gives back threads and memory; iterating again starts them anew."""
        self._source.close()
