"""`Stats`: where a loader's time goes, and what limits it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import time
from collections.abc import Iterator

LOADING = ("reading", "checking", "drawing", "dali", "service", "finishing", "other")
STARTING = "starting"  # DALI: counted by the clock, no part of loading
READY = 0.05  # share of the time spent waiting, up to which the loop is what limits
BUSY = 0.7  # share of the decoding cores from which they are busy


class Clock:
    """Adds up seconds by part. One part is running at a time, or none: a part inside another stops it meanwhile."""

    def __init__(self) -> None:
        self._running: str | None = None
        self.reset()

    def reset(self) -> None:
        """Begin again at zero. What is running goes on."""
        self.seconds: dict[str, float] = {}
        self.batches = self.images = 0
        self.cpu, self.page_reads = 0.0, 0
        self._since, self._used = time.perf_counter(), _usage()

    def stop(self) -> None:
        """Begin again at zero, with nothing running: in another process."""
        self._running = None
        self.reset()

    def flush(self) -> None:
        """Count what is running up to now."""
        self.switch(self._running)

    def switch(self, part: str | None) -> str | None:
        """Let `part` run from now on, or nothing. Return what was running."""
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
        """Let a part run in this block."""
        before = self.switch(name)
        try:
            yield
        finally:
            self.switch(before)


def _usage() -> tuple[float, int]:
    """Return the CPU seconds of all threads of this process so far, and the pages that had to be read from disk."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_majflt


@dataclasses.dataclass(frozen=True)
class Stats:
    """Where a loader's time went, in seconds of the thread that iterates. Starting DALI up is left out.

    Attributes:
        batches, images: handed over.
        reading: finding records in the mapped files.
        checking: their checksums, of each record once; the first reading from disk is in it.
        drawing: what the pipeline draws: crops, flips, colours.
        dali: waiting until DALI has decoded, resized and changed a batch, which it does ahead.
        service: waiting for a pool of workers.
        finishing: targets, normalizing, copies to the device.
        other: the loader's own Python.
        outside: between batches: the loop that takes them.
        cores: cores that the process kept busy, all threads.
        threads: DALI's, 0 with a pool.
        page_reads: pages of memory that had to be read from disk.
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
        """Return what `clock` has counted."""
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
        """Return the seconds that the loop waited for batches: all parts but `outside`."""
        return sum(getattr(self, name) for name in LOADING)

    @property
    def seconds(self) -> float:
        """Return the seconds that all parts took together."""
        return self.waiting + self.outside

    @property
    def images_per_second(self) -> float:
        """Return the rate over all that time."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def limit(self) -> str:
        """Return, in one sentence, what keeps it from being faster, and what helps."""
        if not self.batches:
            return "nothing was loaded yet"
        share = self.waiting / self.seconds
        if share <= READY:
            return f"the loop that takes the batches: it waits for them {share:.1%} of the time"
        parts = {name: getattr(self, name) for name in LOADING}
        most = max(parts, key=lambda name: parts[name])
        if most == "service":
            return "the pool of workers: `dali-mix serve --status` shows how busy they are; start more with --join"
        if self.page_reads > self.images / 4 and self.cores < BUSY * max(self.threads, 1):
            return (
                f"the disk: {self.page_reads / self.images:.1f} reads an image while {self.cores:.1f} cores are busy;"
                " copy the set to a faster disk, or pack it smaller (--resize)"
            )
        if most == "dali" and self.cores < BUSY * self.threads:
            return (
                f"the cores: decoding on {self.threads} threads gets {self.cores:.1f} of them; other processes, or the"
                " container's limit, have the rest"
            )
        if most == "dali":
            return self._decoding()
        if most == "checking":
            return "checksums, which are compared once for each record: it is over after an epoch"
        return f"{most}, in Python, on one core"

    def _decoding(self) -> str:
        cores = len(os.sched_getaffinity(0))
        more = f"give it more of the {cores} cores (num_threads), " if self.threads < cores else ""
        return (
            f"decoding and the pipeline's steps, on {self.threads} threads ({self.cores:.1f} of {cores} cores are"
            f" busy): {more}pack smaller images (--resize), decode on a GPU, or in a pool of workers (dali-mix serve)"
        )
