"""A damaged .npy of label embeddings is an error with its name, whatever numpy raises for it."""

import io
import os
import random

import numpy as np
import pytest

from dali_mix.cli.main import main
from dali_mix.models.multilabel import load_embeddings
from tests.recordio.samples import small_set


def npy(shape="(5, 8)", head=b"\x93NUMPY\x01\x00v\x00"):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    return head + text.encode().ljust(117) + b"\n" + bytes(4 * 40)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        npy(head=b"PK\3\4\x01\x00v\x00"),
        npy(head=b"PK\5\6" + bytes(18)),
        npy("(9999999999999, 8)"),
        npy("(" + "1" * 400 + ", 8)"),
        npy("(-5, 9)"),  # numpy 1.26 reads (-5, 8) as (5, 8)
        npy("(5, 8"),
        npy("(5, 9)"),
        npy("lambda: 0"),
        npy()[:140],
        npy(head=b"\x93NUMPY\x09\x00v\x00"),
        b"not numbers",
    ],
)
def test_a_damaged_header(tmp_path, data):
    (tmp_path / "e.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"e\.npy"):
        load_embeddings(tmp_path / "e.npy")


@pytest.mark.filterwarnings("ignore::Warning:numpy", "ignore:invalid value:RuntimeWarning")
def test_any_damage_to_the_header(tmp_path):
    out = io.BytesIO()
    np.save(out, np.zeros((5, 8), np.float32))
    chosen, refused = random.Random(0), 0
    for _ in range(1500):
        data = bytearray(out.getvalue())
        for _ in range(chosen.randint(1, 3)):
            data[chosen.randrange(128)] = chosen.choice(b"0123456789()[]{}',:<>-f\0\xff")
        (tmp_path / "e.npy").write_bytes(data)
        try:
            load_embeddings(tmp_path / "e.npy")
        except ValueError as error:
            assert "e.npy" in str(error)
            refused += 1
    assert refused > 500


def test_embeddings_written_aside_follow_no_link(tmp_path):
    small_set(tmp_path / "set")
    (tmp_path / "victim").write_bytes(b"somebody's")
    (tmp_path / f".e.npy.{os.getpid()}.tmp").symlink_to(tmp_path / "victim")
    assert main(["embed-labels", str(tmp_path / "set"), "--from", "random", "--out", str(tmp_path / "e.npy")]) == 0
    assert (tmp_path / "victim").read_bytes() == b"somebody's"
    assert load_embeddings(tmp_path / "e.npy").shape[0] == 3
