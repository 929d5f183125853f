"""The packer's threads: the order of jobs, and the state after a failed job or Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dali_mix.datasets import LAYOUTS, Options, PackOptions
from dali_mix.datasets.packer import _in_turn, pack_listing
from dali_mix.recordio import Block, ImageHeader, RecordSet, SetWriter
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded, image_folder


def numbers(count: int) -> list[tuple[int]]:
    return [(number,) for number in range(count)]


def test_place_runs_in_order() -> None:
    placed: list[int] = []

    def make(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number

    def place(number: int) -> list[Callable[[], None]]:
        placed.append(number)
        return []

    assert list(_in_turn(make, place, iter(numbers(20)), 4)) == list(range(20))
    assert placed == list(range(20))


def test_place_overlaps_previous_store() -> None:
    second_placed = threading.Event()

    def place(number: int) -> list[Callable[[], None]]:
        if number == 1:
            second_placed.set()
        return [lambda: waited.append(second_placed.wait(20))] if number == 0 else []

    waited: list[bool] = []
    assert list(_in_turn(lambda number: number, place, iter(numbers(2)), 2)) == [0, 1]
    assert waited == [True]


@pytest.mark.parametrize("stage", ["make", "place", "store"])
def test_first_failed_job_in_order_is_raised(stage: str) -> None:
    placed: list[int] = []
    later_failed = threading.Event()

    def failing(number: int, here: str) -> None:
        if here == stage and number in (5, 6):
            if number == 5 and stage == "make":
                assert later_failed.wait(20)  # job 6 fails before job 5
            later_failed.set()
            raise ValueError(f"job {number}")

    def make(number: int) -> int:
        failing(number, "make")
        return number

    def place(number: int) -> list[Callable[[], None]]:
        failing(number, "place")
        placed.append(number)
        return [lambda: failing(number, "store")]

    done: list[int] = []
    with pytest.raises(ValueError, match="job 5"):
        done.extend(_in_turn(make, place, iter(numbers(30)), 3))
    assert placed[:5] == [0, 1, 2, 3, 4]
    if stage != "store":  # later jobs may be placed before a store fails
        assert placed == [0, 1, 2, 3, 4]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pack")]


def test_blocks_stored_out_of_order_over_many_shards(tmp_path: Path) -> None:
    descriptors = []
    images = [encoded("PNG", 12, 20, seed=number) for number in range(64)]
    with SetWriter(tmp_path / "set", task="classification", classes="a", total=64, shards=32) as writer:
        for start in range(0, 64, 8):
            stores = []
            for number in range(start, start + 8, 4):
                block = writer.spare_block()
                for position in range(number, number + 4):
                    block.add(position, images[position], 0, position, ImageHeader("png", 12, 20))
                stores.append(writer.place(block))
            threads = [threading.Thread(target=store) for store in reversed(stores)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            descriptors.append(len(list(Path("/proc/self/fd").iterdir())))
        writer.finish()
    assert max(descriptors) == min(descriptors)  # finished shards are closed immediately
    records = RecordSet(tmp_path / "set")
    assert [records.encoded(row).tobytes() for row in range(64)] == images
    assert list(verify_set(tmp_path / "set")) == []


HARNESS = """
import itertools, sys

class Ctrl:
    '''Raise KeyboardInterrupt before instruction `at` within calls of the functions named `inside`.'''
    def __init__(self, at, inside):
        self.left, self.inside, self.depth = at, inside, 0
    def trace(self, frame, event, _):
        if event == "call":
            if not self.depth and frame.f_code.co_name not in self.inside:
                return None
            self.depth += 1
            frame.f_trace_opcodes = True
        elif event == "return":
            self.depth -= 1
        elif event == "opcode" and self.left >= 0:
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.trace

def interrupted(at, inside, function):
    '''Return True if `function` was interrupted. It must return in either case.'''
    sys._getframe().f_trace_opcodes = True  # Python 3.12 reads this when tracing starts
    sys.settrace(Ctrl(at, inside).trace)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False
"""


WRITER = """
import pathlib, tempfile
from dali_mix.recordio.part import Part

def fill():
    part = Part(pathlib.Path(folder, "part"))
    try:
        for _ in range(6):
            piece = memoryview(bytes(100))
            part.store(piece, part.place(piece))
        part.end()
    finally:
        part.close()

with tempfile.TemporaryDirectory() as folder:
    tries = next(at for at in itertools.count() if not interrupted(at, {"place", "store", "end"}, fill))
assert tries > 100, tries
"""


POOL = """
from dali_mix.datasets.packer import _in_turn

def run():
    jobs = ((number,) for number in range(8))
    assert list(_in_turn(lambda number: number, lambda number: [lambda: None], jobs, 2)) == list(range(8))

tries = next(at for at in itertools.count() if not interrupted(at, {"first", "<genexpr>"}, run))
assert tries > 100, tries
"""


@pytest.mark.parametrize("code", [WRITER, POOL], ids=["writer", "pool"])
def test_interrupt_at_any_instruction_does_not_hang(code: str) -> None:
    source = textwrap.dedent(HARNESS) + code
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_worker_failure_leaves_no_files_or_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder(tmp_path / "images", 2, 40)
    listing = LAYOUTS["imagefolder"](root, "train", Options())
    real, calls = Block.add, []
    lock = threading.Lock()

    def failing(*args: object, **kwargs: object) -> object:
        with lock:
            calls.append(1)
        if len(calls) > 30:
            raise MemoryError("no memory left for a picture")
        return real(*args, **kwargs)

    monkeypatch.setattr(Block, "add", failing)
    with pytest.raises(MemoryError):
        pack_listing(listing, tmp_path / "set", PackOptions(workers=2))
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pack")]
