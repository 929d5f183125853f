"""Layout `list`: every format packs the same set, and errors name the file and line of each bad row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet
from tests.datasets.lists import pack
from tests.recordio.samples import encoded

Capture = pytest.CaptureFixture[str]


SAME = {
    "a.lst": "10\t1\tsub/0.jpg\n11\t0\tsub/1.jpg\n12\t2.0\tsub/2.jpg\n",
    "a.txt": "sub/0.jpg\t1\nsub/1.jpg\t0\n\nsub/2.jpg\t2\n",
    "a.csv": "id,path,label\n10,sub/0.jpg,1\n11,sub/1.jpg,0\n12,sub/2.jpg,2\n",
    "a.json": json.dumps([{"path": f"sub/{n}.jpg", "label": label} for n, label in enumerate([1, 0, 2])]),
    "a.jsonl": "".join(
        json.dumps({"path": f"sub/{n}.jpg", "label": [label]}) + "\n" for n, label in enumerate([1, 0, 2])
    ),
    "a.tsv": "\ufeffsub\\0.jpg\t1\nsub\\1.jpg\t0\nsub\\2.jpg\t2\n",
}


@pytest.mark.parametrize("name", SAME)
def test_every_format_packs_the_same_set(root: Path, name: str) -> None:
    status, out = pack(root, name, SAME[name])
    assert status == 0
    records = RecordSet(out)
    assert records.labels(np.arange(3)).tolist() == [1, 0, 2]
    assert records.info.classes == ("0", "1", "2")
    assert records.encoded(2).tobytes() == (root / "sub" / "2.jpg").read_bytes()
    assert records.table["id"].tolist() == ([10, 11, 12] if name in ("a.lst", "a.csv") else [0, 1, 2])


def test_list_file_is_found_by_split_name(root: Path) -> None:
    (root / "val.txt").write_text("sub/0.jpg\tcat\nsub/1.jpg\tant\n")
    out = root.parent / "set"
    assert main(["pack", "list", "--root", str(root), "--split", "val", "--out", str(out), "--quiet"]) == 0
    records = RecordSet(out)
    assert records.info.classes == ("ant", "cat")
    assert records.labels(np.arange(2)).tolist() == [1, 0]


def test_multilabel_list(root: Path) -> None:
    status, out = pack(root, "a.txt", "sub/0.jpg\t1\t0\t-1\nsub/1.jpg\t0\t0\t1\n")
    assert status == 0
    records = RecordSet(out)
    assert records.info.task == "multilabel" and records.info.label_width == 3
    assert records.labels(np.arange(2)).tolist() == [[1, 0, -1], [0, 0, 1]]


BOXES = {
    "a.lst": "0\t2\t6\t1\t0.25\t0.5\t0.5\t1\t1\tsub/0.jpg\n1\t4\t5\t40\t20\t0\t0\t0\t1\t1\tsub/1.jpg\n",
    "a.json": json.dumps(
        [
            {"path": "sub/0.jpg", "boxes": [[1, 0.25, 0.5, 0.5, 1, 1]]},
            {"path": "sub/1.jpg", "boxes": [[0, 0, 0, 1, 1]]},
        ]
    ),
}


@pytest.mark.parametrize("name", BOXES)
def test_detection_from_lst_and_json(root: Path, name: str) -> None:
    status, out = pack(root, name, BOXES[name])
    assert status == 0
    records = RecordSet(out)
    assert records.info.task == "detection"
    first, second = records.labels(np.arange(2))
    assert first.tolist() == [[1, 0.25, 0.5, 0.5, 1, 1]]
    assert second.tolist() == [[0, 0, 0, 1, 1, 0]]


def test_boxes_within_tolerance_are_clipped_and_counted(root: Path, capsys: Capture) -> None:
    """The image is 40 pixels wide and 20 high. One pixel is 0.025 of the width and 0.05 of the height, more than 1%."""
    boxes = [[0, -0.02, 0, 0.5, 1.04, 0], [0, 0, 0, 1, 1, 0], [0, 0.5, 0.5, 1.00164, 1, 0]]
    status, out = pack(root, "a.json", json.dumps([{"path": "sub/0.jpg", "boxes": boxes}]))
    assert status == 0
    assert "clipped_boxes 2" in capsys.readouterr().out
    records = RecordSet(out)
    assert records.info.report["clipped_boxes"] == 2
    found = records.labels(np.arange(1))[0]
    assert found[:, 1:5].tolist() == [[0, 0, 0.5, 1], [0, 0, 1, 1], [0.5, 0.5, 1, 1]]


@pytest.mark.parametrize("box", [[0, -0.03, 0, 0.5, 1, 0], [0, 0, 0, 1, 1.06, 0]])
def test_boxes_beyond_tolerance_are_refused(root: Path, capsys: Capture, box: list[float]) -> None:
    status, _ = pack(root, "a.json", json.dumps([{"path": "sub/0.jpg", "boxes": [[0, 0, 0, 1, 1, 0], box]}]))
    assert status == 1
    error = capsys.readouterr().err
    assert "a.json: entry 1: object 2: the box" in error and "leaves the 40x20 image" in error


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "a b/my cat 1.jpg\t1.000000\na b/x 0.jpg\t0.000000\n"),
        ("a.lst", "0\t1.000000\ta b/my cat 1.jpg\n1\t0.000000\ta b/x 0.jpg\n"),
        ("a.csv", "path,label\na b/my cat 1.jpg,1.0\na b/x 0.jpg,0.0\n"),
        ("a.jsonl", '{"path": "a b/my cat 1.jpg", "label": 1.0}\n{"path": "a b/x 0.jpg", "label": 0.0}\n'),
    ],
)
def test_names_with_spaces_and_float_labels(root: Path, name: str, text: str) -> None:
    """See BVLC/caffe#1951 and apache/mxnet#11884."""
    (root / "a b").mkdir()
    for number, file in enumerate(("my cat 1.jpg", "x 0.jpg")):
        (root / "a b" / file).write_bytes(encoded("JPEG", 20, 40, seed=number))
    status, out = pack(root, name, text)
    assert status == 0
    assert RecordSet(out).labels(np.arange(2)).tolist() == [1, 0]
    assert RecordSet(out).encoded(0).tobytes() == (root / "a b" / "my cat 1.jpg").read_bytes()


def test_spaces_do_not_separate_fields(root: Path, capsys: Capture) -> None:
    assert pack(root, "a.txt", "a b/my cat 1.jpg 1\n")[0] == 1
    assert "line 1: 'a b/my cat 1.jpg 1' has no tab" in capsys.readouterr().err


BAD = {
    # a bad line
    "a.lst": [
        ("0\t1\tsub/0.jpg\n1 0 sub/1.jpg\n", "line 2"),
        ("0\t1\tsub/0.jpg\nx\t1\tsub/1.jpg\n", "line 2: id 'x'"),
        ("0\t1\tsub/0.jpg\n1\tsub/1.jpg\n", "line 2"),
        # apache/mxnet#9114: boxes without the header, or in pixels
        ("0\t1\t.1\t.1\t.5\t.5\tsub/0.jpg\n", "line 1: label field 2 is 0.1"),
        ("0\t1\t.1\t.1\t.5\t.5\tsub/0.jpg\n", "; boxes begin with 2 and how many numbers an object has (5 or 6)"),
        ("0\t2\t5\t1\t.1\t.1\t.5\t.5\tsub/0.jpg\n1\t1\t.1\t.1\t.5\t.5\tsub/1.jpg\n", "line 2: not a detection label"),
        ("0\t2\t5\t1\t6\t5\t32\t18\tsub/0.jpg\n", "boxes in a list are shares of width and height, 0..1"),
        (
            "0\t2\t5\t1\t6\t5\t32\t18\tsub/0.jpg\n",
            "the box 6, 5, 32, 18 (x1, y1, x2, y2) is beyond 0..1: are these pix",
        ),
        # a duplicate id
        ("5\t1\tsub/0.jpg\n6\t1\tsub/1.jpg\n5\t0\tsub/2.jpg\n", "line 3: id 5 is also the id of"),
        # an id equal to the magic number
        ("0\t1\tsub/0.jpg\n3470205706\t0\tsub/1.jpg\n", "id 3470205706"),
    ],
    "a.txt": [
        ("sub/0.jpg\t1\nsub/1.jpg\n", "line 2"),
        ("sub/0.jpg\t1\n\t1\n", "line 2: ''"),
        ("", "lists no image"),
        # labels
        ("sub/0.jpg\t1\nsub/1.jpg\tnan\n", "line 2: label nan is not a finite"),
        ("sub/0.jpg\t1\nsub/1.jpg\tinf\n", "line 2: label inf"),
        ("sub/0.jpg\t1\nsub/1.jpg\t-1\n", "line 2: label -1"),
        ("sub/0.jpg\t1\nsub/1.jpg\t1.5\n", "line 2: label 1.5"),
        ("sub/0.jpg\t1\nsub/1.jpg\t16777217\n", "line 2: label 16777217"),
        ("sub/0.jpg\t1\nsub/1.jpg\t16777215\n", "line 2: label 16777215 would make 16,777,216 classes"),
        ("sub/0.jpg\t1\nsub/1.jpg\tcat\n", "line 2: label 'cat' is not a number"),
        # number of labels
        ("sub/0.jpg\t1\t0\nsub/1.jpg\t1\n", "line 2: 1 label fields, expected 2"),
        ("sub/0.jpg\t1\t0\nsub/1.jpg\t1\t2\n", "line 2: label field 2"),
        ("sub/0.jpg\tcat\tdog\n", "label 'cat' is not a number; a multi-label list has 1, 0 or -1 (unknown) for"),
        ("sub/0.jpg\t1\t0\nsub/1.jpg\t1\tnan\n", "line 2: label nan"),
    ],
    "a.csv": [
        ("sub/0.jpg,1\n", "line 1: a header with a column `path`"),
        ("path,label\nsub/0.jpg,1\nsub/1.jpg\n", "line 3: 1 fields where the header has 2"),
        ('path,label\nsub/0.jpg,1\n"sub/1.jpg,1\n', "line 3"),
    ],
    "a.json": [
        ("[", "not JSON"),
        ("{}", "expected a list"),
        ('[{"path": "sub/0.jpg"}]', "entry 1"),
        ('[{"path": "sub/0.jpg", "label": 1}, 5]', "entry 2"),
        ('[{"path": "sub/0.jpg", "label": null}]', "entry 1"),
        ('[{"path": "sub/0.jpg", "label": 1, "id": -1}]', "entry 1: id '-1'"),
        ('[{"path": "sub/0.jpg", "label": 1, "id": 1}, {"path": "sub/1.jpg", "label": 1}]', "entry 2: has no id"),
        # boxes
        ('[{"path": "sub/0.jpg", "boxes": [[0, 0.5, 0.1, 0.5, 0.2]]}]', "entry 1: object 1: the box"),
        ('[{"path": "sub/0.jpg", "boxes": [[0, 0.5, 0.3, 0.6, 0.2]]}]', "entry 1: object 1: the box"),
        ('[{"path": "sub/0.jpg", "boxes": [[0, NaN, 0.1, 0.5, 0.2]]}]', "entry 1"),
        ('[{"path": "sub/0.jpg", "boxes": [[0, 0.1, 0.2]]}]', "entry 1: box 1"),
        ('[{"path": "sub/0.jpg", "boxes": "many"}]', "entry 1"),
        ('[{"path": "sub/0.jpg", "boxes": [[-1, 0.1, 0.1, 0.2, 0.2]]}]', "entry 1: object 1"),
        ('[{"path": "sub/0.jpg", "boxes": [[0, 40, 10, 80, 20]]}]', "entry 1: object 1"),
    ],
    "a.xml": [("<list/>", "its suffix is none of")],
}


@pytest.mark.parametrize(("name", "text", "reason"), [(name, *case) for name, cases in BAD.items() for case in cases])
def test_bad_rows_are_refused(root: Path, capsys: Capture, name: str, text: str, reason: str) -> None:
    status, out = pack(root, name, text)
    error = capsys.readouterr().err
    assert status == 1 and error.count("\n") == 1
    assert reason in error and ("a." in error or "sub/1.jpg" in error)
    assert not out.with_suffix(".json").exists() and not out.with_suffix(".rec").exists()


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.csv", "path,label\nsub/0.jpg,cat\nsub/1.jpg,cat\nsub/0.jpg,dog\n", (4, 2)),
        ("a.csv", "path,cat,dog\nsub/0.jpg,1,0\n./sub/0.jpg,0,1\n", (3, 2)),
        ("a.txt", "sub/0.jpg\t0\nsub/0.jpg \t1\n", (2, 1)),
        ("a.lst", "0\t0\tsub/0.jpg\n1\t1\tsub/0.jpg\n", (2, 1)),
    ],
)
def test_path_with_two_labels_is_refused(
    root: Path, capsys: Capture, name: str, text: str, lines: tuple[int, int]
) -> None:
    assert pack(root, name, text)[0] == 1
    error = capsys.readouterr().err
    assert f"{name}: line {lines[0]}: sub/0.jpg has another label in line {lines[1]}: give each image one row" in error


def test_repeated_row_is_packed_twice(root: Path) -> None:
    status, out = pack(root, "a.csv", "path,label\nsub/0.jpg,cat\nsub/1.jpg,dog\nsub/0.jpg,cat\n")
    assert status == 0 and RecordSet(out).labels(np.arange(3)).tolist() == [0, 1, 0]


def test_missing_image_is_named_with_its_line(root: Path, capsys: Capture) -> None:
    assert pack(root, "a.txt", "sub/0.jpg\t1\nsub/none.jpg\t0\n")[0] == 1
    assert f"{root}/sub/none.jpg: no such file, listed at {root}/a.txt: line 2 (--skip-bad" in capsys.readouterr().err


def test_missing_or_non_utf8_list_is_refused(root: Path, capsys: Capture) -> None:
    (root / "a.txt").write_bytes(b"sub/0.jpg\t1\nsub/\xff.jpg\t1\n")
    assert main(["pack", "list", "--root", str(root), "--list", str(root / "a.txt"), "--out", str(root / "set")]) == 1
    assert "a.txt: line 2 is not UTF-8" in capsys.readouterr().err
    assert (
        main(["pack", "list", "--root", str(root), "--list", str(root / "none.txt"), "--out", str(root / "set")]) == 1
    )
    assert "none.txt: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.tsv", "a.lst", "a.json", "a.jsonl"])
@pytest.mark.parametrize("text", ["", "\n", " \r\n\n", "\ufeff", "\ufeff\n"])
def test_empty_list_is_refused(root: Path, capsys: Capture, name: str, text: str) -> None:
    assert pack(root, name, text)[0] == 1
    assert f"{name}: the file is empty" in capsys.readouterr().err


@pytest.mark.parametrize("rest", [[], ["--task", "detection"]])
def test_csv_with_columns_of_corners_suggests_json(root: Path, capsys: Capture, rest: list[str]) -> None:
    text = "path,xmin,ymin,xmax,ymax,class\nsub/0.jpg,1,2,3,4,cat\n"
    assert pack(root, "a.csv", text, *rest)[0] == 1
    assert "line 2: column 'class': label 'cat' is not a number; columns such as xmin" in capsys.readouterr().err


def test_paths_that_begin_with_root_name_get_advice(root: Path, capsys: Capture) -> None:
    assert pack(root, "a.csv", f"path,label\n{root.name}/sub/0.jpg,0\n")[0] == 1
    advice = f"paths are relative to --root; leave out '{root.name}/'"
    assert f"line 2: '{root.name}/sub/0.jpg' is not in {root}: {advice}" in capsys.readouterr().err
    assert pack(root, "b.csv", f"path,label\n{root.name}/none.jpg,0\n")[0] == 1
    assert "no such file" in capsys.readouterr().err


NAMED = [" a.jpg", "a.jpg ", " sub/b.jpg", "sub/ c.jpg "]


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.lst", "a.json"])
def test_surrounding_spaces_are_stripped_unless_in_file_name(root: Path, name: str) -> None:
    for number, file in enumerate(NAMED):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_bytes(encoded("JPEG", seed=10 + number))
    rows = list(enumerate([*NAMED, " sub/0.jpg", "sub/1.jpg  "]))  # the spaces are not part of the last two names
    text = {
        "a.csv": "path, label\n" + "".join(f"{file}, 0\n" for _, file in rows),
        "a.txt": "".join(f"{file}\t0\n" for _, file in rows),
        "a.lst": "".join(f"{number}\t0\t{file}\n" for number, file in rows),
        "a.json": json.dumps([{"path": file, "label": 0} for _, file in rows]),
    }[name]
    status, out = pack(root, name, text)
    assert status == 0
    records = RecordSet(out)
    files = [*NAMED, "sub/0.jpg", "sub/1.jpg"]
    assert [records.encoded(row).tobytes() for row in range(6)] == [(root / file).read_bytes() for file in files]
