"""Worker threads for mixing on the CPU: errors, interrupts, concurrent callers and forks."""

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
import torch

from dali_mix.mixers import CutMix
from dali_mix.mixers.kernels import numba_paste, threads


def test_jobs_run_concurrently():
    meeting = threading.Barrier(4, timeout=20)
    seen = []
    threads.together([lambda: seen.append((meeting.wait(), threading.get_ident()))] * 4)
    assert sorted(index for index, _ in seen) == [0, 1, 2, 3]
    assert len({thread for _, thread in seen}) == 4
    assert threading.get_ident() in {thread for _, thread in seen}


def test_idle_threads_are_reused():
    def idents():
        meeting, seen = threading.Barrier(3, timeout=20), set()
        threads.together([lambda: (meeting.wait(), seen.add(threading.get_ident()))] * 3)
        return seen

    idents()
    asleep = len(threads._idle)
    for _ in range(5):
        idents()
    assert len(threads._idle) == asleep >= 2


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_error_is_raised_after_all_jobs_end(failing):
    ended = []

    def work(number):
        if number == failing:
            raise RuntimeError(f"in job {number}")
        threading.Event().wait(0.05)
        ended.append(number)

    with pytest.raises(RuntimeError, match=f"in job {failing}"):
        threads.together([lambda number=number: work(number) for number in range(3)])
    assert sorted(ended) == [number for number in range(3) if number != failing]
    threads.together([lambda: None] * 3)  # the error does not persist


def test_finished_job_is_not_kept_in_memory():
    class Batch:
        pass

    batch = Batch()
    gone = weakref.ref(batch)
    threads.together([lambda: None, lambda batch=batch: None])
    del batch
    assert gone() is None, "an idle thread keeps a batch in memory"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
def test_interrupt_waits_for_jobs_and_keeps_threads():
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    threads.together([lambda: None] * 3)
    asleep, ended = len(threads._idle), []
    try:
        for _ in range(3):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                threads.together([lambda: None, *[lambda: (time.sleep(0.3), ended.append(1))] * 2])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(ended) == 6
    assert len(threads._idle) == asleep


def _run_code(code):
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
def test_random_interrupts_do_not_hang():
    code = """
import random, signal
from dali_mix.mixers.kernels import threads

signal.signal(signal.SIGALRM, signal.default_int_handler)
interrupts = 0
while interrupts < 500:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 5e-4))
        while True:
            threads.together([lambda: None] * 4)
    except KeyboardInterrupt:
        interrupts += 1
"""
    _run_code(code)


def test_jobs_run_after_main_thread_ends():
    code = """
import atexit, threading
from dali_mix.mixers.kernels import threads

done = []
jobs = [lambda: done.append(1)] * 2

def work():
    threading.main_thread().join()
    threads.together(jobs)

threading.Thread(target=work).start()
atexit.register(lambda: print(len(done)))
atexit.register(threads.together, jobs)
"""
    assert _run_code(code) == "4\n"


def test_failed_thread_start_keeps_other_threads(monkeypatch):
    threads.together([lambda: None] * 3)
    asleep = len(threads._idle)

    def refuse(*arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads._thread, "start_new_thread", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        threads.together([lambda: None] * (asleep + 2))
    assert len(threads._idle) == asleep
    threads.together([lambda: None] * (asleep + 1))


def test_nested_jobs_run():
    done = []
    threads.together([lambda: threads.together([lambda: done.append(1)] * 3)] * 3)
    assert len(done) == 9


def test_concurrent_callers_do_not_share_threads():
    meeting = threading.Barrier(8, timeout=20)  # four callers with one helper each, none shared
    callers = [threading.Thread(target=threads.together, args=([meeting.wait] * 2,)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert not any(caller.is_alive() for caller in callers)
    assert not meeting.broken


def _send_negated(sender):
    mixed = np.arange(8)
    threads.together([lambda part=part: np.negative(mixed[part::4], out=mixed[part::4]) for part in range(4)])
    sender.send(mixed.tolist())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_process_starts_its_own_threads():
    threads.together([lambda: None] * 4)
    assert threads._idle
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=_send_negated, args=(sender,), daemon=True)
    child.start()
    sender.close()
    assert receiver.poll(20), "the child waits for a thread it does not have"
    assert receiver.recv() == [-number for number in range(8)]
    child.join(20)
    assert child.exitcode == 0
    threads.together([lambda: None] * 4)  # the parent's threads still work


def test_only_large_batches_use_several_threads(monkeypatch):
    used, together = [], threads.together
    monkeypatch.setattr(numba_paste, "together", lambda jobs: (used.append(len(jobs)), together(jobs)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    CutMix(5)(torch.rand(32, 3, 128, 128), torch.arange(32) % 5)
    assert used == [3]
    CutMix(5)(torch.rand(4, 3, 8, 8), torch.arange(4))
    assert used == [3, 1]
