"""Threads for the loops that mix on a CPU: started when first wanted, asleep between calls.

Waking one takes 30 µs where starting one takes 100, which is a few per cent of the time a large batch is mixed in.
Each belongs to one call at a time, so callers on several threads do not wait for one another; a forked process starts
its own. They keep the processors they were started on, whatever the process is bound to later.
"""

from __future__ import annotations

import _thread
import itertools
import os
from collections.abc import Callable, Sequence

import torch

_COST_OF_A_THREAD = 1 << 20  # bytes that are copied in the time that a thread must save


def threads_for(count: int, cost: int) -> int:
    """Return how many threads to share `count` images among. cost: of all of them, in bytes copied in the same time."""
    return max(1, min(torch.get_num_threads(), count, cost // _COST_OF_A_THREAD))


def cut(count: int, parts: int) -> list[slice]:
    """Return `parts` slices of about the same length that cover `count`; numpy's array_split takes 30 µs."""
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(bounds)]


class _Job:
    """What a helper runs for a call, and whether it has ended."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work
        self._lock = _thread.allocate_lock()
        self._lock.acquire()
        self._ended = False
        self.errors: list[BaseException] = []

    def run(self) -> None:
        try:
            assert self._work is not None
            self._work()
        except BaseException as error:
            self.errors.append(error)
        self._work = None  # a batch, perhaps

    def end(self) -> None:
        self._ended = True
        self._lock.release()

    def wait(self) -> None:
        """Returns when the job has ended, Ctrl-C or not: what it works on is the caller's again."""
        while not self._ended:
            try:
                self._lock.acquire()
            except BaseException as error:  # a wait that is cut off goes on
                self.errors.append(error)


class _Helper:
    """A thread that runs one job after another."""

    def __init__(self) -> None:
        self._wanted = _thread.allocate_lock()
        self._wanted.acquire()
        self._job: _Job | None = None
        _thread.start_new_thread(self._serve, ())  # threading.Thread would wait until it runs

    def start(self, job: _Job) -> None:
        self._job = job
        self._wanted.release()

    def _serve(self) -> None:
        while True:
            self._wanted.acquire()
            job, self._job = self._job, None
            assert job is not None
            job.run()
            _idle.append(self)
            job.end()
            del job  # its errors hold what was worked on


_idle: list[_Helper] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # its threads are the parent's


def _helpers(count: int) -> list[_Helper]:
    """`count` helpers that no other call has."""
    helpers: list[_Helper] = []
    try:
        while len(helpers) < count:
            try:
                helpers.append(_idle.pop())
            except IndexError:  # another thread may take the last one
                helpers.append(_Helper())
    except BaseException:  # the system starts no more threads
        _idle.extend(helpers)
        raise
    return helpers


def together(jobs: Sequence[Callable[[], None]]) -> None:
    """Runs the jobs side by side, the first on the caller's thread; returns, or raises what one raised, when all have
    ended.
    """
    own, *others = map(_Job, jobs)
    for helper, job in zip(_helpers(len(others)), others, strict=True):
        helper.start(job)
    own.run()
    for job in others:
        job.wait()
    errors = [error for job in (own, *others) for error in job.errors]
    if errors:
        raise errors[0]
