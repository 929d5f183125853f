"""`source="native"`: DALI's own RecordIO reader, for those who want it. Its limits:

- Shuffling is a buffer of 1,024 records, not a shuffle of the set; each rank reads a fixed stretch of the file.
- Crops and flips are DALI's own draws: they depend on the number of ranks and on the batch size.
- A state can be taken and loaded at the end of an epoch only, and onto the same number of ranks.
- A record that cannot be decoded ends the run without being named (`dali-mix verify --decode` finds it); crc32 is not
  checked.
- Training leaves out up to one record a rank of an epoch where the stretches differ in length, so that all ranks take
  the same number of steps; evaluation reads each record exactly once, and a rank with a shorter stretch may take one
  step less.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline as DaliPipeline

from dali_mix.loading.exact import to_torch, wrong_sizes
from dali_mix.loading.feed import Fed
from dali_mix.loading.order import Schedule, Step
from dali_mix.loading.restart import Restartable
from dali_mix.pipelines import Pipeline
from dali_mix.recordio import RecordSet


class NativeSource(Restartable):
    """Runs `fn.readers.mxnet` and the pipeline's `native_graph`; built anew for each epoch, so that an epoch depends on
    (seed, epoch) only.
    """

    resumable = False

    def __init__(
        self,
        records: RecordSet,
        pipeline: Pipeline,
        schedule: Schedule,
        *,
        device: torch.device,
        num_threads: int,
        prefetch: int,
    ) -> None:
        pipeline.check_native()
        records.check_index()  # also a large one, which opening does not read: DALI drops what stands behind a bad line
        self._records = records
        self._pipeline = pipeline
        self._schedule = schedule
        self._num_threads = num_threads
        self._prefetch = prefetch
        self._next: tuple[int, int, int]  # epoch, position, step that the open pipeline gives next
        super().__init__(device)
        count, ranks = schedule.count, schedule.world_size
        edges = [rank * count // ranks for rank in range(ranks + 1)]  # where DALI cuts the set
        sizes = np.diff(edges)
        if schedule.train:
            sizes = np.minimum(sizes, sizes.min())
        if schedule.drop_last:
            sizes = sizes // schedule.batch_size * schedule.batch_size
        self._sizes = sizes
        starts = np.concatenate([[0], np.cumsum([part.size for part in records.info.parts])[:-1]])
        self._starts = {str(path): int(start) for path, start in zip(records.rec_paths, starts, strict=True)}
        self._offsets = np.asarray(records.table["offset"]).astype(np.int64) + starts[np.asarray(records.table["part"])]
        steps = -(-int(sizes[schedule.rank]) // schedule.batch_size)
        # records all ranks together have taken before each step of this rank
        self._taken = np.array([np.minimum(sizes, step * schedule.batch_size).sum() for step in range(steps + 1)])

    def steps_left(self, position: int) -> int:
        """How many steps this rank takes from `position` of an epoch on."""
        return max(0, len(self._taken) - 1 - int(np.searchsorted(self._taken, position)))

    def fetch(self, epoch: int, position: int) -> tuple[Fed, torch.Tensor | None]:
        """The next step. Raises ValueError when it is asked to begin inside an epoch."""
        if self._next[:2] != (epoch, position):
            if position:
                raise ValueError("source='native' cannot begin inside an epoch: use source='exact'")
            self._dali, self._next = None, (epoch, 0, 0)
        if self._dali is None:
            self._dali = self._build(epoch)
        step = self._next[2]
        try:
            images, where, sizes = self._dali.run()
        except RuntimeError as error:
            self.close()
            raise ValueError(
                f"{self._records.prefix}: DALI cannot read or decode a record of step {step} of epoch {epoch};"
                f" `dali-mix verify --decode {self._records.prefix}` and source='exact' name it. DALI says: {error}"
            ) from error
        mine = int(self._sizes[self._schedule.rank]) - step * self._schedule.batch_size
        size = min(self._schedule.batch_size, mine)
        rows = np.array([self._row(bytes(np.asarray(where[sample]))) for sample in range(size)], dtype=np.int64)
        for row, reason in wrong_sizes(self._records, rows, sizes):
            raise ValueError(f"{self._records.prefix}: record {row}: {reason}; pack the set again")
        end = int(self._taken[step + 1])
        self._next = (epoch, end, step + 1)
        return Fed(Step(epoch, position, end, rows), rows, {}, []), to_torch(images)[:size]

    def _idle(self) -> dict[str, Any]:
        return {"_dali": None, "_next": (-1, 0, 0)}

    def _row(self, source_info: bytes) -> int:
        path, _, offset = source_info.decode().rpartition(" at index ")
        return int(np.searchsorted(self._offsets, int(offset) + self._starts[path]))

    def _build(self, epoch: int) -> DaliPipeline:
        key = hashlib.sha256(f"{self._schedule.seed} {epoch} {self._schedule.rank}".encode()).digest()
        seed = int.from_bytes(key[:4], "little") >> 2  # DALI takes 31 bits; the pipeline uses the next ones too

        @pipeline_def
        def define() -> tuple[DataNode, DataNode, DataNode]:
            encoded, _ = fn.readers.mxnet(
                path=[str(path) for path in self._records.rec_paths],
                index_path=[str(self._records.idx_path)],
                random_shuffle=self._schedule.train,
                shard_id=self._schedule.rank,
                num_shards=self._schedule.world_size,
                stick_to_shard=True,
                pad_last_batch=True,
                seed=seed,
            )
            where = fn.get_property(encoded, key="source_info")
            device = "gpu" if self._device.type == "cuda" else "cpu"
            return self._pipeline.native_graph(encoded, device, seed + 1), where, fn.peek_image_shape(encoded)

        dali = define(
            batch_size=self._schedule.batch_size,
            num_threads=self._num_threads,
            device_id=self._device.index,  # None on the CPU
            prefetch_queue_depth=self._prefetch,
            exec_dynamic=True,
            seed=seed,
        )
        dali.build()
        return dali
