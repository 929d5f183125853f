"""Threads for the loops that mix on a CPU.

They are started on demand and stay idle between calls. A call takes idle threads and starts new ones if there are too
few, so concurrent callers do not wait for one another.
"""

from __future__ import annotations

import _thread
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

import torch

_COST_OF_A_THREAD = 1 << 20  # least work per thread, in bytes that could be copied in the same time


def threads_for(count: int, cost: int) -> int:
    """Return the number of threads for `count` images.

    cost: total work, in bytes that could be copied in the same time.
    """
    return max(1, min(torch.get_num_threads(), count, cost // _COST_OF_A_THREAD))


def cut(count: int, parts: int) -> list[slice]:
    """Return `parts` slices of about equal length that cover range(count). numpy's array_split would take 30 µs."""
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(bounds)]


@dataclass
class _Call:
    """State of one call of `together`, shared with its threads.

    Attributes:
        errors: exceptions raised by jobs, and by Ctrl-C on the caller's thread.
        ended: one entry for each finished job that did not run on the caller's thread.
        bell: receives an item after each entry of `ended`, to wake the caller.
    """

    errors: list[BaseException] = field(default_factory=list)
    ended: list[None] = field(default_factory=list)
    bell: SimpleQueue[None] = field(default_factory=SimpleQueue)


# An executor is not used: Ctrl-C inside the Python code of a future leaves its lock held, and the caller hangs. Putting
# an item into a SimpleQueue, or getting one, is a single C call.
_Inbox = SimpleQueue[tuple[Callable[[], None], _Call]]
_idle: list[_Inbox] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # the threads exist in the parent only


def _serve(inbox: _Inbox) -> None:
    """Run the jobs put into `inbox`, one after another, forever.

    After each job, add its error, if any, to the job's call, put `inbox` into `_idle`, and report the end to the call.
    """
    while True:
        job, call = inbox.get()
        try:
            job()
        except BaseException as error:
            call.errors.append(error)
        del job  # it may reference a batch
        _idle.append(inbox)
        call.ended.append(None)
        call.bell.put(None)
        del call  # its errors reference the data of the call


def _threads(count: int) -> list[_Inbox]:
    """Remove `count` threads from `_idle`, starting new ones if needed, and return their inboxes.

    A thread puts its inbox back into `_idle` after each job, so the caller must put only one job into each inbox. If
    this function fails, it puts all inboxes back.
    """
    inboxes: list[_Inbox] = []
    try:
        while len(inboxes) < count:
            try:
                inboxes.append(_idle.pop())
            except IndexError:  # another thread may take the last one
                inbox: _Inbox = SimpleQueue()
                _thread.start_new_thread(_serve, (inbox,))  # threading.Thread would wait until it runs
                inboxes.append(inbox)
    except BaseException:  # Ctrl-C, or the system cannot start more threads
        _idle.extend(inboxes)
        raise
    return inboxes


def together(jobs: Sequence[Callable[[], None]]) -> None:
    """Run the jobs in parallel and wait for all of them; then raise the first error, if any.

    jobs: at least one. The first runs on the caller's thread.
    """
    own, *others = jobs
    call = _Call()
    inboxes = _threads(len(others))
    handed: list[None] = []
    try:
        # One C call, so that Ctrl-C arrives before or after it and `handed` is correct.
        handed.extend(map(SimpleQueue.put, inboxes, [(job, call) for job in others]))
        own()
    except BaseException as error:
        call.errors.append(error)
    while True:
        try:
            while len(call.ended) < len(handed):
                call.bell.get()
            break
        except BaseException as error:  # Ctrl-C: keep waiting, since jobs use the batch until they have ended
            call.errors.append(error)
    if call.errors:
        raise call.errors.pop(0)
