"""VG500 in SSGRL's partition, and rejected input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.recordio import RecordSet
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded

Capture = pytest.CaptureFixture[str]
CATEGORIES = {"1.jpg": [0, 499], "2.jpg": [], "2417000.jpg": [7, 7, 3], "10.jpg": [12]}
FOLDERS = {"1.jpg": "VG_100K", "2.jpg": "VG_100K", "2417000.jpg": "VG_100K_2", "10.jpg": "VG_100K_2"}


def vg500(root: Path) -> Path:
    for number, (file, folder) in enumerate(FOLDERS.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / file).write_bytes(encoded("JPEG", seed=number))
    (root / "ssgrl_partition").mkdir()
    (root / "ssgrl_partition" / "train_list_500.txt").write_text("2417000.jpg\n1.jpg\n2.jpg\n")
    (root / "ssgrl_partition" / "test_list_500.txt").write_text("VG_100K_2\\10.jpg\n")
    (root / "vg_category_500_labels_index.json").write_text(json.dumps(CATEGORIES))
    return root


def pack(root: Path, out: Path, *options: str) -> int:
    return main(["pack", "vg500", "--root", str(root), "--out", str(out), "--quiet", *options])


def refused(root: Path, capsys: Capture, *options: str) -> str:
    assert pack(root, root / "refused", *options) == 1
    return capsys.readouterr().err


def hot(*numbers: int) -> list[int]:
    return [int(number in numbers) for number in range(500)]


def test_partition_is_packed(tmp_path: Path, capsys: Capture) -> None:
    root = vg500(tmp_path / "vg")
    assert pack(root, tmp_path / "train", "--no-shuffle") == 0
    assert "train_list_500.txt has 3 images here, 82,904 as published" in capsys.readouterr().err
    records = RecordSet(tmp_path / "train")
    assert records.labels(np.arange(2)).tolist() == [hot(3, 7), hot(0, 499)]
    assert records.encoded(0).tobytes() == (root / "VG_100K_2" / "2417000.jpg").read_bytes()
    assert records.encoded(1).tobytes() == (root / "VG_100K" / "1.jpg").read_bytes()
    assert records.info.num_classes == 500 and records.info.report["unlabelled_dropped"] == 1
    assert list(verify_set(tmp_path / "train")) == []
    listing = LAYOUTS["vg500"](root, "test", Options())
    assert list(listing.names) == ["VG_100K_2/10.jpg"] and np.asarray(listing.labels[0]).tolist() == hot(12)
    assert len(LAYOUTS["vg500"](root, "train", Options(unlabelled="keep")).names) == 3
    (root / INDEX).rename(root / "ssgrl_partition" / INDEX)  # next to the lists, as in SSGRL
    assert len(LAYOUTS["vg500"](root, "train", Options()).names) == 2


def test_classes_file_names_categories(tmp_path: Path, capsys: Capture) -> None:
    root = vg500(tmp_path / "vg")
    names = tmp_path / "names.txt"
    names.write_text("".join(f"thing {number}\n" for number in range(500)))
    assert LAYOUTS["vg500"](root, "test", Options(classes_file=names)).classes[499] == "thing 499"
    names.write_text("one\ntwo\n")
    assert "2 names for the 500 categories" in refused(root, capsys, "--classes", str(names))


LISTED = "ssgrl_partition/train_list_500.txt"
INDEX = "vg_category_500_labels_index.json"


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        (LISTED, "1.jpg\n3.jpg\n", "line 2: 3.jpg has no entry in"),
        (LISTED, "1.jpg\n\nVG_100K/1.jpg\n", "line 3: 1.jpg is already listed on line 1"),
        (LISTED, "../1.jpg\n", "line 1: '../1.jpg' is not a path below"),
        (LISTED, "", "lists no image"),
        (INDEX, "[]", "expected an object"),
        (INDEX, '{"1.jpg": [1], "2.jpg": [2], "1.jpg": [3]}', "'1.jpg' occurs twice in one object"),
        (INDEX, '{"1.jpg": [1], "2.jpg": [2], "2417000.jpg": [500]}', "2417000.jpg: [500] is not a list of numbers"),
        (INDEX, '{"1.jpg": [1], "2.jpg": [2], "2417000.jpg": [true]}', "2417000.jpg: [True] is not a list of numbers"),
        (INDEX, '{"1.jpg": [1], "2.jpg": [2], "2417000.jpg": 4}', "2417000.jpg: 4 is not a list of numbers"),
        (INDEX, '{"1.jpg": [1', "cannot be read as JSON"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, capsys: Capture, file: str, text: str, reason: str) -> None:
    root = vg500(tmp_path)
    (root / file).write_text(text)
    error = refused(root, capsys)
    assert f"{root / file}: " in error and reason in error


def test_missing_files_are_named(tmp_path: Path, capsys: Capture) -> None:
    root = vg500(tmp_path)
    (root / "VG_100K" / "1.jpg").unlink()
    error = refused(root, capsys)
    assert f"VG_100K/1.jpg: no such file, listed at {root / LISTED}: line 2 (--skip-bad" in error
    assert "has the splits train and test" in refused(root, capsys, "--split", "trainval")
    (root / LISTED).unlink()
    assert f"{LISTED}: no such file; fetch it, or correct --root" in refused(root, capsys)
    (root / INDEX).unlink()
    assert f"{INDEX}: no such file; fetch it, or correct --root" in refused(root, capsys)
    vg500(tmp_path / "bare")
    for folder in ("VG_100K", "VG_100K_2"):
        (tmp_path / "bare" / folder).rename(tmp_path / f"moved {folder}")
    assert "neither VG_100K nor VG_100K_2 in it" in refused(tmp_path / "bare", capsys)
