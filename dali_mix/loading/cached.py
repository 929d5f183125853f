"""`CachedSource`: decode a small set once, keep it as uint8, and gather batches from memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dali_mix.loading.bad_records import BadRecords
from dali_mix.loading.exact import ExactSource
from dali_mix.loading.feed import Fed
from dali_mix.loading.order import Schedule, Step
from dali_mix.loading.source import Fetched, Source
from dali_mix.loading.stats import STARTING
from dali_mix.pipelines import CachedPipeline, Pipeline, SampleRandom
from dali_mix.recordio import RecordSet

if TYPE_CHECKING:
    from nvidia.dali.data_node import DataNode

DRAW_AHEAD = 4096  # minimum number of records per draw within an epoch; so many take only 3 times as long as one
DECODE_BATCH = 256


class CachedSource(Source):
    """A source that serves batches of a `CachedPipeline` from a cache of all images.

    The first `fetch`, and the first one after `close`, decodes the complete set into the cache. It raises ValueError if
    the images need more host memory than is available. With a CUDA device, the cache is on the GPU if it takes less
    than half of the GPU's free memory, else in host memory. DALI decodes on the CPU for any device, so that pixels do
    not depend on the device.
    """

    def __init__(
        self,
        records: RecordSet,
        pipeline: CachedPipeline,
        schedule: Schedule,
        *,
        device: torch.device,
        num_threads: int,
        bad: BadRecords,
        verify_crc: bool,
    ) -> None:
        super().__init__(schedule, device)
        self._records = records
        self._pipeline = pipeline
        self._num_threads = num_threads
        self._bad = bad
        self._verify_crc = verify_crc
        self.close()

    def close(self) -> None:
        self._cache: torch.Tensor | None = None
        self._steps: Iterator[Step] = iter(())
        self._drawn: deque[Fed] = deque()

    def fetch(self, epoch: int, position: int) -> Fetched:
        if self._cache is None:
            with self.clock.part(STARTING):
                self._cache = self._fill()
        if not self._drawn:
            self._draw()
        if not self._drawn or (self._drawn[0].step.epoch, self._drawn[0].step.start) != (epoch, position):
            self._drawn.clear()
            self._steps = self._schedule.steps_from(epoch, position)
            self._draw()
        fed = self._drawn.popleft()
        if not len(fed.rows):
            return Fetched(fed.step, fed.rows)
        with self.clock.part("finishing"):
            images = self._pipeline.apply(self._cache, fed.rows, fed.draws)
            return Fetched(fed.step, fed.rows, images, self._records.labels(fed.rows))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_cache": None, "_steps": iter(()), "_drawn": deque()}

    def _draw(self) -> None:
        steps: list[Step] = []
        while sum(len(step.rows) for step in steps) < DRAW_AHEAD:
            step = next(self._steps, None)
            if step is None:
                break
            if steps and step.epoch != steps[0].epoch:
                self._steps = itertools.chain([step], self._steps)  # the next draw starts with it
                break
            steps.append(step)
        if not steps:
            return
        rows = [self._bad.without(step.rows) for step in steps]
        every = np.concatenate(rows)
        with self.clock.part("drawing"):
            draws = self._pipeline.draw(
                np.asarray(self._records.table[every]), SampleRandom(self._schedule.seed, steps[0].epoch, every)
            )
        start = 0
        for step, kept in zip(steps, rows, strict=True):
            end = start + len(kept)
            self._drawn.append(Fed(step, kept, {name: draw[start:end] for name, draw in draws.items()}, []))
            start = end

    def _fill(self) -> torch.Tensor:
        count, (height, width) = len(self._records), self._pipeline.cached_size
        needed, free = 3 * count * height * width, available_memory()
        if free is not None and needed > free:
            raise ValueError(
                f"{self._records.prefix}: {count} images of {height}×{width} take {needed >> 20} MiB, but only"
                f" {free >> 20} are free:"
                f" pipeline {self._pipeline.name!r} is for small sets; use 'imagenet'"
            )
        images = torch.zeros(count, 3, height, width, dtype=torch.uint8)
        source = ExactSource(
            self._records,
            _Decode(self._pipeline),
            Schedule(count, seed=0, train=False, batch_size=DECODE_BATCH, rank=0, world_size=1),
            device=torch.device("cpu"),
            num_threads=self._num_threads,
            prefetch=2,
            bad=self._bad,
            verify_crc=self._verify_crc,
        )
        position = 0
        while position < count:
            fetched = source.fetch(0, position)
            if fetched.images is not None:
                images[torch.from_numpy(fetched.rows)] = fetched.images
            position = fetched.step.end
        source.close()
        cache = self._pipeline.prepare(images)
        if self._device.type == "cuda" and 2 * cache.numel() < torch.cuda.mem_get_info(self._device)[0]:
            return cache.to(self._device)
        return cache


def available_memory() -> int | None:
    """Return the bytes of host memory available without swapping; None if the system does not report it.

    This includes pages used as file cache (for packed records, for example), not only free pages.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


class _Decode(Pipeline):
    """A pipeline that runs the decoding graph of a cached pipeline, without random draws, to fill the cache."""

    name = "decode"

    def __init__(self, pipeline: CachedPipeline) -> None:
        super().__init__(train=False, image_size=pipeline.cached_size, mean=pipeline.mean, std=pipeline.std)
        self._graph = pipeline.graph

    def draw(self, rows: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        return {}

    def graph(self, encoded: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        return self._graph(encoded, draws, device)
