"""Sets written from memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dali_mix.recordio import RecordSet, Sample, write_set
from dali_mix.recordio.writer import SetWriter
from tests.recordio.samples import encoded, jpeg_with_magic, small_set


@pytest.mark.parametrize("shards", [1, 3])
def test_written_records_round_trip(tmp_path: Path, shards: int) -> None:
    samples = [(encoded(kind, 9 + row, 14), row % 4) for row, kind in enumerate(["JPEG", "PNG", "WEBP", "BMP", "PPM"])]
    samples.append((jpeg_with_magic("start", "end"), 2))
    write_set(tmp_path / "set", samples, classes="abcd", shards=shards, split="train")
    records = RecordSet(tmp_path / "set")
    assert [records.encoded(row).tobytes() for row in range(6)] == [data for data, _ in samples]
    assert records.labels(np.array([5, 0, 3])).tolist() == [2, 0, 3]
    assert records.labels(np.array([0])).dtype == np.int64
    assert records.table["height"].tolist() == [9, 10, 11, 12, 13, 12]
    assert records.table["flags"].tolist() == [0, 0, 0, 0, 0, 1]
    assert len(records.rec_paths) == shards
    assert records.info.split == "train"


def test_multilabel_and_detection_labels_round_trip(tmp_path: Path) -> None:
    data = encoded("JPEG")
    write_set(tmp_path / "many", [(data, [1, 0, -1]), (data, [0, 0, 1])], task="multilabel", classes="abc")
    assert RecordSet(tmp_path / "many").labels(np.array([1, 0])).tolist() == [[0, 0, 1], [1, 0, -1]]
    boxes = [[2, 6, 1, 0.1, 0.2, 0.3, 0.4, 0, 0, 0, 0, 1, 1, 1], [2, 6]]
    write_set(tmp_path / "boxes", [(data, label) for label in boxes], task="detection", classes="ab")
    found = RecordSet(tmp_path / "boxes").labels(np.array([0, 1]))
    assert [array.shape for array in found] == [(2, 6), (0, 6)]
    assert found[0][1].tolist() == [0, 0, 0, 1, 1, 1]
    table = RecordSet(tmp_path / "boxes").table
    assert np.isnan(table["label"]).all()


@pytest.mark.parametrize(
    ("task", "label", "reason"),
    [
        ("classification", 3, "out of range"),
        ("classification", float("nan"), "label nan is not a class"),
        ("classification", [1.0, 0.0], "is one class"),
        ("multilabel", [1, 0], "2 label fields where"),
        ("multilabel", [1, 0, 0.5], "field 3"),
        ("multilabel", [1, 0, float("nan")], "field 3"),
        ("detection", [2, 5, 0, 0.1, 0.1, 0.2, 0.2], "six numbers"),
        ("detection", [2, 6, 0, 0.4, 0.1, 0.4, 0.2, 0], "object 1.*empty"),
        ("detection", [2, 6, 0, 0.1, 0.1, 1.2, 0.2, 0], "object 1.*exceeds"),
        ("detection", [2, 6, 0, 0.1, float("nan"), 0.2, 0.2, 0], "object 1.*finite"),
        ("detection", [2, 6, 7, 0.1, 0.1, 0.2, 0.2, 0], "class 7 is out of range"),
    ],
)
def test_invalid_labels_are_refused(tmp_path: Path, task: str, label: object, reason: str) -> None:
    with pytest.raises(ValueError, match=f"sample 1: .*{reason}"):
        good = {"classification": 0, "multilabel": [1, 0, 0], "detection": [2, 6]}[task]
        write_set(tmp_path / "set", [(encoded("JPEG"), good), (encoded("JPEG"), label)], task=task, classes="abc")
    assert list(tmp_path.iterdir()) == []


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    samples = [Sample(encoded("JPEG"), 0, id=number) for number in (4, 7, 4)]
    with pytest.raises(ValueError, match="records 0 and 2 have the same id 4"):
        write_set(tmp_path / "set", samples, classes="a")
    assert list(tmp_path.iterdir()) == []


def test_too_many_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"70000 shards .* 1 to 65536"):
        SetWriter(tmp_path / "set", task="classification", classes="a", total=1 << 20, shards=70_000)


def test_empty_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 shards for 2 records"):
        small_set(tmp_path / "set", 2, shards=3)
