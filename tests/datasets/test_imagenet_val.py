"""Layout `imagenet-val`: every list format gives the same labels as the training folders."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.recordio import RecordSet
from tests.recordio.samples import encoded

Capture = pytest.CaptureFixture[str]


def pack(layout: str, root: Path, out: Path, *options: str) -> int:
    return main(["pack", layout, "--root", str(root), "--out", str(out), "--quiet", *options])


WNIDS = {1: "n02000000", 2: "n01000000", 3: "n03000000"}  # by ILSVRC2012_ID, not in sorted order


def imagenet_val(root: Path) -> Path:
    (root / "val").mkdir(parents=True)
    for number in range(1, 6):
        (root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(encoded("JPEG", seed=number))
    return root


TRUTH = [2, 1, 3, 3, 1]  # ILSVRC2012_IDs


LABELS = [0, 1, 2, 2, 1]  # the same labels as indices into the sorted wnids


def ground_truth(root: Path) -> None:
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in TRUTH))
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    rows = [(number, wnid, 0) for number, wnid in WNIDS.items()] + [(4, "n00000001", 3)]
    savemat(root / "meta.mat", {"synsets": np.array(rows, dtype=kind)})


def names_and_wnids(root: Path) -> None:
    lines = [f"ILSVRC2012_val_{row:08d}.JPEG {WNIDS[number]}\n" for row, number in enumerate(TRUTH, 1)]
    (root / "val.txt").write_text("".join(reversed(lines)))


def names_and_labels(root: Path) -> None:
    lines = [f"ILSVRC2012_val_{row:08d}.JPEG {label}\n" for row, label in enumerate(LABELS, 1)]
    (root / "val.txt").write_text("".join(lines))


def kaggle(root: Path) -> None:
    lines = [f"ILSVRC2012_val_{row:08d},{WNIDS[number]} 1 2 3 4\n" for row, number in enumerate(TRUTH, 1)]
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(lines))


@pytest.mark.parametrize("write", [ground_truth, names_and_wnids, names_and_labels, kaggle])
def test_each_label_format_gives_the_same_labels(tmp_path: Path, write: object) -> None:
    root = imagenet_val(tmp_path / "imagenet")
    write(root)  # type: ignore[operator]  # one of the functions above
    assert pack("imagenet-val", root, tmp_path / "set", "--split", "val") == 0
    records = RecordSet(tmp_path / "set")
    assert records.labels(np.arange(5)).tolist() == LABELS
    assert records.encoded(2).tobytes() == encoded("JPEG", seed=3)
    if write is not names_and_labels:
        assert records.info.classes == tuple(sorted(WNIDS.values()))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("n01000000\n" * 4, "4 labels for 5 images"),
        ("1\n" * 5, "a column of numbers alone"),
        ("a.JPEG n01000000\n" * 2, "listed twice"),
        ("a.JPEG n01000000\n", "no label for val/ILSVRC2012_val_00000001.JPEG"),
        (
            "".join(f"ILSVRC2012_val_{number:08d}.JPEG 0\n" for number in range(1, 8)),
            "is listed, but not among the images",
        ),
        ("", "no labels in it"),
        ("wnid\n" * 5, "not a wnid"),
    ],
)
def test_mismatched_label_list_is_refused(tmp_path: Path, capsys: Capture, text: str, reason: str) -> None:
    root = imagenet_val(tmp_path / "imagenet")
    (root / "val.txt").write_text(text)
    assert pack("imagenet-val", root, tmp_path / "set", "--split", "val") == 1
    assert reason in capsys.readouterr().err


def test_missing_labels_or_invalid_meta_mat_are_refused(tmp_path: Path, capsys: Capture) -> None:
    root = imagenet_val(tmp_path / "imagenet")
    assert pack("imagenet-val", root, tmp_path / "set", "--split", "val") == 1
    assert "give the labels with --list" in capsys.readouterr().err
    ground_truth(root)
    (root / "meta.mat").unlink()
    assert pack("imagenet-val", root, tmp_path / "set", "--split", "val") == 1
    assert "ILSVRC2012_devkit_t12" in capsys.readouterr().err
    (root / "meta.mat").write_bytes(b"not a mat file at all")
    assert pack("imagenet-val", root, tmp_path / "set", "--split", "val") == 1
    error = capsys.readouterr().err
    assert "meta.mat: not the development kit's" in error and error.endswith("with --list\n") and error.count("\n") == 1


def test_meta_mat_that_crashes_scipy_is_refused(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = imagenet_val(tmp_path / "images")
    ground_truth(root)
    monkeypatch.setattr(
        sys.modules["dali_mix.datasets.layouts.imagenet_val"], "_READ_META", "import os; os.kill(os.getpid(), 11)"
    )
    assert pack("imagenet-val", root, tmp_path / "set", "--split", "val") == 1
    assert "meta.mat: not the development kit's meta.mat: scipy was stopped by signal 11; " in capsys.readouterr().err


@pytest.fixture
def two_images(tmp_path: Path) -> Path:
    """Write two validation images and val.txt with their wnids, n03000000 and n01000000."""
    for number in (1, 2):
        (tmp_path / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(encoded("JPEG"))
    lines = "ILSVRC2012_val_00000001.JPEG n03000000\nILSVRC2012_val_00000002.JPEG n01000000\n"
    (tmp_path / "val.txt").write_text(lines)
    return tmp_path


def test_classes_file_labels_wnids(two_images: Path) -> None:
    names = two_images / "names.txt"
    names.write_text("n01000000\nn02000000\nn03000000\n")
    listing = LAYOUTS["imagenet-val"](two_images, "val", Options(classes_file=names))
    assert list(listing.labels) == [2, 0] and listing.classes == ("n01000000", "n02000000", "n03000000")
    names.write_text("cat\ndog\nemu\n")
    with pytest.raises(ValueError, match=r"names\.txt: 3 names for 2 classes"):
        LAYOUTS["imagenet-val"](two_images, "val", Options(classes_file=names))
    names.write_text("cat\nemu\n")
    listing = LAYOUTS["imagenet-val"](two_images, "val", Options(classes_file=names))
    assert list(listing.labels) == [1, 0] and listing.classes == ("cat", "emu")


@pytest.mark.parametrize("version", [b"\x00\x02IM", b"\x00\x01IM"])
def test_unsupported_or_truncated_meta_mat_is_refused(two_images: Path, version: bytes) -> None:
    (two_images / "val.txt").unlink()
    (two_images / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n")
    compressed = struct.pack("<II", 15, 40) + zlib.compress(bytes(100))[:5] + bytes(35)
    (two_images / "meta.mat").write_bytes(b"MATLAB".ljust(124) + version + compressed)
    with pytest.raises(ValueError, match=r"meta\.mat: not the development kit's meta\.mat"):
        LAYOUTS["imagenet-val"](two_images, "val", Options())
