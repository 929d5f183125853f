"""NUS-WIDE lists and ground truth in the published layout, and rejected input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.recordio import RecordSet
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded

Capture = pytest.CaptureFixture[str]
CONCEPTS = ("airport", "animal", "zebra")
FILES = [
    "actor\\0001_2124494179.jpg",
    "actor\\0002_174174086.jpg",
    "zoos\\0003_1.jpg",
    "zoos\\0004_2.jpg",
    "zoos\\5.jpg",
]
TRUTH = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 1], [0, 1, 0], [0, 0, 1]])  # one row per file
SPLITS = {"Train": [3, 1, 0], "Test": [2, 4]}  # not in the order of Imagelist.txt


def nus_wide(root: Path) -> Path:
    (root / "ImageList").mkdir(parents=True)
    (root / "Groundtruth" / "AllLabels").mkdir(parents=True)
    (root / "Concepts81.txt").write_text("".join(f"{name} \r\n" for name in CONCEPTS))
    (root / "ImageList" / "Imagelist.txt").write_text("".join(f"{name}\r\n" for name in FILES))
    for part, rows in SPLITS.items():
        (root / "ImageList" / f"{part}Imagelist.txt").write_text("".join(f"{FILES[row]}\n" for row in rows))
    for name, column in zip(CONCEPTS, TRUTH.T, strict=True):
        (root / "Groundtruth" / "AllLabels" / f"Labels_{name}.txt").write_text(
            "".join(f"{value}\n" for value in column)
        )
    for row, name in enumerate(FILES):
        file = root / "Flickr" / name.replace("\\", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded("JPEG", seed=row))
    return root


def pack(root: Path, out: Path, *options: str) -> int:
    return main(["pack", "nus-wide", "--root", str(root), "--out", str(out), "--quiet", *options])


def refused(root: Path, capsys: Capture, *options: str) -> str:
    assert pack(root, root / "refused", *options) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(("split", "rows", "dropped"), [("train", [3, 0], 1), ("test", [2, 4], 0), ("val", [2, 4], 0)])
def test_official_splits_drop_unlabelled_images(tmp_path: Path, split: str, rows: list[int], dropped: int) -> None:
    root = nus_wide(tmp_path / "nus")
    assert pack(root, tmp_path / "set", "--split", split, "--no-shuffle") == 0
    records = RecordSet(tmp_path / "set")
    assert records.info.classes == CONCEPTS and records.info.task == "multilabel"
    assert records.table["id"].tolist() == rows
    assert np.array_equal(records.labels(np.arange(len(rows))), TRUTH[rows])
    stored = [records.encoded(row).tobytes() for row in range(len(rows))]
    assert stored == [(root / "Flickr" / FILES[row].replace("\\", "/")).read_bytes() for row in rows]
    assert records.info.report["unlabelled_dropped"] == dropped
    assert "notices" not in records.info.report  # a set without the 81 concepts is not NUS-WIDE itself
    assert list(verify_set(tmp_path / "set")) == []


def test_unlabelled_keep_keeps_all_images(tmp_path: Path) -> None:
    root = nus_wide(tmp_path)
    listing = LAYOUTS["nus-wide"](root, "train", Options(unlabelled="keep"))
    assert listing.ids == [3, 1, 0] and np.asarray(listing.labels)[1].tolist() == [0, 0, 0]


def test_published_folder_layout_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = nus_wide(tmp_path / "NUS-WIDE")
    (root / "ConceptsList").mkdir()
    (root / "Concepts81.txt").rename(root / "ConceptsList" / "Concepts81.txt")
    listing = LAYOUTS["nus-wide"](tmp_path, "test", Options())
    assert listing.names[0] == "NUS-WIDE/Flickr/zoos/0003_1.jpg" and not listing.report["unlabelled_dropped"]
    monkeypatch.setitem(LAYOUTS["nus-wide"].__globals__, "NUS_CONCEPTS", 3)
    report = LAYOUTS["nus-wide"](tmp_path, "test", Options()).report
    notice = "TestImagelist.txt of NUS-WIDE has 2 images here, 107,859 as published: is it a subset?"
    assert report["notices"] == [notice]


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("ImageList/TrainImagelist.txt", "actor\\9.jpg\n", "line 1: actor/9.jpg is not in Imagelist.txt"),
        (
            "ImageList/TrainImagelist.txt",
            f"{FILES[0]}\n\n{FILES[0]}\n",
            "line 3: actor/0001_2124494179.jpg is already listed on line 1",
        ),
        (
            "ImageList/TrainImagelist.txt",
            "..\\..\\secret.jpg\n",
            "line 1: '..\\\\..\\\\secret.jpg' is not a path below",
        ),
        ("ImageList/TrainImagelist.txt", "C:\\photo.jpg\n", "line 1: 'C:\\\\photo.jpg' is not a path below"),
        ("ImageList/TrainImagelist.txt", "\n", "lists no image"),
        (
            "ImageList/Imagelist.txt",
            f"{FILES[0]}\n{FILES[1]}\n{FILES[0]}\n",
            "line 3: actor/0001_2124494179.jpg is already listed on",
        ),
        ("Groundtruth/AllLabels/Labels_zebra.txt", "0\n1\n0\n", "3 labels for the 5 images of Imagelist.txt"),
        ("Groundtruth/AllLabels/Labels_zebra.txt", "0\n1\n-1\n0\n0\n", "label 3 is '-1', expected 0 or 1"),
        ("Groundtruth/AllLabels/Labels_zebra.txt", "", "0 labels for the 5 images"),
        ("Concepts81.txt", "zebra\nzebra\n", "line 2: 'zebra' is already on line 1"),
        ("Concepts81.txt", "zebra\n\n../x\n", "line 2 is ''"),
        ("Concepts81.txt", "zebra\n../x\n", "line 2 is '../x': expected a concept's name"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, capsys: Capture, file: str, text: str, reason: str) -> None:
    root = nus_wide(tmp_path)
    (root / file).write_text(text)
    error = refused(root, capsys)
    assert f"{root / file}: " in error and reason in error


def test_missing_files_are_named(tmp_path: Path, capsys: Capture) -> None:
    root = nus_wide(tmp_path)
    lost = root / "Flickr" / "zoos" / "0004_2.jpg"
    lost.unlink()
    listed = root / "ImageList" / "TrainImagelist.txt"
    assert f"{lost}: no such file, listed at {listed}: line 1 (--skip-bad" in refused(root, capsys)
    assert "has the official splits train and test" in refused(root, capsys, "--split", "trainval")
    assert "--classes does not apply" in refused(root, capsys, "--classes", "x")
    assert "is for --task multilabel, not detection" in refused(root, capsys, "--task", "detection")
    (root / "Groundtruth" / "AllLabels" / "Labels_zebra.txt").unlink()
    assert "Labels_zebra.txt: no such file; fetch it, or correct --root" in refused(root, capsys)
    (root / "ImageList" / "Imagelist.txt").unlink()
    assert "Imagelist.txt: no such file; fetch it, or correct --root" in refused(root, capsys)
    (root / "Concepts81.txt").unlink()
    assert "Concepts81.txt: no such file, nor ConceptsList/Concepts81.txt" in refused(root, capsys)
