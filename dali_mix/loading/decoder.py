"""`Decoder`: run a pipeline's DALI graph over steps of records, and find records that fail to decode.

More than 300 lines: building and running the graph, and finding the records on which it fails, share their state.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import itertools
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline as DaliPipeline

from dali_mix.loading.bad_records import BadRecords
from dali_mix.loading.chunks import POSITIONS, Chunk, Question, pack
from dali_mix.loading.feed import Fed, Feed
from dali_mix.loading.order import Step
from dali_mix.loading.source import Fetched
from dali_mix.loading.stats import STARTING, Clock
from dali_mix.loading.targets import targets_of
from dali_mix.pipelines import Pipeline
from dali_mix.pipelines.steps.geometry import decode
from dali_mix.recordio import RecordSet


class Decoder:
    """A decoder that runs a pipeline's DALI graph over steps of a set's records, `prefetch` batches ahead.

    A decoder restarts after unpickling and, on a CPU, after a fork.

    A fork copies the memory of a DALI pipeline but not its threads. Running or destroying the pipeline in the child
    would wait for these threads forever, so the pipeline is leaked there: its destructor must never run, not even at
    exit.
    """

    _dali: DaliPipeline | None

    def __init__(
        self,
        records: RecordSet,
        pipeline: Pipeline,
        seed: int,
        *,
        batch_size: int,
        device: torch.device,
        num_threads: int,
        prefetch: int,
        bad: BadRecords,
        verify_crc: bool,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._records = records
        self._pipeline = pipeline = copy.copy(pipeline)
        # DALI's decoder would copy uncompressed images, which takes longer than everything else.
        pipeline.takes_pixels = pipeline.may_take_pixels and device.type == "cpu" and records.unencoded
        self._batch_size = batch_size
        self._device = device
        self.num_threads = num_threads
        self._prefetch = prefetch
        self._bad = bad
        self._feed = Feed(records, pipeline, seed, bad, verify_crc, self._clock)
        self._asked = 0
        self._dali = None
        self._ready: deque[tuple[Fed, torch.Tensor | None]] = deque()

    @classmethod
    def for_chunks(
        cls,
        records: RecordSet,
        pipeline: Pipeline,
        seed: int,
        *,
        device: torch.device,
        num_threads: int,
        verify_crc: bool,
    ) -> Decoder:
        """Return a decoder whose method `answer` decodes chunks and lists their bad records."""
        bad = BadRecords(records.prefix, skip=True)
        own: dict[str, Any] = {"batch_size": POSITIONS, "prefetch": 1, "bad": bad}
        return cls(records, pipeline, seed, device=device, num_threads=num_threads, verify_crc=verify_crc, **own)

    def fetch(self, epoch: int, position: int, steps: Callable[[int, int], Iterator[Step]]) -> Fetched:
        """Decode and return the first of `steps(epoch, position)`, and prefetch the next ones.

        The first step must start at `position` of `epoch`. `steps` is called again if a bad record has stopped DALI.

        Raises:
            ValueError: a bad record, unless bad records are skipped; or no record of the set can be read.
            StopIteration: `steps` ended without a record to decode.
            RuntimeError: DALI failed, and no record is the cause.
        """
        # Batches prefetched for another position are dropped.
        under_way = [fed for fed, _ in self._ready] + list(self._feed.under_way)
        if not any((fed.step.epoch, fed.step.start) == (epoch, position) for fed in under_way):
            self._feed.restart(steps(epoch, position))
        while True:
            while not self._ready:
                self._run(functools.partial(steps, epoch, position))
            fed, images = self._ready.popleft()
            if (fed.step.epoch, fed.step.start) == (epoch, position):
                return self._finish(fed, images)

    def _finish(self, fed: Fed, images: torch.Tensor | None) -> Fetched:
        if images is None:
            return Fetched(fed.step, fed.rows)
        with self._clock.part("finishing"):
            targets = targets_of(self._records, self._pipeline, fed.rows, fed.draws)
            sizes = None
            if self._pipeline.image_size is None:
                sizes = self._pipeline.sizes(np.asarray(self._records.table[fed.rows]), fed.draws)
        return Fetched(fed.step, fed.rows, images, targets, sizes)

    def answer(self, question: Question) -> Chunk:
        """Return the chunk for a question of at most `batch_size` records.

        Nothing is decoded ahead, so `prefetch` should be 1. Bad records are listed in the answer if they are skipped.
        Otherwise, raise ValueError naming the first one.
        """
        rows, self._asked = question.rows, self._asked + 1
        # Each question gets a new position.
        step, fetched = Step(question.epoch, self._asked, self._asked + 1, self._asked, rows), None
        if len(self._bad.without(rows)):
            with contextlib.suppress(StopIteration):  # raised if all records of the step are bad
                fetched = self.fetch(question.epoch, self._asked, lambda *_: iter([step]))
        bad = self._bad.among(rows)
        if fetched is None or fetched.images is None:
            return pack(rows[:0], np.empty((0, 3, 0, 0), np.uint8), [], None, bad)
        images = np.ascontiguousarray(fetched.images.cpu().numpy())
        return pack(fetched.rows, images, fetched.targets, fetched.sizes, bad)

    def close(self) -> None:
        """Free threads and memory. The next fetch restarts the decoder."""
        self._dali = None
        self._ready.clear()
        self._feed.close()

    def abandon(self) -> None:
        """Drop the parent's DALI pipeline in a forked child, without destroying it.

        On a CPU, the decoder is also closed, and the next fetch restarts it. On a GPU, it must not be used again.
        """
        if self._dali is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._dali._pipe))
            self._dali._pipe = None  # or DALI's exit handler would destroy it
            if self._device.type == "cpu":  # GPU memory cannot be freed here
                self.close()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_dali": None, "_ready": deque()}

    def _run(self, again: Callable[[], Iterator[Step]]) -> None:
        try:
            if self._dali is None:
                with self._clock.part(STARTING):
                    self._dali = self._build(self._feed, self._batch_size)
            with self._clock.part("dali"):
                out, *sizes = self._dali.run()
        except RuntimeError as error:
            self._recover(error)
            self._feed.restart(again())
            return
        except BaseException:
            self.close()
            raise
        self._note_empty_steps()
        if sizes and (wrong := wrong_sizes(self._records, self._feed.under_way[0].rows, sizes[0])):
            self.close()
            self._note(wrong)
            self._feed.restart(again())
            return
        self._ready.append((self._feed.under_way.popleft(), to_torch(out)))

    def _note_empty_steps(self) -> None:
        while self._feed.under_way and not len(self._feed.under_way[0].rows):
            self._ready.append((self._feed.under_way.popleft(), None))

    def _build(self, source: Callable[[], list[Any]] | Iterator[list[Any]], batch_size: int) -> DaliPipeline:
        @pipeline_def(enable_conditionals=self._pipeline.conditional)
        def define() -> tuple[DataNode, ...]:
            encoded, *draws = fn.external_source(
                source=source, num_outputs=1 + len(self._feed.names), batch=True, no_copy=True
            )
            named = {name: draws[index] for index, name in enumerate(self._feed.names)}
            device = "gpu" if self._device.type == "cuda" else "cpu"
            if self._pipeline.takes_pixels:
                return (self._pipeline.graph(encoded, named, device),)
            # Make the decoder depend on the sizes, so `peek_image_shape` reads a bad header first and fails cleanly.
            # The decoder of DALI 2.4.0, in batches of 32 or more, would leave threads running that crash the process.
            sizes = fn.peek_image_shape(encoded)
            encoded = fn.reshape(encoded, shape=sizes[:1] * 0 - 1)
            return self._pipeline.graph(encoded, named, device), sizes

        with warnings.catch_warnings(record=True) as caught:
            dali = define(
                batch_size=batch_size,
                num_threads=self.num_threads,
                device_id=self._device.index,  # None on the CPU
                prefetch_queue_depth=self._prefetch,
                exec_dynamic=True,
            )
        for warning in caught:
            # Hide warnings that users cannot fix. DALI's own augmentations (see auto_augment) use deprecated names of
            # operators.
            if "nvidia.dali.fn.experimental" not in str(warning.message):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        dali.build()
        return dali

    def _recover(self, error: RuntimeError) -> None:
        """Close the decoder after DALI raised `error`, and pass the bad records that caused it to `BadRecords.found`.

        These are the bad records of the first pending step that has any. `BadRecords.found` raises ValueError unless
        bad records are skipped. If no pending step has a bad record, raise `error` again.
        """
        under_way = list(self._feed.under_way)
        self.close()
        for fed in under_way:
            if found := (not self._pipeline.takes_pixels and self._probe(fed)) or self._probe_graph(fed):
                self._note(found)
                return
        raise error

    def _note(self, found: list[tuple[int, str]]) -> None:
        for row, reason in found:
            self._bad.found(row, f"{self._records.where(row)}: {reason}", decode=True)

    def _probe(self, fed: Fed) -> list[tuple[int, str]]:
        """Decode each record of a step separately; return (record number, reason) for each bad record.

        A record is bad if decoding fails, or if the image does not have the size in the set's table.
        """
        bad: list[tuple[int, str]] = []
        decoder = None
        for image, row in zip(fed.inputs[0], fed.rows.tolist(), strict=True):
            decoder = decoder or SingleDecoder(self._device)
            try:
                size = decoder.size(image)
            except RuntimeError as error:
                decoder = None
                bad.append((row, f"the image cannot be decoded: {_reason(error)}"))
                continue
            if size != stated_size(self._records, row):
                bad.append((row, wrong_size(self._records, row, size)))
        return bad

    def _probe_graph(self, fed: Fed) -> list[tuple[int, str]]:
        """Run the pipeline for each record of a step separately; return (record number, reason) for each failure.

        Unlike `_probe`, this finds failures that occur only in the decoded window of an image. If a step has several
        records and all of them fail, the pipeline is at fault, and the returned list is empty.
        """
        bad: list[tuple[int, str]] = []
        for at, row in enumerate(fed.rows.tolist()):
            alone = [values[at : at + 1] for values in fed.inputs]
            try:
                self._build(itertools.repeat(alone), 1).run()
            except RuntimeError as error:
                bad.append((row, f"DALI fails on the image: {_reason(error)}"))
        return bad if len(bad) < len(fed.rows) or len(bad) == 1 else []


class SingleDecoder:
    """A decoder on `device` for one image at a time. It cannot be used after a RuntimeError."""

    def __init__(self, device: torch.device) -> None:
        self._image = np.empty(0, np.uint8)
        self._dali = DaliPipeline(
            batch_size=1,
            num_threads=1,
            device_id=device.index,
            exec_async=False,
            exec_pipelined=False,
            prefetch_queue_depth=1,
        )
        with self._dali:
            encoded = fn.external_source(source=lambda: [self._image], batch=True)
            self._dali.set_outputs(decode(encoded, "gpu" if device.type == "cuda" else "cpu"))
        self._dali.build()

    def size(self, encoded: np.ndarray) -> tuple[int, int]:
        """Decode an image and return its height and width. Raise RuntimeError if decoding fails."""
        self._image = encoded
        (out,) = self._dali.run()
        height, width, _ = out.shape()[0]
        return height, width


def stated_size(records: RecordSet, row: int) -> tuple[int, int]:
    """Return the height and width of record `row` according to the set's table."""
    return int(records.table["height"][row]), int(records.table["width"][row])


def wrong_size(records: RecordSet, row: int, size: Sequence[int]) -> str:
    """Return the message for a record whose image `size` (height, width) is not that in the set's table."""
    height, width = stated_size(records, row)
    return f"the image is {size[0]}×{size[1]} pixels, the manifest says {height}×{width}"


def wrong_sizes(records: RecordSet, rows: np.ndarray, sizes: object) -> list[tuple[int, str]]:
    """Return (record number, message) for each record whose image size found by DALI is not that in the set's table.

    `sizes`: results of `fn.peek_image_shape` for `rows` (B,), in order. Crops and resized sizes are drawn from the
    table's sizes, so an image of another size would silently be distorted or cut.
    """
    found = np.asarray(sizes.as_tensor())[: len(rows), :2]  # type: ignore[attr-defined]  # as in `to_torch`
    table = records.table[rows]
    differ = (found[:, 0] != table["height"]) | (found[:, 1] != table["width"])
    return [(int(rows[at]), wrong_size(records, int(rows[at]), found[at])) for at in np.flatnonzero(differ)]


def to_torch(out: object) -> torch.Tensor:
    """Convert a DALI output batch to a tensor (B, 3, H, W) without a copy.

    A batch with layout HWC becomes channels_last. The tensor keeps the memory of the batch alive.
    """
    images = torch.from_dlpack(out.as_tensor())  # type: ignore[attr-defined]  # DALI ships no types for its tensor lists
    return images.permute(0, 3, 1, 2) if out.layout() == "HWC" else images  # type: ignore[attr-defined]  # as above


def _reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "encountered:" in lines[:-1]:  # raised by a DALI operator, which is named in an earlier line
        return re.sub(r"^\[\S*\] ", "", lines[lines.index("encountered:") + 1])
    matching = [line for line in lines if "failure" in line.lower() or "error" in line.lower()]
    return (matching[-1] if matching else lines[0]) if lines else "unknown reason"
