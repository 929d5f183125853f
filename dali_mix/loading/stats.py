"""`Stats`: how a loader spends its time, and what limits its speed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import time
from collections.abc import Iterator

LOADING = ("reading", "checking", "drawing", "dali", "service", "finishing", "other")
STARTING = "starting"  # start-up of DALI, and decoding a set to be cached: timed, but not part of loading
READY = 0.05  # if the loop waits for batches at most this share of the time, the loop is the limit
BUSY = 0.7  # with fewer busy cores per DALI thread, the disk or other processes are the limit


class Clock:
    """A clock that accumulates the seconds spent in each part of loading, and counts CPU seconds and page faults.

    At most one part runs at a time: a nested part pauses the outer one.

    Attributes:
        seconds: seconds of each part so far, by name.
        batches, images: numbers of batches and images yielded, counted by the loader.
        cpu: CPU seconds of the process while any part except `STARTING` ran.
        page_reads: number of page faults that read from disk in the same time.
    """

    def __init__(self) -> None:
        self._running: str | None = None
        self.reset()

    def reset(self) -> None:
        """Reset all counts to zero. The running part continues."""
        self.seconds: dict[str, float] = {}
        self.batches = self.images = 0
        self.cpu, self.page_reads = 0.0, 0
        self._since, self._used = time.perf_counter(), _usage()

    def stop(self) -> None:
        """Stop the running part and reset all counts to zero; called in a copy made by fork or pickle."""
        self._running = None
        self.reset()

    def flush(self) -> None:
        """Add the running part's time, CPU seconds and page faults up to now to the counts. The part continues."""
        self.switch(self._running)

    def switch(self, part: str | None) -> str | None:
        """Stop the running part, add its time to the counts, and start `part`. Return the stopped part.

        None stands for no part, as argument and as result.
        """
        now, used, before = time.perf_counter(), _usage(), self._running
        if before is not None:
            self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        if before not in (None, STARTING):
            self.cpu += used[0] - self._used[0]
            self.page_reads += used[1] - self._used[1]
        self._running, self._since, self._used = part, now, used
        return before

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time in the block towards the part `name`."""
        before = self.switch(name)
        try:
            yield
        finally:
            self.switch(before)


def _usage() -> tuple[float, int]:
    """Return this process's CPU seconds so far, over all threads, and its number of page faults that read from disk."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_majflt


@dataclasses.dataclass(frozen=True)
class Stats:
    """How a loader spent its time, in seconds, measured in the iterating thread.

    The start-up of DALI and the decoding of a set to be cached are excluded.

    Attributes:
        batches, images: numbers of batches and images yielded.
        reading: locating records in the mapped files.
        checking: verifying each record's checksum once; includes the first read from disk.
        drawing: drawing the pipeline's random values: crops, flips, colours.
        dali: waiting for DALI to decode, resize and augment a batch, which it does ahead of time.
        service: waiting for a worker pool.
        finishing: building targets, normalizing, and copying to the device.
        other: other Python code of the loader.
        outside: between batches, in the consuming loop.
        cores: average number of cores the process kept busy, over all threads.
        threads: number of DALI threads; 0 if batches come from a pool or from a cache.
        page_reads: number of page faults that read from disk.
    """

    batches: int
    images: int
    reading: float
    checking: float
    drawing: float
    dali: float
    service: float
    finishing: float
    other: float
    outside: float
    cores: float
    threads: int
    page_reads: int

    @classmethod
    def of(cls, clock: Clock, threads: int) -> Stats:
        """Return the statistics that `clock` has counted up to now, for a source with `threads` DALI threads."""
        clock.flush()
        seconds = {name: clock.seconds.get(name, 0.0) for name in (*LOADING, "outside")}
        total = max(sum(seconds.values()), 1e-9)
        return cls(
            clock.batches,
            clock.images,
            **seconds,
            cores=clock.cpu / total,
            threads=threads,
            page_reads=clock.page_reads,
        )

    @property
    def waiting(self) -> float:
        """Return the seconds the loop waited for batches: all parts except `outside`."""
        return sum(getattr(self, name) for name in LOADING)

    @property
    def seconds(self) -> float:
        """Return the total seconds of all parts."""
        return self.waiting + self.outside

    @property
    def images_per_second(self) -> float:
        """Return the number of images per second over the measured time."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def limit(self) -> str:
        """Describe in one sentence what limits the loader's speed and how to improve it."""
        if not self.batches:
            return "nothing was loaded yet"
        share = self.waiting / self.seconds
        if share <= READY:
            return f"the loop that consumes the batches: it waits for them only {share:.1%} of the time"
        parts = {name: getattr(self, name) for name in LOADING}
        most = max(parts, key=lambda name: parts[name])
        if most == "service":
            return (
                "the pool of workers: `dali-mix serve --status` shows how busy they are; start more with"
                " `dali-mix serve --join`"
            )
        if self.page_reads > self.images / 4 and self.cores < BUSY * max(self.threads, 1):
            return (
                f"the disk: {self.page_reads / self.images:.1f} reads per image while {self.cores:.1f} cores are busy;"
                " copy the set to a faster disk, or pack it smaller (`dali-mix pack --resize`)"
            )
        if most == "dali" and self.cores < BUSY * self.threads:
            return (
                f"the cores: decoding on {self.threads} threads gets only {self.cores:.1f} of them; other processes or"
                " the container's limit take the rest"
            )
        if most == "dali":
            return self._decoding()
        if most == "checking":
            return "checksums, which are verified once per record: this ends after an epoch"
        return f"{most}, in Python, on one core"

    def _decoding(self) -> str:
        cores = len(os.sched_getaffinity(0))
        more = f"use more of the {cores} cores (num_threads), " if self.threads < cores else ""
        return (
            f"decoding and the pipeline's steps, on {self.threads} threads ({self.cores:.1f} of {cores} cores are"
            f" busy): {more}pack smaller images (`dali-mix pack --resize`), decode on a GPU, or in a pool of workers"
            " (`dali-mix serve`)"
        )
