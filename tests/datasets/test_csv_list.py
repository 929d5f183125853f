"""CSV lists: names of columns are classes, an index is not; odd names and numbers work, or the message says how."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Listing, Options
from dali_mix.engine.build import check_sets
from dali_mix.engine.config.schema import FIELDS, RunConfig
from dali_mix.recordio import RecordSet
from dali_mix.tasks import MULTILABEL
from tests.recordio.samples import encoded, image_folder

HUGE = "1" * 400
LONGER = "1" * 5000  # more than Python reads


def listed(folder: Path, text: str | bytes, name: str = "train.csv", **options: object) -> Listing:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return LAYOUTS["list"](folder, "train", Options(list_file=folder / name, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("path,cat,dog\na.jpg,1,0\nb.jpg,0,1\n", "cat dog"),
        ("path,dog,cat\na.jpg,1,0\nb.jpg,0,1\n", "dog cat"),
        ("\ufeffcat,path,dog\n1,a.jpg,0\n0,b.jpg,1\n", "cat dog"),
        ("path;cat;dog\na.jpg;1;0\nb.jpg;0;1\n", "cat dog"),
        ("path\tcat\tdog\r\na.jpg\t1\t0\r\nb.jpg\t0\t1\r\n", "cat dog"),
        (' path , cat , dog \n"a.jpg", 1 ,0\n\nb.jpg,0, 1\n', "cat dog"),
        ("id,path,cat,dog\n7,a.jpg,1,0\n9,b.jpg,0,1\n", "cat dog"),
        (",path,cat,dog\n0,a.jpg,1,0\n1,b.jpg,0,1\n", "cat dog"),
        ("Unnamed: 0,path,cat,dog\n5,a.jpg,1,0\n3,b.jpg,0,1\n", "cat dog"),
        ("index,path,cat,dog\n0,a.jpg,1,0\n1,b.jpg,0,1\n", "cat dog"),
        ("path,cat,dog,Unnamed: 3\na.jpg,1,0,0\nb.jpg,0,1,1\n", "cat dog"),
        ("path,cat,dog,\na.jpg,1,0,\nb.jpg,0,1,\n", "cat dog"),
        ("PATH,cat,dog\na.jpg,1,0\nb.jpg,0,1\n", "cat dog"),
        ("ID;Path;cat;dog\n7;a.jpg;1;0\n9;b.jpg;0;1\n", "cat dog"),
        ("path,PATH,ID\na.jpg,1,0\nb.jpg,0,1\n", "PATH ID"),
        ("path,cat,dog\na.jpg,True,False\nb.jpg,False,True\n", "cat dog"),
        ("path,cat,dog\na.jpg,TRUE,0\nb.jpg,false,1.0\n", "cat dog"),
        ("path,1.0,true\na.jpg,1,0\nb.jpg,0,1\n", "1.0 true"),
        ("path,nan,ünïcode\na.jpg,1,0\nb.jpg,0,1.0\n", "nan ünïcode"),
    ],
)
def test_names_of_columns_are_the_classes(tmp_path: Path, text: str, classes: str) -> None:
    listing = listed(tmp_path, text)
    assert listing.task == "multilabel" and " ".join(listing.classes) == classes
    assert np.array(listing.labels).tolist() == [[1, 0], [0, 1]] and list(listing.names) == ["a.jpg", "b.jpg"]


def test_quoted_names(tmp_path: Path) -> None:
    listing = listed(tmp_path, 'path,"cat, tabby","the ""dog"""\n"a, b.jpg",1,0\n')
    assert listing.classes == ("cat, tabby", 'the "dog"') and listing.names == ["a, b.jpg"]


def test_an_index_column_is_named_in_a_note(tmp_path: Path) -> None:
    assert listed(tmp_path, "Unnamed: 0,path,label\n0,a.jpg,x\n1,b.jpg,y\n").classes == ("x", "y")
    (notice,) = listed(tmp_path, ",path,cat,dog\n0,a.jpg,1,0\n1,b.jpg,0,1\n").report["notices"]
    assert "column 1 ('') numbers the rows (a pandas index)" in notice


def test_a_class_called_index(tmp_path: Path) -> None:
    assert listed(tmp_path, "path,index,thumb\na.jpg,1,0\nb.jpg,1,1\n").classes == ("index", "thumb")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,cat,cat\na.jpg,1,0\n", "line 1: column 'cat' is there twice"),
        ("path,path,cat\na.jpg,a.jpg,0\n", "line 1: column 'path' is there twice"),
        ("path,,cat\na.jpg,1,0\nb.jpg,1,0\n", "line 1: column 2 has no name"),
        ("file,cat\na.jpg,1\n", "a header with a column `path`"),
        ("path\na.jpg\n", "a header with a column `path` and label columns"),
        ("id,path\n1,a.jpg\n", "no label column beside `path`"),
        ("path,cat,width\na.jpg,1,64\n", "label field 2 is 64.0.*the label columns are cat, width"),
        ("path,cat,place\na.jpg,1,home\n", "column 'place': label 'home' is not a number"),
        ("path,cat,dog\na.jpg,1,\n", "column 'dog': label '' is not a number"),
        (f"path,cat,dog\na.jpg,1,{HUGE}\n", r"column 'dog': label 1{60} is not a finite number"),
        (f"path,cat,dog\na.jpg,1,{LONGER}\n", "label 1{60} is not a finite number"),
        (f"path,label\na.jpg,{HUGE}\n", "label 1{60} is not a finite number"),
        (f"path,label\na.jpg,-{LONGER}\n", "label -1{59} is not a finite number"),
        (f"id,path,label\n{HUGE},a.jpg,0\n", "line 2: id '1{59} is not a whole number"),
        (f"id,path,label\n{LONGER},a.jpg,0\n", "line 2: id '1{59} is not a whole number"),
        ("path,label\na.jpg,\nb.jpg,x\n", "line 2: the label is empty"),
        ("path,label\na.jpg,nan\nb.jpg,1\n", "label nan is not a finite number; if it is a class's name, .* --classes"),
        ("path,label\na.jpg,1_000\nb.jpg,1\n", "label '1_000' is not a number"),
        (b"path,label\na.jpg,\xe9t\xe9\n", "line 2 is not UTF-8 text; save the file as UTF-8"),
        ("path,label\na.jpg,1\n".encode("utf-16"), "line 1 is not UTF-8 text; save the file as UTF-8"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"train\.csv: (?s:.*){message}"):
        listed(tmp_path, text)


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
def test_numbers_of_hundreds_of_digits(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.{name[2:]}: ") as caught:
        listed(tmp_path, text, name)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


ODD = ["nan", "null", "None", "NA", "true", "False", "inf", "1_0", "ünïcode", "with space", "x,y", "-", "1.0.0"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("suffix", ["csv", "txt", "json"])
def test_classes_of_odd_names(tmp_path: Path, name: str, suffix: str) -> None:
    text = {
        "csv": f'path,label\na.jpg,cat\nb.jpg,"{name}"\n',
        "txt": f"a.jpg\tcat\nb.jpg\t{name}\n",
        "json": json.dumps([{"path": "a.jpg", "label": "cat"}, {"path": "b.jpg", "label": name}]),
    }[suffix]
    listing = listed(tmp_path, text, f"train.{suffix}")
    assert [listing.classes[label] for label in listing.labels] == ["cat", name]  # type: ignore[index]
    missing = name.lower() in ("nan", "null", "none", "na")
    assert ("read as a class of this name" in str(listing.report)) == missing


@pytest.mark.parametrize("name", [*ODD[:-3], "1.0", "2"])
def test_class_folders_of_odd_names(tmp_path: Path, name: str) -> None:
    image_folder(tmp_path, 1, 1)
    (tmp_path / name).mkdir()
    (tmp_path / name / "0.jpg").write_bytes(encoded("JPEG"))
    assert set(LAYOUTS["imagefolder"](tmp_path, "train", Options()).classes) == {"class0", name}


def test_names_that_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("1\n2\n3\n")
    given = tmp_path / "names"
    assert listed(tmp_path, "path,label\na.jpg,1\nb.jpg,3\n", classes_file=given).labels == [0, 2]  # names
    assert listed(tmp_path, "path,label\na.jpg,0\nb.jpg,1\n", classes_file=given).labels == [0, 1]  # numbers: 0 is none
    (tmp_path / "names").write_text("nan\ncat\n")
    assert listed(tmp_path, "path,label\na.jpg,cat\nb.jpg,nan\n", classes_file=given).labels == [1, 0]


def test_given_classes_order_the_columns(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("cat\ndog\n")
    for text in ("path,dog,cat\na.jpg,0,1\nb.jpg,1,-1\n", "path,cat,dog\na.jpg,1,0\nb.jpg,-1,1\n"):
        listing = listed(tmp_path, text, classes_file=tmp_path / "names")
        assert listing.classes == ("cat", "dog") and np.array(listing.labels).tolist() == [[1, 0], [-1, 1]]
    assert listed(tmp_path, "path,a,b\na.jpg,0,1\n", classes_file=tmp_path / "names").classes == ("cat", "dog")
    with pytest.raises(ValueError, match="column 'emu' is not among the classes of --classes"):
        listed(tmp_path, "path,emu,cat\na.jpg,0,1\n", classes_file=tmp_path / "names")


@pytest.mark.parametrize(
    ("val", "message"),
    [
        ("dog,cat", "the same classes in another order (class 0 is 'cat' and 'dog')"),
        ("cat,emu", "different classes (2 and 2; 'dog' is in one only)"),
        ("cat,dog,emu", "different classes (2 and 3; 'emu' is in one only)"),
        ("cat,dog", ""),
    ],
)
def test_train_and_val_with_other_columns_refuse_each_other(tmp_path: Path, val: str, message: str) -> None:
    for split, columns in (("train", "cat,dog"), ("val", val)):
        (tmp_path / "a.jpg").write_bytes(encoded("JPEG"))
        zeros = ",0" * columns.count(",")
        (tmp_path / f"{split}.csv").write_text(f"path,{columns}\na.jpg,1{zeros}\n")
        command = ["pack", "list", "--root", str(tmp_path), "--split", split, "--out", str(tmp_path / split), "--quiet"]
        assert main(command) == 0
    needed = {name: "x" for name, item in FIELDS.items() if item.default is item.default_factory}
    config = RunConfig(**{**needed, "train_set": str(tmp_path / "train"), "val_set": str(tmp_path / "val")})
    if not message:
        assert check_sets(config) == (MULTILABEL, 2)
        return
    with pytest.raises(ValueError) as caught:
        check_sets(config)
    assert message in str(caught.value) and "--classes FILE" in str(caught.value)
    assert RecordSet(tmp_path / "val").info.classes == tuple(val.split(","))


def test_true_and_false_as_classes(tmp_path: Path) -> None:
    listing = listed(tmp_path, "Path,label\na.jpg,True\nb.jpg,False\n")
    assert listing.task == "classification" and listing.classes == ("False", "True") and listing.labels == [1, 0]
