"""Labels in list files: unusual names and numbers either work or raise an error with advice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dali_mix.datasets import LAYOUTS, Options
from dali_mix.recordio import RecordSet
from tests.datasets.lists import pack, read_list

HUGE = "1" * 400


LONGER = "1" * 5000  # more digits than Python parses


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", f'[{{"path": "a.jpg", "label": {HUGE}}}]'),
        ("a.json", f'[{{"path": "a.jpg", "label": [1, {HUGE}]}}]'),
        ("a.json", f'[{{"path": "a.jpg", "label": {LONGER}}}]'),
        ("a.json", f'[{{"path": "a.jpg", "label": 1, "id": {HUGE}}}]'),
        ("a.json", f'[{{"path": "a.jpg", "boxes": [[{HUGE}, 0, 0, 1, 1]]}}]'),
        ("a.json", f'[{{"path": "a.jpg", "boxes": [[0, 0, 0, 1, -{HUGE}]]}}]'),
        ("a.jsonl", f'{{"path": "a.jpg", "label": {LONGER}}}'),
        ("a.jsonl", f'{{"path": "a.jpg", "boxes": [[0, 0, 0, 1, 1e{HUGE[:3]}]]}}'),
        ("a.lst", f"{HUGE}\t1\ta.jpg"),
        ("a.lst", f"0\t{HUGE}\ta.jpg"),
        ("a.lst", f"0\t2\t6\t{HUGE}\t0\t0\t1\t1\t0\ta.jpg"),
        ("a.txt", f"a.jpg\t{LONGER}\t1"),
        ("a.txt", "a.jpg\t1\t1e111"),
        ("a.lst", "0\t2\t6\t0\t0\t0\t1e111\t1\t0\ta.jpg"),
    ],
)
def test_huge_numbers_are_refused(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.{name[2:]}: ") as caught:
        read_list(tmp_path, text, name)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


ODD = ["nan", "null", "None", "NA", "true", "False", "inf", "1_0", "ünïcode", "with space", "x,y", "-", "1.0.0"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("suffix", ["csv", "txt", "json"])
def test_unusual_class_names_are_kept(tmp_path: Path, name: str, suffix: str) -> None:
    text = {
        "csv": f'path,label\na.jpg,cat\nb.jpg,"{name}"\n',
        "txt": f"a.jpg\tcat\nb.jpg\t{name}\n",
        "json": json.dumps([{"path": "a.jpg", "label": "cat"}, {"path": "b.jpg", "label": name}]),
    }[suffix]
    listing = read_list(tmp_path, text, f"train.{suffix}")
    assert [listing.classes[label] for label in listing.labels] == ["cat", name]  # type: ignore[index]
    missing = name.lower() in ("nan", "null", "none", "na")
    assert ("read as a class of this name" in str(listing.report)) == missing


def test_numeric_labels_match_names_before_indices(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("1\n2\n3\n")
    given = tmp_path / "names"
    assert read_list(tmp_path, "path,label\na.jpg,1\nb.jpg,3\n", classes_file=given).labels == [0, 2]  # names
    assert read_list(tmp_path, "path,label\na.jpg,0\nb.jpg,1\n", classes_file=given).labels == [
        0,
        1,
    ]  # no class named 0
    (tmp_path / "names").write_text("nan\ncat\n")
    assert read_list(tmp_path, "path,label\na.jpg,cat\nb.jpg,nan\n", classes_file=given).labels == [1, 0]


def test_classes_file_orders_columns(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("cat\ndog\n")
    for text in ("path,dog,cat\na.jpg,0,1\nb.jpg,1,-1\n", "path,cat,dog\na.jpg,1,0\nb.jpg,-1,1\n"):
        listing = read_list(tmp_path, text, classes_file=tmp_path / "names")
        assert listing.classes == ("cat", "dog") and np.array(listing.labels).tolist() == [[1, 0], [-1, 1]]
    assert read_list(tmp_path, "path,a,b\na.jpg,0,1\n", classes_file=tmp_path / "names").classes == ("cat", "dog")
    with pytest.raises(ValueError, match="column 'emu' is not among the classes of --classes"):
        read_list(tmp_path, "path,emu,cat\na.jpg,0,1\n", classes_file=tmp_path / "names")


def test_true_and_false_may_be_classes(tmp_path: Path) -> None:
    listing = read_list(tmp_path, "Path,label\na.jpg,True\nb.jpg,False\n")
    assert listing.task == "classification" and listing.classes == ("False", "True") and listing.labels == [1, 0]


Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("labels", [["bees"], ["7", "bees"], ["cat", "bees"], ["2", "bees"]])
def test_mistyped_class_suggests_nearest(root: Path, capsys: Capture, labels: list[str]) -> None:
    (root / "names").write_text("cat\nbee\nant\n")
    rows = "".join(f"sub/{row}.jpg\t{label}\n" for row, label in enumerate(labels))
    assert pack(root, "a.txt", rows, "--classes", str(root / "names"))[0] == 1
    assert "class 'bees' is not among the 3 classes (did you mean bee?)" in capsys.readouterr().err


def test_classes_file_sets_label_order(root: Path, capsys: Capture) -> None:
    (root / "names").write_text("cat\nbee\nant\n")
    status, out = pack(root, "a.txt", "sub/0.jpg\tcat\nsub/1.jpg\tant\n", "--classes", str(root / "names"))
    assert status == 0
    assert RecordSet(out).labels(np.arange(2)).tolist() == [0, 2]
    status, _ = pack(root, "a.txt", "sub/0.jpg\tcat\nsub/1.jpg\twasp\n", "--classes", str(root / "names"))
    assert status == 1
    assert "a.txt: line 2: class 'wasp' is not among the 3 classes" in capsys.readouterr().err
    status, _ = pack(root, "a.txt", "sub/0.jpg\t2\nsub/1.jpg\t3\n", "--classes", str(root / "names"))
    assert status == 1
    assert "a.txt: line 2: label 3 is out of range" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "noted"),
    [
        (("cat|dog", "dog"), True),
        (("cat; dog", "dog"), True),
        (("scab rust", "scab", "rust"), True),
        (("cat, big", "dog"), False),
        (("hot dog", "dog"), False),
        (("a|b", "c|d"), False),
    ],
)
def test_joined_class_names_give_a_notice(root: Path, labels: tuple[str, ...], noted: bool) -> None:
    (root / "train.txt").write_text("".join(f"sub/{row}.jpg\t{label}\n" for row, label in enumerate(labels)))
    listing = LAYOUTS["list"](root, "train", Options())
    assert listing.classes == tuple(sorted(labels))
    assert ("1 classes join the names of others" in str(listing.report)) == noted


EMPTY = {
    "from 1": (["1", "2", "3"], "labels begin at 1, so class 0 is empty"),
    "sparse ids": (["7", "4004", "12"], "4,002 of 4,005 numbered classes are empty (0, 1, 2, 3, 4, 5, …)"),
    "a gap": (["0", "1", "3"], "1 of 4 numbered classes are empty (2)"),
    "from 2": (["2", "3", "4"], "2 of 5 numbered classes are empty (0, 1)"),
}


@pytest.mark.parametrize(("labels", "said"), EMPTY.values(), ids=EMPTY)
def test_empty_numbered_classes_give_advice(root: Path, capsys: Capture, labels: list[str], said: str) -> None:
    text = "".join(f"sub/{number}.jpg\t{label}\n" for number, label in enumerate(labels))
    assert pack(root, "a.txt", text)[0] == 0
    note = capsys.readouterr().err
    assert note.count("note:") == 1 and said in note and "--classes FILE" in note
    (root / "names").write_text("\n".join(sorted(labels, key=int)))  # follows the advice of the note
    status, out = pack(root, "a.txt", text, "--classes", str(root / "names"))
    assert status == 0 and not capsys.readouterr().err
    records = RecordSet(out)
    assert [records.info.classes[label] for label in records.labels(np.arange(3))] == labels


@pytest.mark.parametrize(("box_class", "said"), [(1, "labels begin at 1"), (0, ""), (3, "3 of 4 numbered classes")])
def test_numbered_classes_without_boxes_give_a_note(root: Path, capsys: Capture, box_class: int, said: str) -> None:
    entries = [{"path": "sub/0.jpg", "boxes": [[box_class, 0, 0, 1, 1]]}, {"path": "sub/1.jpg", "boxes": []}]
    assert pack(root, "a.json", json.dumps(entries))[0] == 0
    note = capsys.readouterr().err
    assert said in note and bool(note) == bool(said)


@pytest.mark.parametrize(
    ("label", "message"), [("null", "label None is not a class"), ("true", "label True"), ("[]", "no label fields")]
)
def test_invalid_json_label_is_refused(tmp_path: Path, label: str, message: str) -> None:
    (tmp_path / "train.json").write_text(f'[{{"path": "a.jpg", "label": {label}}}]')
    with pytest.raises(ValueError, match=rf"train\.json: entry 1: {message}"):
        LAYOUTS["list"](tmp_path, "train", Options())
