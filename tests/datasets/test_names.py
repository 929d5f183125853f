"""Class names given beside wnids, and names that are no text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dali_mix.datasets import LAYOUTS, Options, PackOptions, pack
from dali_mix.datasets.safe_pickle import load_plain
from dali_mix.recordio import RecordSet
from dali_mix.recordio.writer import SetWriter
from tests.recordio.samples import encoded, image_folder


@pytest.fixture
def two_of_three(tmp_path: Path) -> Path:
    """Two validation images, of the first and the last of three classes."""
    for number in (1, 2):
        (tmp_path / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(encoded("JPEG"))
    lines = "ILSVRC2012_val_00000001.JPEG n03000000\nILSVRC2012_val_00000002.JPEG n01000000\n"
    (tmp_path / "val.txt").write_text(lines)
    return tmp_path


def test_wnids_are_labelled_by_the_given_names(two_of_three: Path) -> None:
    names = two_of_three / "names.txt"
    names.write_text("n01000000\nn02000000\nn03000000\n")
    listing = LAYOUTS["imagenet-val"](two_of_three, "val", Options(classes_file=names))
    assert list(listing.labels) == [2, 0] and listing.classes == ("n01000000", "n02000000", "n03000000")
    names.write_text("cat\ndog\nemu\n")
    with pytest.raises(ValueError, match=r"names\.txt: 3 names for 2 classes"):
        LAYOUTS["imagenet-val"](two_of_three, "val", Options(classes_file=names))
    names.write_text("cat\nemu\n")
    listing = LAYOUTS["imagenet-val"](two_of_three, "val", Options(classes_file=names))
    assert list(listing.labels) == [1, 0] and listing.classes == ("cat", "emu")


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", classes=2)
    (root / "class0" / os.fsdecode(b"\xff.jpg")).write_bytes(b"<html>")
    listing = LAYOUTS["imagefolder"](root, "train", Options())
    pack(listing, tmp_path / "set", PackOptions(skip_bad=True))
    skipped = RecordSet(tmp_path / "set").info.report["skipped"]
    assert [entry["file"] for entry in skipped] == ["class0/\\udcff.jpg"]
    (root / "class1").rename(root / os.fsdecode(b"\xff"))
    with pytest.raises(ValueError, match=r"images: the class name '\\\\udcff' is not UTF-8"):
        LAYOUTS["imagefolder"](root, "train", Options())


def test_more_shards_than_the_table_can_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"70000 shards .* 1 to 65536"):
        SetWriter(tmp_path / "set", task="classification", classes="a", total=1 << 20, shards=70_000)


@pytest.mark.parametrize("description", [b"i4,(", b"i4,O", b"u1,u1"])
def test_a_pickle_s_array_of_records_is_refused(description: bytes) -> None:
    dtype = b"cnumpy\ndtype\n(U" + bytes([len(description)]) + description + b"tR"
    data = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(tR(K\x01K\x01\x85" + dtype + b"\x89U\x04\0\0\0\0tb."
    with pytest.raises(ValueError, match=r"data_batch: at byte .* an array of type"):
        load_plain(data, "data_batch")


@pytest.mark.parametrize(
    ("label", "message"), [("null", "label None is not a class"), ("true", "label True"), ("[]", "no label fields")]
)
def test_a_label_that_is_none(tmp_path: Path, label: str, message: str) -> None:
    (tmp_path / "train.json").write_text(f'[{{"path": "a.jpg", "label": {label}}}]')
    with pytest.raises(ValueError, match=rf"train\.json: entry 1: {message}"):
        LAYOUTS["list"](tmp_path, "train", Options())
