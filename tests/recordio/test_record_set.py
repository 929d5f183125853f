"""`RecordSet`: what was written comes back; damaged or foreign files are refused by name."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dali_mix.recordio import RECORD_DTYPE, RecordSet, Sample, write_set
from dali_mix.recordio.manifest import read_info, table_header
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded, jpeg_with_magic, small_set


@pytest.mark.parametrize("shards", [1, 3])
def test_what_was_written_comes_back(tmp_path: Path, shards: int) -> None:
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


def test_views_are_of_the_mapped_file_and_read_only(tmp_path: Path) -> None:
    small_set(tmp_path / "set", 2)
    records = RecordSet(tmp_path / "set")
    first = records.encoded(0)
    assert not first.flags.writeable and not first.flags.owndata
    assert not records.table.flags.writeable


def test_pickled_it_opens_the_same_files(tmp_path: Path) -> None:
    small_set(tmp_path / "set", 3)
    records = RecordSet(tmp_path / "set")
    again = copy.deepcopy(records)  # goes the way of pickling
    assert again.fingerprint == records.fingerprint
    assert again.encoded(2).tobytes() == records.encoded(2).tobytes()
    assert len(pickle.dumps(records)) < 400


def test_multilabel_and_detection_labels(tmp_path: Path) -> None:
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
        ("classification", float("nan"), "not a finite"),
        ("classification", [1.0, 0.0], "is one class"),
        ("multilabel", [1, 0], "2 label fields where"),
        ("multilabel", [1, 0, 0.5], "field 3"),
        ("multilabel", [1, 0, float("nan")], "field 3"),
        ("detection", [2, 5, 0, 0.1, 0.1, 0.2, 0.2], "six numbers"),
        ("detection", [2, 6, 0, 0.4, 0.1, 0.4, 0.2, 0], "object 1.*empty"),
        ("detection", [2, 6, 0, 0.1, 0.1, 1.2, 0.2, 0], "object 1.*beyond"),
        ("detection", [2, 6, 0, 0.1, float("nan"), 0.2, 0.2, 0], "object 1.*finite"),
        ("detection", [2, 6, 7, 0.1, 0.1, 0.2, 0.2, 0], "class 7 is out of range"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, task: str, label: object, reason: str) -> None:
    with pytest.raises(ValueError, match=f"sample 1: .*{reason}"):
        good = {"classification": 0, "multilabel": [1, 0, 0], "detection": [2, 6]}[task]
        write_set(tmp_path / "set", [(encoded("JPEG"), good), (encoded("JPEG"), label)], task=task, classes="abc")
    assert list(tmp_path.iterdir()) == []


def test_ids_given_twice(tmp_path: Path) -> None:
    samples = [Sample(encoded("JPEG"), 0, id=number) for number in (4, 7, 4)]
    with pytest.raises(ValueError, match="records 0 and 2 have the same id 4"):
        write_set(tmp_path / "set", samples, classes="a")
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    first = small_set(tmp_path / "one", 4).fingerprint
    assert small_set(tmp_path / "two", 4).fingerprint == first
    assert small_set(tmp_path / "more", 5).fingerprint != first


def test_no_set_and_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such set"):
        RecordSet(tmp_path / "none")
    (tmp_path / "bare.rec").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="dali-mix adopt"):
        RecordSet(tmp_path / "bare")


@pytest.mark.parametrize("suffix", [".rec", ".idx", ".npy"])
@pytest.mark.parametrize("change", ["cut", "longer", "missing"])
def test_files_of_another_size(tmp_path: Path, suffix: str, change: str) -> None:
    small_set(tmp_path / "set")
    path = tmp_path / f"set{suffix}"
    data = path.read_bytes()
    path.write_bytes(data[:-4] if change == "cut" else data + b"more")
    if change == "missing":
        path.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=f"set{suffix}: .*(copy|pack|adopt --reindex)"):
        RecordSet(tmp_path / "set")


def test_another_index_of_the_same_size(tmp_path: Path) -> None:
    small_set(tmp_path / "set")
    path = tmp_path / "set.idx"
    text = path.read_text()
    path.write_text(text.replace("0\t0\n", "0\t4\n", 1))
    with pytest.raises(ValueError, match=r"set\.idx: changed since"):
        RecordSet(tmp_path / "set")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("format", "other"),
        ("task", "segmentation"),
        ("count", -1),
        ("count", "10"),
        ("count", True),
        ("classes", "abc"),
        ("classes", [1, 2]),
        ("parts", []),
        ("parts", [{"name": "../set.rec", "size": 1, "sha256": ""}]),
        ("parts", [{"name": "/etc/passwd", "size": 1, "sha256": ""}]),
        ("parts", [{"name": "set.rec"}]),
        ("parts", ["set.rec"]),
        ("index", {"name": "..", "size": 1, "sha256": ""}),
        ("table", None),
        ("options", []),
        ("label_width", 1.5),
    ],
)
def test_a_manifest_with_a_wrong_field(tmp_path: Path, field: str, value: object) -> None:
    small_set(tmp_path / "set")
    path = tmp_path / "set.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=r"set\.json: "):
        RecordSet(tmp_path / "set")


def test_any_byte_of_the_manifest_that_flips_is_found(tmp_path: Path) -> None:
    info = dataclasses.replace(
        small_set(tmp_path / "set", split="zürich"), source="list", options={"quality": 95.5, "é": None}
    )
    path = tmp_path / "set.json"
    path.write_text(info.to_json(), encoding="utf-8")
    text = path.read_bytes()
    assert RecordSet(tmp_path / "set").info == info
    for offset in range(len(text)):
        path.write_bytes(text[:offset] + bytes([text[offset] ^ 1]) + text[offset + 1 :])
        try:
            found = read_info(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:  # the name of the field itself, or white space
            assert found == info
    path.write_bytes(text.replace(b'"bee"', b'"bea"'))
    changed = r"set\.json: .*it changed since it was written; copy it again"
    with pytest.raises(ValueError, match=changed):
        RecordSet(tmp_path / "set")
    (problem,) = verify_set(tmp_path / "set")
    assert re.search(changed, problem)


def test_a_manifest_without_a_checksum_or_written_otherwise_opens(tmp_path: Path) -> None:
    info = small_set(tmp_path / "set")
    path = tmp_path / "set.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, sort_keys=True))
    assert RecordSet(tmp_path / "set").info == info
    del content["sha256"]  # as sets were written at first
    path.write_text(json.dumps(content))
    assert RecordSet(tmp_path / "set").info == info and list(verify_set(tmp_path / "set")) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": "dali_mix record set"}', "\xff"])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "set.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"set\.json"):
        RecordSet(tmp_path / "set")


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


def test_a_table_or_manifest_that_would_run_code(tmp_path: Path) -> None:
    small_set(tmp_path / "set")
    marker = tmp_path / "ran"
    good = (tmp_path / "set.npy").read_bytes()
    bomb = np.array([_Bomb(marker)] * 10, dtype=object)
    np.save(tmp_path / "set.npy", bomb, allow_pickle=True)
    data = (tmp_path / "set.npy").read_bytes()
    (tmp_path / "set.npy").write_bytes(data + bytes(max(0, len(good) - len(data))))
    with pytest.raises(ValueError, match=r"set\.npy: not the table"):
        RecordSet(tmp_path / "set")
    (tmp_path / "set.npy").write_bytes(good)
    (tmp_path / "set.json").write_bytes(pickle.dumps(_Bomb(marker)))
    with pytest.raises(ValueError, match=r"set\.json: not a manifest"):
        RecordSet(tmp_path / "set")
    assert not marker.exists()


def test_a_row_that_points_elsewhere(tmp_path: Path) -> None:
    small_set(tmp_path / "set", 3)
    path = tmp_path / "set.npy"
    table = np.load(path)
    for field, value in (("offset", 4), ("offset", 1 << 60), ("length", 3), ("part", 9)):
        changed = table.copy()
        changed[field][1] = value
        path.write_bytes(table_header(3) + changed.tobytes())
        with pytest.raises(ValueError, match="record 1"):
            RecordSet(tmp_path / "set").payload(1)
    changed = table.copy()
    changed["label"][1] = 99
    path.write_bytes(table_header(3) + changed.tobytes())
    with pytest.raises(ValueError, match="record 1: label 99"):
        RecordSet(tmp_path / "set").labels(np.arange(3))


def test_a_changed_byte_is_found_by_its_crc(tmp_path: Path) -> None:
    small_set(tmp_path / "set", 3)
    records = RecordSet(tmp_path / "set")
    path = tmp_path / "set.rec"
    data = bytearray(path.read_bytes())
    data[int(records.table["offset"][1]) + 100] ^= 1
    path.write_bytes(data)
    records = RecordSet(tmp_path / "set")
    assert len(records.checked_payload(0)) == records.table["length"][0]
    with pytest.raises(ValueError, match=r"set\.rec: record 1: crc32"):
        records.checked_payload(1)


def test_rows_outside(tmp_path: Path) -> None:
    small_set(tmp_path / "set", 3)
    for row in (-1, 3):
        with pytest.raises(IndexError):
            RecordSet(tmp_path / "set").payload(row)


def test_opening_reads_no_table(tmp_path: Path) -> None:
    """A million records: opening must cost no memory of the table's size (40 MB)."""
    info = small_set(tmp_path / "set", 2)
    count = 1_000_000
    with (tmp_path / "set.npy").open("wb") as file:
        file.write(table_header(count))
        file.truncate(len(table_header(count)) + count * RECORD_DTYPE.itemsize)
    content = json.loads(info.to_json())
    content["count"] = count
    del content["sha256"]
    (tmp_path / "set.json").write_text(json.dumps(content))
    code = """
import resource, sys
from dali_mix.recordio import RecordSet
import numpy
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
records = RecordSet(sys.argv[1])
assert len(records) == 1_000_000 and records.encoded(0).size
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "set")], capture_output=True, text=True)
    # The first record of an all-zero table has no length: reading it is refused by name, after the set was opened.
    assert "record 0" in done.stderr
    code = code.replace(" and records.encoded(0).size", "")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "set")], capture_output=True, text=True, check=True
    )
    page = resource.getpagesize()
    assert int(done.stdout) * 1024 < 8 << 20, f"opening took {done.stdout} KiB (pages of {page})"


FEW_FILES = """
import os, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from dali_mix.recordio import RecordSet, write_set
from dali_mix.recordio.adopt import adopt
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded
folder = Path(sys.argv[1])
write_set(folder / "set", [(encoded("PNG"), 0)] * 300, classes="a", shards=300)
records = RecordSet(folder / "set")
assert len(records.rec_paths) == 300 and sum(records.encoded(i).size > 0 for i in range(300)) == 300
assert not list(verify_set(folder / "set"))
adopt(records.rec_paths, folder / "adopted")
opened = [os.readlink(f"/proc/self/fd/{number}") for number in range(64) if os.path.exists(f"/proc/self/fd/{number}")]
assert not [name for name in opened if name.endswith(".rec")], opened
mapped = lambda: sum("set-" in line for line in open("/proc/self/maps"))
before, image = mapped(), records.encoded(7)
first = bytes(image)
del records
assert before >= 300 and mapped() == 1 and bytes(image) == first  # a view keeps its file mapped
del image
assert mapped() == 0
"""


def test_a_set_may_have_more_shards_than_a_process_may_have_open_files(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FEW_FILES, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
