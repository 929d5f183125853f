"""A short run of the image fuzzer: damaged files that packing accepts are loaded or named in an error."""

from __future__ import annotations

from collections import Counter

import pytest

from tests import fuzz_images
from tests.fuzz_images import KINDS, damaged, fuzz


def test_damaged_images_do_not_crash_process() -> None:
    counts, deadly = fuzz(0, range(400), 400)
    assert deadly == []
    assert set(counts) == set(KINDS) and sum(count["files"] for count in counts.values()) == 400
    for count in counts.values():
        assert count["refused"] and count["loaded"] and not count["unseen"]
        assert count["loaded"] + count["named"] == count["kept"] + count["normalized"]


def test_damaged_is_deterministic() -> None:
    assert [damaged(3, number) for number in range(50)] == [damaged(3, number) for number in range(50)]
    assert len({damaged(3, number)[1] for number in range(50)}) > 45


def test_fuzz_finds_files_that_crash_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def child(seed: int, numbers: range) -> tuple[dict[str, Counter[str]] | None, str]:
        dies = 13 in numbers or 29 in numbers
        return (None, "status -11: ") if dies else ({"png": Counter(files=len(numbers))}, "")

    monkeypatch.setattr(fuzz_images, "child", child)
    counts, deadly = fuzz(0, range(40), 16)
    assert [number for number, _ in deadly] == [13, 29] and counts["png"]["files"] == 38
