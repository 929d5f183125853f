"""`ExactSource`: batches decoded by DALI in the order of a `Schedule`, from any position of any epoch."""

from __future__ import annotations

from typing import Any

from dali_mix.loading.decoder import Decoder
from dali_mix.loading.order import Schedule
from dali_mix.loading.source import Fetched, Source
from dali_mix.pipelines import Pipeline
from dali_mix.recordio import RecordSet


class ExactSource(Source):
    """A source that decodes in this process, `prefetch` batches ahead.

    `options` are the keyword arguments of `Decoder` except batch_size and clock.
    """

    def __init__(self, records: RecordSet, pipeline: Pipeline, schedule: Schedule, **options: Any) -> None:
        super().__init__(schedule, options["device"])
        self.threads = options["num_threads"]
        self._decoder = Decoder(
            records, pipeline, schedule.seed, batch_size=schedule.batch_size, clock=self.clock, **options
        )

    def fetch(self, epoch: int, position: int) -> Fetched:
        return self._decoder.fetch(epoch, position, self._schedule.steps_from)

    def close(self) -> None:
        self._decoder.close()

    def abandon(self) -> None:
        super().abandon()
        self._decoder.abandon()
