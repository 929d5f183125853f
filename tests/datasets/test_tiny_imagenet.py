"""Layout `tiny-imagenet`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet
from tests.recordio.samples import encoded

Capture = pytest.CaptureFixture[str]


def pack(layout: str, root: Path, out: Path, *options: str) -> int:
    return main(["pack", layout, "--root", str(root), "--out", str(out), "--quiet", *options])


def tiny_imagenet(root: Path) -> Path:
    root.mkdir(parents=True)
    (root / "wnids.txt").write_text("n02\nn01\n")
    for wnid in ("n01", "n02"):
        (root / "train" / wnid / "images").mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("x")
        for number in range(3):
            (root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG").write_bytes(encoded("JPEG"))
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for number, wnid in enumerate(["n02", "n01", "n01", "n02"]):
        (root / "val" / "images" / f"val_{number}.JPEG").write_bytes(encoded("JPEG", seed=number))
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


@pytest.mark.parametrize("zipped", [False, True])
def test_labels_of_train_and_val(tmp_path: Path, capsys: Capture, zipped: bool) -> None:
    root = tiny_imagenet(tmp_path / "data" / "tiny-imagenet-200")
    if zipped:
        shutil.make_archive(str(root), "zip", tmp_path / "data", root.name)
        shutil.rmtree(root)
        root = root.parent
    assert pack("tiny-imagenet", root, tmp_path / "val", "--split", "val") == 0
    assert RecordSet(tmp_path / "val").labels(np.arange(4)).tolist() == [1, 0, 0, 1]
    assert pack("tiny-imagenet", root, tmp_path / "train", "--no-shuffle") == 0
    assert RecordSet(tmp_path / "train").labels(np.arange(6)).tolist() == [0, 0, 0, 1, 1, 1]
    assert RecordSet(tmp_path / "train").info.classes == ("n01", "n02")
    assert pack("tiny-imagenet", root, tmp_path / "test", "--split", "test") == 1
    assert "labelled splits train and val" in capsys.readouterr().err


def test_bad_annotation_line_is_named(tmp_path: Path, capsys: Capture) -> None:
    root = tiny_imagenet(tmp_path / "tiny")
    with (root / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_9.JPEG\tn99\n")
    assert pack("tiny-imagenet", root, tmp_path / "val", "--split", "val") == 1
    assert "val_annotations.txt: line 5 is" in capsys.readouterr().err
