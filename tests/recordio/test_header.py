"""Payload headers: labels and ids."""

from __future__ import annotations

import struct

import pytest

from dali_mix.recordio import pack_record, unpack_record
from dali_mix.recordio.framing import MAGIC
from dali_mix.recordio.header import pack_header


def test_unpack_refuses_too_many_label_floats() -> None:
    payload = struct.pack("<IfQQ", 5000, 0, 1, 0) + b"image"
    with pytest.raises(ValueError, match="5000 label floats"):
        unpack_record(payload)


@pytest.mark.parametrize("record_id", [MAGIC, MAGIC << 32, MAGIC << 32 | 5])
def test_id_containing_magic_is_refused(record_id: int) -> None:
    with pytest.raises(ValueError, match=f"id {record_id}.*DALI"):
        pack_header(1, record_id)


def test_unaligned_magic_in_id_is_allowed() -> None:
    assert unpack_record(pack_record(1, MAGIC << 8, b"x")).id == MAGIC << 8


@pytest.mark.parametrize("label", [float("nan"), float("inf"), -1, 0.5, (1 << 24) + 1, 1e30])
def test_invalid_class_labels_are_refused(label: float) -> None:
    with pytest.raises(ValueError, match="label"):
        pack_header(label, 0)


@pytest.mark.parametrize("label", [[1.0, float("nan")], [], [[1.0]], [float("inf")]])
def test_invalid_vector_labels_are_refused(label: list[float]) -> None:
    with pytest.raises(ValueError, match="label"):
        pack_header(label, 0)


def test_largest_class_round_trips() -> None:
    unpacked = unpack_record(pack_record(1 << 24, 5, b"image"))
    assert (unpacked.label.tolist(), unpacked.id, unpacked.encoded.tobytes()) == ([float(1 << 24)], 5, b"image")


def test_vector_labels_round_trip() -> None:
    unpacked = unpack_record(pack_record([1.0, 0.0, -1.0], 9, b"image"))
    assert (unpacked.label.tolist(), unpacked.encoded.tobytes()) == ([1.0, 0.0, -1.0], b"image")
