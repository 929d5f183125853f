"""RecordIO framing: conformance to the format, and damaged files."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_mix.recordio import framing, pack_record, unpack_record
from dali_mix.recordio.framing import MAGIC, MAGIC_BYTES

# Pieces that collide with the format: the magic, parts of it, and filler that aligns or misaligns it to four bytes.
hostile = st.lists(
    st.one_of(st.just(MAGIC_BYTES), st.binary(max_size=9), st.sampled_from([MAGIC_BYTES[:2], MAGIC_BYTES[2:]])),
    max_size=12,
).map(b"".join)


@given(st.lists(hostile, max_size=5))
def test_payloads_round_trip(payloads: list[bytes]) -> None:
    buffer = memoryview(b"".join(framing.frame(payload) for payload in payloads))
    found = list(framing.walk(buffer))
    assert [bytes(payload) for payload, _ in found] == payloads
    assert [record.length for _, record in found] == [len(payload) for payload in payloads]
    assert len(buffer) % 4 == 0


@given(hostile)
def test_frame_has_no_magic_except_in_heads(payload: bytes) -> None:
    framed = framing.frame(payload)
    words = np.frombuffer(framed, dtype="<u4")
    heads = [index for index in range(len(words)) if words[index] == MAGIC]
    assert len(heads) == 1 + len(framing.magic_offsets(payload))


def test_frame_layout_matches_format() -> None:
    payload = b"abcd" + MAGIC_BYTES + b"ef"
    head = struct.Struct("<II")
    first = head.pack(MAGIC, 1 << 29 | 4) + b"abcd"
    assert framing.frame(payload) == first + head.pack(MAGIC, 3 << 29 | 2) + b"ef\0\0"
    assert framing.frame(b"xyz") == head.pack(MAGIC, 3) + b"xyz\0"


def test_two_magics_give_a_middle_piece() -> None:
    payload = MAGIC_BYTES + b"word" + MAGIC_BYTES
    buffer = memoryview(framing.frame(payload))
    kinds = [struct.unpack_from("<I", buffer, offset + 4)[0] >> 29 for offset in (0, 8, 20)]
    assert kinds == [framing.FIRST, framing.MIDDLE, framing.LAST]
    assert bytes(framing.read_record(buffer, 0)[0]) == payload


@settings(max_examples=300)
@given(st.lists(hostile, min_size=1, max_size=4), st.data())
def test_damaged_frames_raise_only_value_error(payloads: list[bytes], data: st.DataObject) -> None:
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
def test_wrong_length_field_is_refused(length: int) -> None:
    buffer = bytearray(framing.frame(bytes(100)) + framing.frame(b"next"))
    struct.pack_into("<I", buffer, 4, length)
    with pytest.raises(ValueError, match="byte"):
        list(framing.walk(memoryview(buffer)))
