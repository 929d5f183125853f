"""Framing: any payload comes back, and no damage does worse than a ValueError."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_mix.recordio import Block, ImageHeader, framing, pack_record, unpack_record
from dali_mix.recordio.framing import MAGIC, MAGIC_BYTES
from dali_mix.recordio.header import pack_header
from dali_mix.tasks import CLASSIFICATION, MULTILABEL

# Pieces that collide with the format: the magic, parts of it, and filler that moves it on and off multiples of four.
hostile = st.lists(
    st.one_of(st.just(MAGIC_BYTES), st.binary(max_size=9), st.sampled_from([MAGIC_BYTES[:2], MAGIC_BYTES[2:]])),
    max_size=12,
).map(b"".join)


@given(st.lists(hostile, max_size=5))
def test_every_payload_comes_back(payloads: list[bytes]) -> None:
    buffer = memoryview(b"".join(framing.frame(payload) for payload in payloads))
    found = list(framing.walk(buffer))
    assert [bytes(payload) for payload, _ in found] == payloads
    assert [record.length for _, record in found] == [len(payload) for payload in payloads]
    assert len(buffer) % 4 == 0


@given(hostile)
def test_no_magic_is_left_inside_a_frame(payload: bytes) -> None:
    framed = framing.frame(payload)
    words = np.frombuffer(framed, dtype="<u4")
    heads = [place for place in range(len(words)) if words[place] == MAGIC]
    assert len(heads) == 1 + len(framing.magic_offsets(payload))


HEADER = ImageHeader("jpeg", 1, 1)


@given(st.lists(st.tuples(hostile, st.booleans()), min_size=1, max_size=6))
def test_a_block_is_the_frames_one_after_another(images: list[tuple[bytes, bool]]) -> None:
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


def test_a_block_grows_and_is_used_again() -> None:
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


def test_an_image_put_elsewhere_than_its_label_asks_for_is_copied() -> None:
    block = Block(MULTILABEL, 2)
    room = block.room(8, 3)  # for a label without floats
    room[:] = b"an image"
    block.add(0, room, [1.0, 0.0], 0, HEADER)
    assert bytes(block.view()) == framing.frame(pack_record([1.0, 0.0], 0, b"an image"))


def test_the_layout_by_hand() -> None:
    payload = b"abcd" + MAGIC_BYTES + b"ef"
    head = struct.Struct("<II")
    first = head.pack(MAGIC, 1 << 29 | 4) + b"abcd"
    assert framing.frame(payload) == first + head.pack(MAGIC, 3 << 29 | 2) + b"ef\0\0"
    assert framing.frame(b"xyz") == head.pack(MAGIC, 3) + b"xyz\0"


def test_the_magic_twice_makes_a_middle_piece() -> None:
    payload = MAGIC_BYTES + b"word" + MAGIC_BYTES
    buffer = memoryview(framing.frame(payload))
    kinds = [struct.unpack_from("<I", buffer, place + 4)[0] >> 29 for place in (0, 8, 20)]
    assert kinds == [framing.FIRST, framing.MIDDLE, framing.LAST]
    assert bytes(framing.read_record(buffer, 0)[0]) == payload


@settings(max_examples=300)
@given(st.lists(hostile, min_size=1, max_size=4), st.data())
def test_damage_is_a_value_error_or_other_data(payloads: list[bytes], data: st.DataObject) -> None:
    buffer = bytearray(b"".join(framing.frame(pack_record(1, 7, payload)) for payload in payloads))
    if data.draw(st.booleans()):
        buffer = buffer[: data.draw(st.integers(0, len(buffer) - 1))]
    for _ in range(data.draw(st.integers(1, 3)) if buffer else 0):
        buffer[data.draw(st.integers(0, len(buffer) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        for payload, record in framing.walk(memoryview(buffer)):
            assert record.length == len(payload) <= len(buffer)
            unpack_record(payload)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize("length", [10, framing.MAX_LENGTH - 1])
def test_a_wrong_length_field(length: int) -> None:
    buffer = bytearray(framing.frame(bytes(100)) + framing.frame(b"next"))
    struct.pack_into("<I", buffer, 4, length)
    with pytest.raises(ValueError, match="byte"):
        list(framing.walk(memoryview(buffer)))


def test_a_label_of_too_many_floats() -> None:
    payload = struct.pack("<IfQQ", 5000, 0, 1, 0) + b"image"
    with pytest.raises(ValueError, match="5000 label floats"):
        unpack_record(payload)


def test_a_record_of_half_a_gigabyte() -> None:
    with pytest.raises(ValueError, match=r"536,870,936 bytes does not fit RecordIO"):
        Block(CLASSIFICATION, 4).add(0, bytes(1 << 29), 3, 0, HEADER)
    with pytest.raises(ValueError, match="does not fit"):
        framing.frame(bytes(1 << 29))


@pytest.mark.parametrize("record_id", [MAGIC, MAGIC << 32, MAGIC << 32 | 5])
def test_the_magic_in_an_id(record_id: int) -> None:
    with pytest.raises(ValueError, match=f"id {record_id}.*DALI"):
        pack_header(1, record_id)


def test_the_magic_off_its_place_in_an_id_is_allowed() -> None:
    assert unpack_record(pack_record(1, MAGIC << 8, b"x")).id == MAGIC << 8


@pytest.mark.parametrize("label", [float("nan"), float("inf"), -1, 0.5, (1 << 24) + 1, 1e30])
def test_labels_that_are_no_class(label: float) -> None:
    with pytest.raises(ValueError, match="label"):
        pack_header(label, 0)


@pytest.mark.parametrize("label", [[1.0, float("nan")], [], [[1.0]], [float("inf")]])
def test_vectors_that_are_no_label(label: list[float]) -> None:
    with pytest.raises(ValueError, match="label"):
        pack_header(label, 0)


def test_the_greatest_class_survives() -> None:
    unpacked = unpack_record(pack_record(1 << 24, 5, b"image"))
    assert (unpacked.label.tolist(), unpacked.id, unpacked.encoded.tobytes()) == ([float(1 << 24)], 5, b"image")


def test_vector_labels_come_back() -> None:
    unpacked = unpack_record(pack_record([1.0, 0.0, -1.0], 9, b"image"))
    assert (unpacked.flag, unpacked.label.tolist(), unpacked.encoded.tobytes()) == (3, [1.0, 0.0, -1.0], b"image")
