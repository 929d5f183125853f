"""Blocks of framed records."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_mix.recordio import (
    Block,
    ImageHeader,
    framing,
    pack_record,
)
from dali_mix.tasks import CLASSIFICATION, MULTILABEL
from tests.recordio.test_framing import hostile

HEADER = ImageHeader("jpeg", 1, 1)


@given(st.lists(st.tuples(hostile, st.booleans()), min_size=1, max_size=6))
def test_block_is_concatenated_frames(images: list[tuple[bytes, bool]]) -> None:
    block, wanted = Block(CLASSIFICATION, 4), b""
    for row, (image, in_place) in enumerate(images):
        encoded: bytes | memoryview = image
        if in_place:
            room = block.room(len(image) + 9, 3)
            room[: len(image)] = image
            encoded = room[: len(image)]
        block.add(row, encoded, 3, row, HEADER)
        payload = pack_record(3, row, image)
        framed = framing.frame(payload)
        wanted += framed
        entry = block.entries[-1]
        assert (entry.position, entry.size) == (row, len(framed))
        assert entry.row[:2] == (len(payload), zlib.crc32(payload))
        assert bool(entry.row[-1]) == (len(framing.magic_offsets(payload)) > 0)
    assert bytes(block.view()) == wanted


def test_block_grows_and_can_be_reused() -> None:
    block, image = Block(MULTILABEL, 2), bytes(range(256)) * 3000
    for _ in range(2):
        for row in range(5):
            room = block.room(len(image), [1.0, 0.0])
            room[:] = image
            block.add(row, room, [1.0, 0.0], row, HEADER)
        frames = [framing.frame(pack_record([1.0, 0.0], row, image)) for row in range(5)]
        assert bytes(block.view()) == b"".join(frames)
        block.clear()
    assert len(block.view()) == 0


def test_image_at_wrong_offset_for_its_label_is_copied() -> None:
    block = Block(MULTILABEL, 2)
    room = block.room(8, 3)  # reserved for a label without floats
    room[:] = b"an image"
    block.add(0, room, [1.0, 0.0], 0, HEADER)
    assert bytes(block.view()) == framing.frame(pack_record([1.0, 0.0], 0, b"an image"))


def test_record_of_512_mib_is_refused() -> None:
    with pytest.raises(ValueError, match=r"536,870,936 bytes does not fit RecordIO"):
        Block(CLASSIFICATION, 4).add(0, bytes(1 << 29), 3, 0, HEADER)
    with pytest.raises(ValueError, match="does not fit"):
        framing.frame(bytes(1 << 29))


def test_block_is_full_by_records_or_bytes() -> None:
    header = ImageHeader("jpeg", 1, 1)
    block = Block(CLASSIFICATION, 1)
    for row in range(16):
        assert not block.full
        block.add(row, b"an image", 0, row, header)
    assert block.full
    block.clear()
    block.add(0, bytes(1 << 22), 0, 0, header)
    assert block.full and len(block.entries) == 1
