"""Label embeddings from files: their use in the head, and errors that name the file for any exception of numpy."""

import io
import os
import random

import numpy as np
import pytest
import torch

from dali_mix.cli.main import main
from dali_mix.models.multilabel import build_multilabel, load_embeddings
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
def test_damaged_npy_file_is_refused(tmp_path, data):
    (tmp_path / "e.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"e\.npy"):
        load_embeddings(tmp_path / "e.npy")


@pytest.mark.filterwarnings("ignore::Warning:numpy", "ignore:invalid value:RuntimeWarning")
def test_random_header_damage_raises_only_value_error(tmp_path):
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


def test_temporary_embeddings_file_does_not_follow_links(tmp_path):
    small_set(tmp_path / "set")
    (tmp_path / "victim").write_bytes(b"somebody's")
    (tmp_path / f".e.npy.{os.getpid()}.tmp").symlink_to(tmp_path / "victim")
    assert main(["embed-labels", str(tmp_path / "set"), "--from", "random", "--out", str(tmp_path / "e.npy")]) == 0
    assert (tmp_path / "victim").read_bytes() == b"somebody's"
    assert load_embeddings(tmp_path / "e.npy").shape[0] == 3


VALUES = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)


def head(**options):
    options = {"heads": 2, "feedforward": 16, "rank": 8, **options}
    return build_multilabel("wrn-10-1", "sgre", num_classes=3, head_options=options).head


@pytest.mark.parametrize("kind", ["path", "text", "tensor", "swapped bytes"])
def test_given_embeddings_are_kept_and_frozen(tmp_path, kind):
    path = tmp_path / "e.npy"
    np.save(path, VALUES.astype(">f4") if kind == "swapped bytes" else VALUES)
    given = {"text": str(path), "tensor": torch.from_numpy(VALUES)}.get(kind, path)
    found = head(embeddings=given).embeddings
    assert np.array_equal(found.numpy(), VALUES) and not found.requires_grad


def test_learned_embeddings_require_grad():
    assert head(embeddings=torch.from_numpy(VALUES), learn_embeddings=True).embeddings.requires_grad
    assert head().embeddings.shape == (3, 768) and head().embeddings.requires_grad


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.array([{}] * 3), r"e\.npy is not an \.npy file of numbers"),
        (np.zeros(3, np.float32), r"e\.npy: float32 \(3,\); label embeddings are a table"),
        (np.float32(1), r"e\.npy: float32 \(\)"),
        (np.zeros((3, 5), np.int64), r"e\.npy: int64 \(3, 5\)"),
        (np.where(VALUES[1, 2] == VALUES, np.nan, VALUES), r"e\.npy: row 1 contains NaN"),
        (np.zeros((4, 5), np.float32), r"e\.npy: 4 label embeddings for 3 classes"),
    ],
)
def test_invalid_embedding_tables_are_refused(tmp_path, table, message):
    np.save(tmp_path / "e.npy", table, allow_pickle=True)
    with pytest.raises(ValueError, match=message) as error:
        head(embeddings=tmp_path / "e.npy")
    assert "allow_pickle" not in str(error.value)


def test_text_or_missing_embedding_file_is_refused(tmp_path):
    (tmp_path / "text.npy").write_text("no numbers")
    with pytest.raises(ValueError, match=r"text\.npy is not an \.npy file") as error:
        head(embeddings=tmp_path / "text.npy")
    assert "allow_pickle" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="absent"):
        head(embeddings=tmp_path / "absent.npy")
