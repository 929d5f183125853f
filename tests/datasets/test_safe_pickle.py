"""Pickles are read without executing any code in them."""

from __future__ import annotations

import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_mix.datasets.safe_pickle import load_plain

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain, st.integers(1, 5))
def test_plain_data_round_trips(value: Any, protocol: int) -> None:
    assert load_plain(pickle.dumps(value, protocol), "file") == value


@pytest.mark.parametrize("protocol", range(1, 6))
@pytest.mark.parametrize("dtype", ["uint8", "<i8", ">f4", "bool", "S3"])
def test_arrays_round_trip(protocol: int, dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for value in (array, np.asfortranarray(array), array[:, :0]):
        found = load_plain(pickle.dumps({"data": value}, protocol), "file")["data"]
        assert found.dtype == array.dtype and np.array_equal(found, value)


def test_python_2_pickle_is_read() -> None:
    """CIFAR's pickles were written by Python 2 with protocol 2: keys and array data are byte strings."""
    head = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85q\x05"
    )
    shape = (
        b"U\x01bq\x06\x87q\x07Rq\x08(K\x01K\x02K\x03\x86q\x09cnumpy\ndtype\nq\x0aU\x02u1q\x0bK\x00K\x01\x87q\x0cRq\x0d"
    )
    state = b"(K\x03U\x01|q\x0eNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\xfe\xff\x04\x05tb"
    state += b"U\x06labels]q\x10(K\x07K\x09eu."
    found = load_plain(head + shape + state, "file")
    assert found["labels"] == [7, 9]
    assert found["data"].tolist() == [[0, 1, 254], [255, 4, 5]]


class Calls:
    """An object that calls a function when it is unpickled, as in an attacker's file."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def attacks(marker: Path) -> dict[str, bytes]:
    touch = f"touch {marker}"
    many = {
        "os.system": pickle.dumps(Calls(os.system, touch)),
        "eval": pickle.dumps({"labels": [Calls(eval, f"open({str(marker)!r}, 'w')")]}, 2),
        "exec by name": b"c__builtin__\nexec\n(V" + f"open({str(marker)!r}, 'w')".encode() + b"\ntR.",
        "inst": b"(S'" + touch.encode() + b"'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'" + touch.encode() + b"'\no.",
        "newobj": b"\x80\x02cos\nsystem\n(S'" + touch.encode() + b"'\nt\x81.",
        "build on a name": b"cos\nsystem\n}b.",
        "array of objects": pickle.dumps(np.array([Calls(os.system, touch)], dtype=object)),
        "dtype of objects": pickle.dumps(np.array([1, "a"], dtype=object), 2),
        "encode otherwise": pickle.dumps(Calls(__import__("codecs").encode, "x", "rot13"), 2),
        "persistent id": b"Pname\n.",
        "extension": b"\x80\x02\x82\x01.",
        "a bare name": b"cos\nsystem\n.",
    }
    for data in many.values():
        assert [opcode.name for opcode, _, _ in pickletools.genops(data)][-1] == "STOP"  # each is a well-formed pickle
    return many


@pytest.mark.parametrize("attack", sorted(attacks(Path("/nowhere"))))
def test_malicious_pickle_is_refused_without_calls(tmp_path: Path, attack: str) -> None:
    marker = tmp_path / "ran"
    with pytest.raises(ValueError, match=r"^data_batch_1: .*refused"):
        load_plain(attacks(marker)[attack], "data_batch_1")
    assert not marker.exists()


def test_shared_references_are_not_expanded() -> None:
    value: Any = []
    for _ in range(60):
        value = [value, value]
    found = load_plain(pickle.dumps(value), "file")
    assert found[0] is found[1]


@settings(max_examples=300)
@given(st.data())
def test_damaged_pickle_raises_only_value_error(data: st.DataObject) -> None:
    content = bytearray(
        pickle.dumps({"data": np.zeros((3, 4), np.uint8), "labels": [1, 2, 3]}, data.draw(st.integers(1, 5)))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        load_plain(bytes(content), "file")
    except ValueError as error:
        assert str(error).startswith("file: ")


@pytest.mark.parametrize("description", [b"i4,(", b"i4,O", b"u1,u1"])
def test_structured_arrays_are_refused(description: bytes) -> None:
    dtype = b"cnumpy\ndtype\n(U" + bytes([len(description)]) + description + b"tR"
    data = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(tR(K\x01K\x01\x85" + dtype + b"\x89U\x04\0\0\0\0tb."
    with pytest.raises(ValueError, match=r"data_batch: at byte .* an array of type"):
        load_plain(data, "data_batch")
