"""`RecordSet`: returned values, and sets that it rejects."""

from __future__ import annotations

import copy
import json
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dali_mix.recordio import RECORD_DTYPE, RecordSet
from dali_mix.recordio.manifest import table_header
from tests.recordio.samples import small_set


def test_views_are_read_only_and_memory_mapped(tmp_path: Path) -> None:
    small_set(tmp_path / "set", 2)
    records = RecordSet(tmp_path / "set")
    first = records.encoded(0)
    assert not first.flags.writeable and not first.flags.owndata
    assert not records.table.flags.writeable


def test_pickled_set_reopens_its_files(tmp_path: Path) -> None:
    small_set(tmp_path / "set", 3)
    records = RecordSet(tmp_path / "set")
    again = copy.deepcopy(records)  # uses the pickle protocol
    assert again.fingerprint == records.fingerprint
    assert again.encoded(2).tobytes() == records.encoded(2).tobytes()
    assert len(pickle.dumps(records)) < 400


def test_missing_set_or_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such set"):
        RecordSet(tmp_path / "none")
    (tmp_path / "bare.rec").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="dali-mix adopt"):
        RecordSet(tmp_path / "bare")


@pytest.mark.parametrize("suffix", [".rec", ".idx", ".npy"])
@pytest.mark.parametrize("change", ["cut", "longer", "missing"])
def test_files_of_wrong_size_are_refused(tmp_path: Path, suffix: str, change: str) -> None:
    small_set(tmp_path / "set")
    path = tmp_path / f"set{suffix}"
    data = path.read_bytes()
    path.write_bytes(data[:-4] if change == "cut" else data + b"more")
    if change == "missing":
        path.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=f"set{suffix}: .*(copy|pack|adopt --reindex)"):
        RecordSet(tmp_path / "set")


def test_changed_index_of_same_size_is_refused(tmp_path: Path) -> None:
    small_set(tmp_path / "set")
    path = tmp_path / "set.idx"
    text = path.read_text()
    path.write_text(text.replace("0\t0\n", "0\t4\n", 1))
    with pytest.raises(ValueError, match=r"set\.idx: changed since"):
        RecordSet(tmp_path / "set")


@pytest.mark.parametrize(("field", "value"), [("offset", 4), ("offset", 1 << 60), ("length", 3), ("part", 9)])
def test_wrong_table_row_is_refused(tmp_path: Path, field: str, value: int) -> None:
    small_set(tmp_path / "set", 3)
    path = tmp_path / "set.npy"
    table = np.load(path)
    table[field][1] = value
    path.write_bytes(table_header(3) + table.tobytes())
    with pytest.raises(ValueError, match="record 1"):
        RecordSet(tmp_path / "set").payload(1)


def test_wrong_label_in_table_is_refused(tmp_path: Path) -> None:
    small_set(tmp_path / "set", 3)
    path = tmp_path / "set.npy"
    table = np.load(path)
    table["label"][1] = 99
    path.write_bytes(table_header(3) + table.tobytes())
    with pytest.raises(ValueError, match="record 1: label 99"):
        RecordSet(tmp_path / "set").labels(np.arange(3))


def test_crc_finds_changed_byte(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("row", [-1, 3])
def test_row_out_of_range_raises_index_error(tmp_path: Path, row: int) -> None:
    small_set(tmp_path / "set", 3)
    with pytest.raises(IndexError):
        RecordSet(tmp_path / "set").payload(row)


def test_opening_does_not_load_table(tmp_path: Path) -> None:
    """Opening a set of a million records must not load its table of 40 MB into memory."""
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
    # In a table of zeros the first record has no length. The set opens, and reading the record raises an error.
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


def test_set_may_have_more_shards_than_open_file_limit(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FEW_FILES, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
