"""The packer's threads: what goes in order, what need not, and what is left when a job fails."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dali_mix.datasets.packer import _in_turn
from dali_mix.recordio import ImageHeader, RecordSet, SetWriter
from dali_mix.recordio.part import Part
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded


def nothing(_: int) -> list[Callable[[], None]]:
    return []


def numbers(count: int) -> list[tuple[int]]:
    return [(number,) for number in range(count)]


def test_placing_goes_in_order_however_long_making_takes() -> None:
    placed: list[int] = []

    def make(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number

    def place(number: int) -> list[Callable[[], None]]:
        placed.append(number)
        return []

    assert list(_in_turn(make, place, iter(numbers(20)), 4)) == list(range(20))
    assert placed == list(range(20))


def test_a_job_is_placed_while_the_one_before_is_being_stored() -> None:
    second_placed = threading.Event()

    def place(number: int) -> list[Callable[[], None]]:
        if number == 1:
            second_placed.set()
        return [lambda: waited.append(second_placed.wait(20))] if number == 0 else []

    waited: list[bool] = []
    assert list(_in_turn(lambda number: number, place, iter(numbers(2)), 2)) == [0, 1]
    assert waited == [True]


@pytest.mark.parametrize("stage", ["make", "place", "store"])
def test_the_first_job_to_fail_is_the_one_named_and_none_after_it_is_placed(stage: str) -> None:
    placed: list[int] = []
    later_failed = threading.Event()

    def failing(number: int, here: str) -> None:
        if here == stage and number in (5, 6):
            if number == 5 and stage == "make":
                assert later_failed.wait(20)  # 6 has failed before 5 does
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
    if stage != "store":  # jobs that follow may be placed before a store fails
        assert placed == [0, 1, 2, 3, 4]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pack")]


def test_pieces_are_hashed_in_order_and_stored_in_any(tmp_path: Path) -> None:
    pieces = [os.urandom(size) for size in (100, 1, 5000, 64)]
    part = Part(tmp_path / "part")
    places = [part.place(memoryview(piece)) for piece in pieces]
    part.end()
    for piece, at in reversed(list(zip(pieces, places, strict=True))):
        assert not part.closed
        part.store(memoryview(piece), at)
    assert part.closed  # with the last one
    assert (tmp_path / "part").read_bytes() == b"".join(pieces)
    assert part.sha256 == hashlib.sha256(b"".join(pieces)).hexdigest() and part.size == 5165


def test_blocks_stored_in_any_order_by_several_threads_over_many_shards(tmp_path: Path) -> None:
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
    assert max(descriptors) == min(descriptors)  # finished shards are closed at once
    records = RecordSet(tmp_path / "set")
    assert [records.encoded(row).tobytes() for row in range(64)] == images
    assert list(verify_set(tmp_path / "set")) == []
