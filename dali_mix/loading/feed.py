"""`Feed`: the records of each step and their random draws, as inputs of DALI's external source."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from dali_mix.loading.bad_records import BadRecords
from dali_mix.loading.order import Step
from dali_mix.loading.stats import Clock
from dali_mix.pipelines import Pipeline, SampleRandom
from dali_mix.recordio import RecordSet


@dataclasses.dataclass
class Fed:
    """A pending step.

    Attributes:
        rows: the step's records without bad ones.
        draws: the random values drawn for `rows`, by name.
        inputs: DALI's inputs, kept alive while DALI reads them.
    """

    step: Step
    rows: np.ndarray
    draws: dict[str, np.ndarray]
    inputs: list[Any]


class Feed:
    """The source of DALI's `fn.external_source`: each call adds the next step to `under_way` and returns its inputs.

    `under_way` has the order of DALI's outputs. For each output, the decoder removes the first step and reads its
    labels, since labels do not pass through DALI.

    If a step has only bad records, the call adds it to `under_way` without rows and continues with the next step. DALI
    has no output for a step without rows, so the decoder removes it without one. A call raises ValueError if it has
    passed consecutive steps of this kind with at least as many records as the set has, and StopIteration if there is no
    further step.

    Attributes:
        under_way: pending steps.
        names: names of the pipeline's random values, in the order of DALI's inputs.
    """

    def __init__(
        self, records: RecordSet, pipeline: Pipeline, seed: int, bad: BadRecords, verify_crc: bool, clock: Clock
    ) -> None:
        self.under_way: deque[Fed] = deque()
        self.names = list(pipeline.draw(np.asarray(records.table[:1]), SampleRandom(seed, 0, np.zeros(1, np.int64))))
        self._records = records
        self._pipeline = pipeline
        self._image = records.pixels if pipeline.takes_pixels else records.encoded
        self._seed = seed
        self._bad = bad
        self._clock = clock
        self._unverified = np.ones(len(records), dtype=bool) if verify_crc else None
        self._steps: Iterator[Step] = iter(())

    def restart(self, steps: Iterator[Step]) -> None:
        """Continue with `steps`; pending steps are kept."""
        self._steps = steps

    def close(self) -> None:
        """Drop the pending and the remaining steps."""
        self.under_way.clear()
        self._steps = iter(())

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"under_way": deque(), "_steps": iter(())}

    def __call__(self) -> list[Any]:
        empty = 0
        while True:
            step = next(self._steps)
            if empty >= len(self._records):
                raise ValueError(f"{self._records.prefix}: none of its records can be read: {self._bad.skipped[0][1]}")
            fed = self.prepare(step)
            self.under_way.append(fed)
            if len(fed.rows):
                return fed.inputs
            empty += len(step.rows)

    def prepare(self, step: Step) -> Fed:
        """Read the records of a step, draw their random values, and return the pending step.

        Its `inputs` are a list of images, followed by the draws in the order of `names`. Images are pixels if the
        pipeline takes pixels, else encoded, and views of the mapped file where possible. Records that cannot be read
        are left out and passed to `BadRecords.found`, which raises ValueError unless bad records are skipped.
        """
        images: list[np.ndarray] = []
        rows = self._bad.without(step.rows)
        with self._clock.part("reading"):
            for row in rows.tolist():
                image = self._read(row)
                if image is not None:
                    images.append(image)
        if len(images) < len(rows):
            rows = self._bad.without(rows)
        with self._clock.part("drawing"):
            draws = self._draw(step.epoch, rows)
        return Fed(step, rows, draws, [images, *(np.ascontiguousarray(draws[name]) for name in self.names)])

    def _draw(self, epoch: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        table, random = np.asarray(self._records.table[rows]), SampleRandom(self._seed, epoch, rows)
        if self._pipeline.draws_from_boxes and self._records.task.boxes:
            boxes = [label[:, 1:5] for label in self._records.labels(rows)]
            return self._pipeline.draw_from_boxes(table, random, boxes)
        return self._pipeline.draw(table, random)

    def _read(self, row: int) -> np.ndarray | None:
        try:
            if self._unverified is not None and self._unverified[row]:
                with self._clock.part("checking"):
                    self._records.checked_payload(row)
                self._unverified[row] = False
            image = self._image(row)
            if not image.size:
                raise ValueError(f"{self._records.where(row)}: contains no image")
        except ValueError as error:
            self._bad.found(row, str(error))
            return None
        return image
