"""`dali-mix verify`: intact sets pass, and errors name the damaged file and record."""

from __future__ import annotations

import dataclasses
import struct
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet, manifest, write_set
from dali_mix.recordio.framing import MAGIC
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded, jpeg_with_magic, small_set, with_checksums


def verify(prefix: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    status = main(["verify", str(prefix), *options])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_intact_set_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [(encoded("JPEG"), 0), (jpeg_with_magic("a", "b"), 1), (encoded("PNG", 3, 4), 1)]
    write_set(tmp_path / "set", samples, classes="ab", shards=2)
    assert verify(tmp_path / "set", capsys, "--decode") == (0, f"{tmp_path}/set: 3 records are intact\n")


def patched(change: Callable[[bytearray, np.ndarray], object]) -> Callable[[Path], None]:
    """Return a function that damages set.rec with `change(bytes, table)`."""

    def apply(prefix: Path) -> None:
        table = np.array(RecordSet(prefix).table)
        path = prefix.with_suffix(".rec")
        data = bytearray(path.read_bytes())
        change(data, table)
        path.write_bytes(data)

    return apply


def word(record: int, value: int, at: int = 4) -> Callable[[Path], None]:
    return patched(lambda data, table: struct.pack_into("<I", data, int(table["offset"][record]) + at, value))


def zero_middle(data: bytearray, table: np.ndarray) -> None:
    middle = int(table["offset"][4] + table["length"][4] // 2)
    data[middle : middle + 40] = bytes(40)


REC = {
    "truncated": (
        patched(lambda data, table: data.__delitem__(slice(int(table["offset"][7]) + 30, None))),
        "record 7",
    ),
    "length 2^29-1": (word(3, (1 << 29) - 1), "record 3"),
    "length 10": (word(3, 10), "record 3"),
    "label flag 5000": (word(3, 5000, at=8), "record 3"),
    "label 99": (
        patched(lambda data, table: struct.pack_into("<f", data, int(table["offset"][3]) + 12, 99)),
        "record 3",
    ),
    "label nan": (
        patched(lambda data, t: struct.pack_into("<f", data, int(t["offset"][3]) + 12, float("nan"))),
        "record 3",
    ),
    "another id": (word(3, 77, at=16), "record 3"),
    "no magic": (word(3, MAGIC ^ 1, at=0), "record 3"),
    "cflag 2": (word(3, 2 << 29 | 100), "record 3"),
    "zeroed middle": (patched(zero_middle), "record 4: crc32"),
    "extra record": (patched(lambda data, table: data.extend(struct.pack("<II", MAGIC, 0))), "the end of the set"),
}


@pytest.mark.parametrize("damage", REC)
def test_damaged_rec_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    small_set(tmp_path / "set")
    apply, where = REC[damage]
    apply(tmp_path / "set")
    status, text = verify(tmp_path / "set", capsys)
    assert status == 1
    assert f"{tmp_path}/set.rec: " in text and where in text
    assert text.count("\n") == 1 and text.count("; ") == 1  # one line with one piece of advice
    assert text.startswith("dali-mix verify: error: ")


def lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        path.write_text("".join(line + "\n" for line in change(path.read_text().splitlines())))

    return apply


def end_of_the_records(path: Path) -> None:
    size = sum(rec.stat().st_size for rec in path.parent.glob("*.rec"))
    lines(lambda old: [*old[:-1], f"9\t{size}"])(path)


IDX = {
    "garbage": (lambda path: path.write_bytes(b"\x00\xffgarbage\n" * 5), "line 1"),
    "malformed line": (lines(lambda old: [*old[:4], "four", *old[5:]]), "line 5"),
    "stale: fewer lines": (lines(lambda old: old[:-1]), "9 lines for 10 records"),
    "stale: wrong offset": (lines(lambda old: [*old[:-1], "9\t" + str(int(old[-1].split()[1]) - 4)]), "stale"),
    "duplicate offset": (lines(lambda old: [*old[:-1], "9\t" + old[-2].split()[1]]), "twice"),
    "unaligned": (lines(lambda old: [*old[:-1], "9\t" + str(int(old[-1].split()[1]) + 1)]), "multiple of four"),
    "past the end": (lines(lambda old: [*old[:-1], "9\t99999996"]), "past the end"),
    "at the end": (end_of_the_records, "past the end"),
    "negative": (lines(lambda old: ["0\t-4", *old[1:]]), "line 1"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "missing": (lambda path: path.unlink(), "missing"),
}


@pytest.mark.parametrize("damage", IDX)
def test_damaged_index_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    small_set(tmp_path / "set")
    apply, what = IDX[damage]
    apply(tmp_path / "set.idx")
    status, text = verify(tmp_path / "set", capsys)
    assert status == 1
    assert f"dali-mix verify: error: {tmp_path}/set.idx: " in text and what in text
    assert text.count("\n") == 1
    with pytest.raises((ValueError, FileNotFoundError), match=r"set\.idx"):  # opening the set fails too
        RecordSet(tmp_path / "set")


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("damage", IDX)
def test_reindex_advice_repairs_only_the_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, shards: int
) -> None:
    info = dataclasses.replace(small_set(tmp_path / "set", shards=shards), options={"quality": 90})
    (tmp_path / "set.json").write_text(info.to_json())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    IDX[damage][0](tmp_path / "set.idx")
    advice = f"dali-mix adopt --reindex {tmp_path}/set"
    assert f"`{advice}`" in verify(tmp_path / "set", capsys)[1]
    with pytest.raises((ValueError, FileNotFoundError), match=f"`{advice}`"):
        RecordSet(tmp_path / "set")
    assert main([*advice.split()[1:], "--quiet"]) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


BAD_IMAGES = {
    "html": b"<html>not found</html>",
    "half a jpeg": encoded("JPEG")[:300],
    "gif": encoded("GIF"),
    "empty": b"",
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_record_without_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    samples = [(encoded("JPEG"), 0), (BAD_IMAGES[kind], 0, 5, 5, "jpeg"), (encoded("JPEG"), 0)]
    write_set(tmp_path / "set", samples, classes="a")
    status, text = verify(tmp_path / "set", capsys)
    assert status == 1
    assert f"{tmp_path}/set.rec: record 1: " in text
    assert "record 0" not in text and "record 2" not in text


def test_decode_finds_damage_hidden_from_headers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    png = bytearray(encoded("PNG", 40, 40))
    offset = png.index(b"IDAT") + 20
    png[offset : offset + 30] = bytes(30)
    write_set(tmp_path / "set", [(with_checksums(bytes(png)), 0)], classes="a")
    assert verify(tmp_path / "set", capsys)[0] == 0
    status, text = verify(tmp_path / "set", capsys, "--decode")
    assert status == 1 and "record 0: cannot be decoded" in text


def test_limit_bounds_number_of_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "set", [(b"text", 0, 5, 5, "jpeg")] * 30, classes="a")
    status, text = verify(tmp_path / "set", capsys, "--limit", "5")
    assert status == 1 and text.count("not an image") == 5 and "stopped after 5" in text


def test_closing_iterator_stops_hashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --limit or Ctrl-C, hashing stops within the current file and does not start on later files."""
    small_set(tmp_path / "set", 20, shards=10)
    apply, _ = REC["truncated"]
    apply(tmp_path / "set-00000.rec")
    hashed = []

    def endless(path: Path, stop: threading.Event) -> str:
        if path.suffix != ".rec":
            return manifest.file_sha256(path, stop)
        hashed.append(path.name)
        assert stop.wait(60)
        return manifest.file_sha256(path, stop)

    monkeypatch.setattr("dali_mix.recordio.verify.file_sha256", endless)
    with closing(verify_set(tmp_path / "set")) as found:
        assert f"{tmp_path}/set-00000.rec: record" in next(found)
    assert len(hashed) <= 1
    stop = threading.Event()
    assert manifest.file_sha256(tmp_path / "set.idx", stop) == manifest.file_sha256(tmp_path / "set.idx")
    stop.set()
    with pytest.raises(InterruptedError):
        manifest.file_sha256(tmp_path / "set.idx", stop)


def test_damaged_table_is_one_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_set(tmp_path / "set")
    (tmp_path / "set.npy").write_bytes((tmp_path / "set.npy").read_bytes()[:-90] + bytes(90))
    status, text = verify(tmp_path / "set", capsys)
    assert status == 1 and text.count("\n") == 1 and f"{tmp_path}/set.npy: sha256" in text


def test_renamed_set_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_set(tmp_path / "old")
    for suffix in ("rec", "idx", "npy", "json"):
        (tmp_path / f"old.{suffix}").rename(tmp_path / f"new.{suffix}")
    status, text = verify(tmp_path / "new", capsys)
    assert status == 1 and text.count("\n") == 1 and "keep the names they were packed with" in text
    with pytest.raises(FileNotFoundError, match=r"new\.json: is the manifest of 'old'.*rename them back to old\.\*"):
        RecordSet(tmp_path / "new")


def test_missing_set_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = verify(tmp_path / "none", capsys)
    assert status == 1 and "no such set" in text


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_changed_byte_is_found(tmp_path: Path, data: st.DataObject) -> None:
    prefix = tmp_path / "set"
    small_set(prefix, 4, force=True)
    suffix = data.draw(st.sampled_from([".rec", ".idx", ".npy", ".json"]))
    path = prefix.with_suffix(suffix)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    path.write_bytes(content)
    problems = list(verify_set(prefix))
    assert problems or suffix == ".json"  # some changes to the manifest are harmless
    try:
        records = RecordSet(prefix)
        for row in range(len(records)):
            records.encoded(row)
        records.labels(np.arange(len(records)))
    except (ValueError, FileNotFoundError) as error:
        assert str(prefix.parent) in str(error)
