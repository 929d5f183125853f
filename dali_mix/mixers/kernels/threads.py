"""Threads for the loops that mix on a CPU: a pool for the process, which grows to what its callers need at one time.

Waking a thread takes 40 µs, a per cent of the time in which a batch of photographs is mixed.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

_COST_OF_A_THREAD = 1 << 20  # bytes that are copied in the time that a thread must save
_MOST_THREADS = 256  # one is started only if all others are at work


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MOST_THREADS, "dali_mix")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # its threads are the parent's


def threads_for(count: int, cost: int) -> int:
    """Return how many threads to share `count` images among. cost: of all of them, in bytes copied in the same time."""
    return max(1, min(torch.get_num_threads(), count, cost // _COST_OF_A_THREAD))


def cut(count: int, parts: int) -> list[slice]:
    """Return `parts` slices of about the same length that cover `count`; numpy's array_split takes 30 µs."""
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(bounds)]


def together(jobs: Sequence[Callable[[], None]]) -> None:
    """Run the jobs side by side, the first on the caller's thread; return or raise when all have ended, not before."""
    own, *others = jobs
    futures = [_pool().submit(job) for job in others]
    try:
        own()
    finally:
        _wait(futures)
    for future in futures:
        future.result()


def _wait(futures: Sequence[Future[None]]) -> None:
    """Wait for all, Ctrl-C or not: only then the batch that they work on is the caller's again."""
    interrupts = []
    for future in futures:
        while not future.done():
            try:
                future.exception()
            except BaseException as interrupt:  # not of the job, whose error is returned
                interrupts.append(interrupt)
    if interrupts:
        raise interrupts[0]
