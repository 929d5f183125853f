"""`dali-mix adopt`: manifests for .rec files of other programs, and errors for files that cannot be adopted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet, framing, pack_record
from dali_mix.recordio.adopt import adopt
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded, jpeg_with_magic, small_set


def foreign(path: Path, records: list[tuple[object, int, bytes]]) -> Path:
    """Write (label, id, image) records to a .rec file without index or manifest."""
    path.write_bytes(b"".join(framing.frame(pack_record(label, number, data)) for label, number, data in records))
    return path


def classes(count: int, first: int = 0) -> list[tuple[object, int, bytes]]:
    return [(number % 3, first + number, encoded("JPEG", 8 + number, 9)) for number in range(count)]


def test_adopt_joins_several_files(tmp_path: Path) -> None:
    one = foreign(tmp_path / "one.rec", classes(3))
    two = foreign(tmp_path / "two.rec", classes(4, first=100))
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\ncat\n")
    command = ["adopt", str(one), str(two), "--out", str(tmp_path / "both"), "--classes", str(names), "--quiet"]
    assert main(command) == 0
    records = RecordSet(tmp_path / "both")
    assert records.info.classes == ("ant", "bee", "cat")
    assert records.labels(np.arange(7)).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert records.table["part"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    offsets = [int(line.split()[1]) for line in (tmp_path / "both.idx").read_text().splitlines()]
    assert offsets[3] == one.stat().st_size
    assert list(verify_set(tmp_path / "both")) == []


def test_adopt_refuses_mismatched_index(tmp_path: Path) -> None:
    rec = foreign(tmp_path / "set.rec", classes(3))
    (tmp_path / "set.idx").write_text("0\t0\n")
    with pytest.raises(ValueError, match=r"set\.idx: 1 lines that do not match the 3 records; reindex=True"):
        adopt([rec])
    assert not (tmp_path / "set.json").exists()
    adopt([rec], reindex=True)
    assert len((tmp_path / "set.idx").read_text().splitlines()) == 3


def test_reindex_keeps_manifest(tmp_path: Path) -> None:
    small_set(tmp_path / "set", 4, shards=2)
    manifest = (tmp_path / "set.json").read_bytes()
    (tmp_path / "set.idx").write_text("0\t0\n")
    with pytest.raises(ValueError, match=r"describes set-00000\.rec, set-00001\.rec, not set-00001\.rec; .*force=True"):
        adopt([tmp_path / "set-00001.rec"], tmp_path / "set", reindex=True)
    adopt(sorted(tmp_path.glob("*.rec")), tmp_path / "set", reindex=True)
    assert (tmp_path / "set.json").read_bytes() == manifest and list(verify_set(tmp_path / "set")) == []
    (tmp_path / "set.npy").write_bytes((tmp_path / "set.npy").read_bytes()[:-60] + bytes(60))
    with pytest.raises(ValueError, match=r"set\.npy: changed, so the index cannot be made from it"):
        adopt([tmp_path / "set"], reindex=True)


def test_reindex_syncs_index_before_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_set(tmp_path / "set", 4)
    (tmp_path / "set.idx").write_text("0\t0\n")
    synced: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "dali_mix.recordio.publish.sync", lambda path: synced.append((path.name, (tmp_path / "set.idx").read_text()))
    )
    adopt([tmp_path / "set"], reindex=True)
    assert synced[0] == (".set.idx.partial", "0\t0\n") and synced[1][0] == tmp_path.name


def test_reindex_rebuilds_lost_index_from_ids(tmp_path: Path) -> None:
    rec = foreign(tmp_path / "set.rec", classes(2))
    offsets = [record.offset for _, record in framing.walk(memoryview(rec.read_bytes()))]
    (tmp_path / "set.idx").write_text(f"77\t{offsets[1]}\n5\t{offsets[0]}\n")
    adopt([rec])
    (tmp_path / "set.idx").unlink()
    info = adopt([rec], reindex=True)  # the keys are lost; the new index uses the ids
    assert (tmp_path / "set.idx").read_text() == f"0\t{offsets[0]}\n1\t{offsets[1]}\n"
    assert list(verify_set(tmp_path / "set")) == [] and RecordSet(tmp_path / "set").info == info


def test_reindex_keeps_matching_index(tmp_path: Path) -> None:
    rec = foreign(tmp_path / "set.rec", classes(2))
    offsets = [record.offset for _, record in framing.walk(memoryview(rec.read_bytes()))]
    text = f"77\t{offsets[1]}\n5\t{offsets[0]}\n"  # keys and order differ from the ids
    (tmp_path / "set.idx").write_text(text)
    adopt([rec])
    adopt([rec], reindex=True)  # the index is already valid
    assert (tmp_path / "set.idx").read_text() == text
    assert list(verify_set(tmp_path / "set")) == []


def test_adopt_refuses_truncated_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rec = foreign(tmp_path / "set.rec", classes(3))
    rec.write_bytes(rec.read_bytes()[:-9])
    assert main(["adopt", str(rec), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert f"{rec}: record 2: " in error and "truncated or damaged; copy it again" in error
    assert [path.name for path in tmp_path.iterdir()] == ["set.rec"]


def test_adopt_names_invalid_input_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set.rec").write_text("hello, this is a text\n")
    assert main(["adopt", str(tmp_path / "set.rec"), "--quiet"]) == 1
    assert f"{tmp_path}/set.rec: record 0: not a RecordIO file: " in capsys.readouterr().err
    (tmp_path / "notes").write_text("hello, this is a text\n")
    for name, why in (
        ("notes", "not a RecordIO file"),
        ("", "a folder; pass the .rec"),
        ("none", "no such file; pass"),
    ):
        assert main(["adopt", str(tmp_path / name), "--quiet"]) == 1
        assert f"{tmp_path / name}: {why}" in capsys.readouterr().err
    for names, why in (("none.txt", "no such file"), ("", "cannot be read: Is a directory")):
        assert main(["adopt", str(tmp_path / "set.rec"), "--classes", str(tmp_path / names), "--quiet"]) == 1
        assert f"{tmp_path / names}: {why}; check --classes\n" in capsys.readouterr().err


def test_adopt_refuses_or_skips_records_without_image(tmp_path: Path) -> None:
    rec = foreign(tmp_path / "set.rec", [*classes(2), (0, 7, encoded("GIF")), (1, 8, encoded("PNG"))])
    with pytest.raises(ValueError, match=r"set\.rec: record 2: a GIF.*skip_bad=True"):
        adopt([rec])
    info = adopt([rec], skip_bad=True)
    assert info.count == 3
    assert [entry["reason"][:5] for entry in info.report["passed_over"]] == ["a GIF"]
    assert RecordSet(tmp_path / "set").table["id"].tolist() == [0, 1, 8]
    assert list(verify_set(tmp_path / "set")) == []


def test_adopt_renumbers_repeated_ids(tmp_path: Path) -> None:
    rec = foreign(tmp_path / "set.rec", [(0, 0, encoded("JPEG"))] * 3)
    with pytest.raises(ValueError, match=r"same id 0.*renumber=True"):
        adopt([rec])
    adopt([rec], renumber=True)
    assert RecordSet(tmp_path / "set").table["id"].tolist() == [0, 1, 2]
    assert list(verify_set(tmp_path / "set")) == []


def test_adopt_refuses_labels_of_no_task(tmp_path: Path) -> None:
    image = encoded("JPEG")
    mixed = foreign(tmp_path / "mixed.rec", [([1.0, 0.0], 0, image), ([1.0, 0.0, 1.0], 1, image)])
    with pytest.raises(ValueError, match="neither classes"):
        adopt([mixed])
    named = foreign(tmp_path / "named.rec", [(5, 0, image)])
    with pytest.raises(ValueError, match=r"named\.rec: record 0: label 5 is out of range.*with task and classes"):
        adopt([named], classes=["only", "two"])


def test_adopt_refuses_existing_manifest_and_misplaced_files(tmp_path: Path) -> None:
    rec = foreign(tmp_path / "set.rec", classes(3))
    adopt([rec])
    with pytest.raises(FileExistsError, match="force=True"):
        adopt([rec])
    adopt([rec], force=True)
    assert rec.exists()  # replacing the manifest must not delete the records
    assert len(RecordSet(tmp_path / "set")) == 3
    with pytest.raises(ValueError, match="not in the folder"):
        adopt([rec], tmp_path / "elsewhere" / "set")
    with pytest.raises(FileNotFoundError, match=r"none\.rec: no such file"):
        adopt([tmp_path / "none.rec"])
    (tmp_path / "empty.rec").write_bytes(b"")
    with pytest.raises(ValueError, match="no record in it"):
        adopt([tmp_path / "empty.rec"])


def test_adopting_one_shard_keeps_the_others(tmp_path: Path) -> None:
    small_set(tmp_path / "set", shards=3)
    recs = {path: path.read_bytes() for path in tmp_path.glob("*.rec")}
    adopt([tmp_path / "set-00001.rec"], tmp_path / "set", reindex=True, force=True)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.rec")} == recs and len(recs) == 3
    adopt(sorted(recs), tmp_path / "set", reindex=True, force=True)
    foreign(tmp_path / "set_more.rec", classes(2, first=100))
    adopt([*sorted(recs), tmp_path / "set_more.rec"], tmp_path / "set", reindex=True, force=True)
    small_set(tmp_path / "set", force=True)  # removes only files that a packer wrote for this prefix
    assert sorted(path.name for path in tmp_path.glob("*.rec")) == ["set.rec", "set_more.rec"]


@pytest.mark.parametrize(("names", "message"), [(b"a\n\xff\n", "line 2 is not UTF-8"), (b"a\nb\na\n", "line 3: 'a'")])
def test_adopt_refuses_bad_classes_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: bytes, message: str
) -> None:
    rec = foreign(tmp_path / "set.rec", classes(3))
    (tmp_path / "names.txt").write_bytes(names)
    assert main(["adopt", str(rec), "--classes", str(tmp_path / "names.txt"), "--quiet"]) == 1
    assert f"names.txt: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("split", [0, 2])
def test_inspect_counts_split_records(tmp_path: Path, capsys: pytest.CaptureFixture[str], split: int) -> None:
    images = [jpeg_with_magic("split")] * split + [encoded("JPEG")] * 3
    adopt([foreign(tmp_path / "set.rec", [(0, number, data) for number, data in enumerate(images)])])
    assert main(["inspect", str(tmp_path / "set")]) == 0
    found = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("split records")]
    assert found == [["split", "records", "2"]] * (split > 0)


def test_inspect_shows_set_and_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adopt([foreign(tmp_path / "set.rec", classes(3))])
    assert main(["inspect", str(tmp_path / "set")]) == 0
    assert "records a class  least 1, most 1" in capsys.readouterr().out
    saved = tmp_path / "new" / "image.jpg"
    assert main(["inspect", str(tmp_path / "set"), "--record", "1", "--save", str(saved), "--json"]) == 0
    assert '"height": 9' in capsys.readouterr().out
    assert saved.read_bytes() == encoded("JPEG", 9, 9)
    assert main(["inspect", str(tmp_path / "set"), "--record", "3"]) == 1
    assert "records 0 to 2" in capsys.readouterr().err
