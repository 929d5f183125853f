"""Layout `digits`: the scans in scikit-learn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet

Capture = pytest.CaptureFixture[str]


def pack(layout: str, root: Path, out: Path, *options: str) -> int:
    return main(["pack", layout, "--root", str(root), "--out", str(out), "--quiet", *options])


def decoded(records: RecordSet, row: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(records.encoded(row).tobytes())))


def test_digits_refuses_root(tmp_path: Path, capsys: Capture) -> None:
    assert pack("digits", tmp_path, tmp_path / "set") == 1
    assert "leave --root out" in capsys.readouterr().err


def test_digits_match_scikit_learn(tmp_path: Path) -> None:
    for split in ("train", "val"):
        assert main(["pack", "digits", "--split", split, "--out", str(tmp_path / split), "--quiet"]) == 0
    train, val = RecordSet(tmp_path / "train"), RecordSet(tmp_path / "val")
    assert len(train) + len(val) == 1797 and len(val) == 359
    assert not set(train.table["id"].tolist()) & set(val.table["id"].tolist())
    counts = np.bincount(val.labels(np.arange(len(val))))
    assert counts.min() >= 34 and counts.max() <= 37  # per class
    images, labels = load_digits(return_X_y=True)
    for records in (train, val):
        ids = records.table["id"]
        assert records.labels(np.arange(len(records))).tolist() == labels[ids].tolist()
        assert set(records.table["height"].tolist()) == set(records.table["width"].tolist()) == {32}
        small = np.asarray(Image.fromarray(decoded(records, 5)).resize((8, 8), Image.Resampling.BOX))[:, :, 0]
        original = images[ids[5]].reshape(8, 8) * (255 / 16)
        assert np.corrcoef(small.ravel(), original.ravel())[0, 1] > 0.98
