"""Labels and indices of .rec files written by other programs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import dali_mix
from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet
from dali_mix.recordio.adopt import adopt
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded
from tests.recordio.test_adopt import foreign

Capture = pytest.CaptureFixture[str]


def vectors(*labels: list[float], first: int = 0) -> list[tuple[object, int, bytes]]:
    return [(label, first + number, encoded("JPEG", seed=number)) for number, label in enumerate(labels)]


@pytest.mark.parametrize(
    "labels",
    [
        [[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]],
        [[0.0, 17.0, 3.5], [1.0, 2.0, -1.0], [5.0, 0.0, 0.0]],
        [[0.0, 0.5], [1.0, 0.5, 0.5], [5.0, 2.0]],
        [[2.0, 6.0], [1.0, 0.0], [0.0, 0.0]],
    ],
)
def test_classification_takes_first_float_as_class(tmp_path: Path, capsys: Capture, labels: list[list[float]]) -> None:
    rec = foreign(tmp_path / "set.rec", vectors(*labels))
    assert main(["adopt", str(rec), "--quiet"]) == 1
    assert "pass --task classification" in capsys.readouterr().err
    assert main(["adopt", str(rec), "--task", "classification", "--quiet"]) == 0
    records = RecordSet(tmp_path / "set")
    expected = [int(label[0]) for label in labels]
    assert records.labels(np.arange(3)).tolist() == expected and records.info.num_classes == max(expected) + 1
    assert list(verify_set(tmp_path / "set")) == []
    (batch,) = dali_mix.build_loader("imagenet", tmp_path / "set", batch_size=3, train=False)
    assert batch.targets.tolist() == expected


BOX = [2.0, 6.0, 1.0, 0.25, 0.25, 0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("usual", "other", "words"),
    [
        ([4.0], [1.0, 2.0], "has [1, 2], most are like [4])"),
        ([0.0, 1.0, 1.0], [1.0], "has [1], most are like [0, 1, 1])"),
        ([0.0, 1.0, 1.0], [1.0, 0.0], "has [1, 0], most are like [0, 1, 1])"),
        (BOX, [3.0], "has [3], most are like [2, 6, 1, 0.25, 0.25, 0.5, 0.5, 0])"),
        (BOX, [*BOX, 1.0], "has [2, 6, 1, 0.25, 0.25, 0.5, 0.5, 0, …] (9 floats), most are like ["),
    ],
)
@pytest.mark.parametrize("row", [0, 2])
def test_first_label_unlike_most_is_named(
    tmp_path: Path, usual: list[float], other: list[float], words: str, row: int
) -> None:
    labels = [usual] * 5
    labels[row] = labels[3] = other
    rec = foreign(tmp_path / "set.rec", vectors(*labels))
    with pytest.raises(ValueError, match=re.escape(f"({rec}: record {row} {words}")):
        adopt([rec])


def test_error_describes_first_label_if_most_fit_no_task(tmp_path: Path) -> None:
    """If most labels fit no task, the error describes the first label and does not blame a label that fits a task."""
    rec = foreign(tmp_path / "set.rec", vectors([0.5, 1.0], [3.0], [0.5, 0.0]))
    with pytest.raises(ValueError, match=re.escape("(the first has 2 floats)")):
        adopt([rec])


@pytest.mark.parametrize(
    ("task", "labels", "words"),
    [
        ("multilabel", [[1.0], [0.0, 1.0], [1.0, 0.0]], "record 0: 1 label fields where the 2 classes need 2"),
        ("detection", [BOX, [3.0], BOX], "record 1: label: not a detection label"),
        ("detection", [[3.0], [3.0]], "record 0: label: not a detection label"),
        ("detection", [BOX, [*BOX[:5], 1.5, *BOX[6:]]], "record 1: object 1: the box x 0.25..1.5"),
    ],
)
def test_label_that_does_not_fit_task_is_named(
    tmp_path: Path, task: str, labels: list[list[float]], words: str
) -> None:
    rec = foreign(tmp_path / "set.rec", vectors(*labels))
    with pytest.raises(ValueError, match=re.escape(f"{rec}: {words}")) as caught:
        adopt([rec], task=task)
    assert ("; boxes are clipped or dropped only by `dali-mix pack --bad-boxes`" in str(caught.value)) == (
        task == "detection"
    )


@pytest.mark.parametrize("label", [[-1.0, 0.0], [0.5, 0.0], [2.0**25, 0.0]])
def test_invalid_class_in_first_float_is_refused(tmp_path: Path, label: list[float]) -> None:
    rec = foreign(tmp_path / "set.rec", vectors([0.0, 0.0], label))
    with pytest.raises(ValueError, match=r"set\.rec: record 1: label "):
        adopt([rec], task="classification")


def test_ambiguous_vectors_are_multilabel_with_a_note(tmp_path: Path, capsys: Capture) -> None:
    rec = foreign(tmp_path / "set.rec", vectors([0.0, 1.0], [1.0, 0.0], [1.0, 1.0]))
    assert main(["adopt", str(rec)]) == 0
    captured = capsys.readouterr()
    assert "labels of 2 floats read as multi-label targets" in captured.err and "1 (positive) 4" in captured.out
    assert main(["adopt", str(rec), "--task", "classification", "--force"]) == 0
    assert "note:" not in capsys.readouterr().err
    assert RecordSet(rec).labels(np.arange(3)).tolist() == [0, 1, 1]
    assert main(["adopt", str(rec), "--task", "multilabel", "--force"]) == 0
    assert "note:" not in capsys.readouterr().err


def test_foreign_index_is_replaced_only_with_reindex(tmp_path: Path, capsys: Capture) -> None:
    """As in insightface, the index also lists records without an image."""
    rec = foreign(tmp_path / "faces.rec", [([3.0, 4.0], 9, b""), *vectors([0.0, 0.0], [1.0, 0.0])])
    sizes = [len(rec.read_bytes())]
    (tmp_path / "faces.idx").write_text("9\t0\n0\t44\n1\t88\n")
    own = (tmp_path / "faces.idx").read_bytes()
    command = ["adopt", str(rec), "--quiet", "--skip-bad", "--task", "classification"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "--reindex" in error and "--out PREFIX" in error
    assert main([*command, "--out", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "faces.idx").read_bytes() == own and list(verify_set(tmp_path / "mine")) == []
    assert main([*command, "--reindex"]) == 0
    assert list(verify_set(tmp_path / "faces")) == [] and [len(rec.read_bytes())] == sizes


@pytest.mark.parametrize(
    ("rows", "suspect"),
    [
        ([[-1, 1, -1], [1, -1, -1], [-1, -1, 1]], "3 of 3 classes (0, 1, 2)"),
        ([[-1, 1, 0], [1, 0, 1], [-1, 0, -1]], "1 of 3 classes (0)"),
        ([[1, 0, -1], [-1, -1, -1], [0, 1, -1]], "1 of 3 classes (2)"),
        ([[1, 0, 1], [0, -1, 0], [0, 1, 1]], ""),
        ([[1, 1, 1], [1, 1, 0], [1, 1, 1]], ""),
    ],
)
@pytest.mark.parametrize("way", ["list", "adopt"])
def test_minus_one_used_as_negative_gives_note(
    tmp_path: Path, capsys: Capture, rows: list[list[int]], suspect: str, way: str
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(encoded("JPEG", seed=number))
    if way == "list":
        lines = ("\t".join([str(number), *map(str, row), f"{number}.jpg"]) for number, row in enumerate(rows))
        (tmp_path / "train.lst").write_text("\n".join(lines))
        command = ["pack", "list", "--root", str(tmp_path), "--out", str(tmp_path / "set")]
    else:
        foreign(tmp_path / "set.rec", vectors(*(list(map(float, row)) for row in rows)))
        command = ["adopt", str(tmp_path / "set.rec")]
    assert main([*command, "--task", "multilabel"]) == 0
    captured = capsys.readouterr()
    assert ("-1 means ignore" in captured.err) == bool(suspect) and suspect in captured.err
    counts = {name: sum(row.count(value) for row in rows) for name, value in
              (("1 (positive)", 1), ("0 (negative)", 0), ("-1 (ignored)", -1))}  # fmt: skip
    assert RecordSet(tmp_path / "set").info.report["targets"] == counts
    shown = ", ".join(f"{name} {count}" for name, count in counts.items())
    assert shown in captured.out
    assert main(["inspect", str(tmp_path / "set")]) == 0
    assert shown in capsys.readouterr().out


def test_bad_label_is_named_by_record_within_its_file(tmp_path: Path, capsys: Capture) -> None:
    recs = [
        str(foreign(tmp_path / "a.rec", [([0.0], 0, b"no image"), ([0.0], 1, encoded("JPEG"))])),
        str(foreign(tmp_path / "b.rec", [([0.0], 2, b"no image"), *vectors([1.0], [-1.0], first=3)])),
    ]
    assert main(["adopt", *recs, "--out", str(tmp_path / "set"), "--skip-bad", "--quiet"]) == 1
    error = capsys.readouterr().err
    assert f"{recs[1]}: record 2: label -1.0 is not a class" in error
    assert error.endswith("--task and --classes, or correct them and write the file again\n")


@pytest.mark.parametrize("text", ["", "0\t0\n1\t77\n", "0\t0\n1\t0\n", "0\t0\n1\t1000000\n", "0 0\n"])
def test_bad_index_without_manifest_suggests_reindex(tmp_path: Path, capsys: Capture, text: str) -> None:
    rec = foreign(tmp_path / "set.rec", [(0, 0, encoded("JPEG")), (1, 1, encoded("JPEG"))])
    (tmp_path / "set.idx").write_text(text)
    assert main(["adopt", str(rec), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "set.idx: " in error and "--reindex replaces it" in error and "`dali-mix adopt --reindex" not in error
    assert main(["adopt", str(rec), "--quiet", "--reindex"]) == 0
