"""Threads for the loops that mix on a CPU: started when first wanted, asleep between calls.

Waking one takes 30 µs where starting one takes 100, which is a few per cent of the time a large batch is mixed in.
Each belongs to one call at a time, so callers on several threads do not wait for one another; a forked process starts
its own.
"""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable, Sequence


class _Helper:
    """A thread that runs one job after another."""

    def __init__(self) -> None:
        self._wanted, self._done = _thread.allocate_lock(), _thread.allocate_lock()
        self._wanted.acquire()
        self._done.acquire()
        self._job: Callable[[], None] | None = None
        self._error: BaseException | None = None
        _thread.start_new_thread(self._serve, ())  # threading.Thread would wait until it runs

    def start(self, job: Callable[[], None]) -> None:
        self._job = job
        self._wanted.release()

    def wait(self) -> BaseException | None:
        """Returns when the job has ended: what it raised."""
        self._done.acquire()
        error, self._error = self._error, None
        return error

    def _serve(self) -> None:
        while True:
            self._wanted.acquire()
            job, self._job = self._job, None
            try:
                assert job is not None
                job()
            except BaseException as error:
                self._error = error
            del job  # a batch, perhaps
            self._done.release()


_idle: list[_Helper] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # its threads are the parent's


def _helper() -> _Helper:
    try:
        return _idle.pop()
    except IndexError:
        return _Helper()


def together(jobs: Sequence[Callable[[], None]]) -> None:
    """Runs the jobs side by side, the first on the caller's thread; returns, or raises what one raised, when all have
    ended.
    """
    helpers = [_helper() for _ in jobs[1:]]
    for helper, job in zip(helpers, jobs[1:], strict=True):
        helper.start(job)
    errors: list[BaseException] = []
    try:
        jobs[0]()
    except BaseException as error:
        errors.append(error)
    for helper in helpers:
        raised = helper.wait()
        _idle.append(helper)
        if raised is not None:
            errors.append(raised)
    if errors:
        raise errors[0]
