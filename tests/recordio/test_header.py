"""Payload headers: labels and ids."""

from __future__ import annotations

import struct

import pytest

from dali_mix.recordio import pack_record, unpack_record
from dali_mix.recordio.framing import MAGIC
from dali_mix.recordio.header import pack_header


def test_a_label_of_too_many_floats() -> None:
    payload = struct.pack("<IfQQ", 5000, 0, 1, 0) + b"image"
    with pytest.raises(ValueError, match="5000 label floats"):
        unpack_record(payload)


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
    assert (unpacked.label.tolist(), unpacked.encoded.tobytes()) == ([1.0, 0.0, -1.0], b"image")
