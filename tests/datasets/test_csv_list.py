"""CSV lists: column names are classes, except that of an index column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dali_mix.cli.main import main
from dali_mix.engine.build import check_sets, open_sets
from dali_mix.engine.config.schema import FIELDS, RunConfig
from dali_mix.recordio import RecordSet
from dali_mix.tasks import MULTILABEL
from tests.datasets.lists import read_list
from tests.recordio.samples import encoded

HUGE = "1" * 400


LONGER = "1" * 5000  # more digits than Python parses


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("path,cat,dog\na.jpg,1,0\nb.jpg,0,1\n", "cat dog"),
        ("path,dog,cat\na.jpg,1,0\nb.jpg,0,1\n", "dog cat"),
        ("\ufeffcat,path,dog\n1,a.jpg,0\n0,b.jpg,1\n", "cat dog"),
        ("path;cat;dog\na.jpg;1;0\nb.jpg;0;1\n", "cat dog"),
        ("path\tcat\tdog\r\na.jpg\t1\t0\r\nb.jpg\t0\t1\r\n", "cat dog"),
        ("path|cat|dog\na.jpg|1|0\nb.jpg|0|1\n", "cat dog"),
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
def test_column_names_are_classes(tmp_path: Path, text: str, classes: str) -> None:
    listing = read_list(tmp_path, text)
    assert listing.task == "multilabel" and " ".join(listing.classes) == classes
    assert np.array(listing.labels).tolist() == [[1, 0], [0, 1]] and list(listing.names) == ["a.jpg", "b.jpg"]


def test_quoted_names_are_unquoted(tmp_path: Path) -> None:
    listing = read_list(tmp_path, 'path,"cat, tabby","the ""dog"""\n"a, b.jpg",1,0\n')
    assert listing.classes == ("cat, tabby", 'the "dog"') and listing.names == ["a, b.jpg"]


def test_index_column_is_left_out_with_a_note(tmp_path: Path) -> None:
    assert read_list(tmp_path, "Unnamed: 0,path,label\n0,a.jpg,x\n1,b.jpg,y\n").classes == ("x", "y")
    (notice,) = read_list(tmp_path, ",path,cat,dog\n0,a.jpg,1,0\n1,b.jpg,0,1\n").report["notices"]
    assert "column 1 ('') numbers the rows (a pandas index)" in notice


def test_column_named_index_may_be_a_class(tmp_path: Path) -> None:
    assert read_list(tmp_path, "path,index,thumb\na.jpg,1,0\nb.jpg,1,1\n").classes == ("index", "thumb")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,cat,cat\na.jpg,1,0\n", "line 1: column 'cat' occurs twice"),
        ("path,path,cat\na.jpg,a.jpg,0\n", "line 1: column 'path' occurs twice"),
        ("path,,cat\na.jpg,1,0\nb.jpg,1,0\n", "line 1: column 2 has no name"),
        ("file,cat\na.jpg,1\n", "a header with a column `path`"),
        ("path\na.jpg\n", "a header with a column `path` and label columns"),
        ("id,path\n1,a.jpg\n", "no label column besides `path`"),
        ("path,cat,width\na.jpg,1,64\n", "label field 2 is 64.0.*the label columns are cat, width"),
        ("path,cat,place\na.jpg,1,home\n", "column 'place': label 'home' is not a number"),
        ("path,cat,dog\na.jpg,1,\n", r"column 'dog': the label is empty; .* 1, 0 or -1 \(unknown\) for each class"),
        (f"path,cat,dog\na.jpg,1,{HUGE}\n", r"column 'dog': label 1{60} is not a finite number"),
        (f"path,cat,dog\na.jpg,1,{LONGER}\n", "label 1{60} is not a finite number"),
        (f"path,label\na.jpg,{HUGE}\n", "label 1{60} is not a finite number"),
        (f"path,label\na.jpg,-{LONGER}\n", "label -1{59} is not a finite number"),
        (f"id,path,label\n{HUGE},a.jpg,0\n", "line 2: id '1{59} is not an integer"),
        (f"id,path,label\n{LONGER},a.jpg,0\n", "line 2: id '1{59} is not an integer"),
        ("path,label\na.jpg,\nb.jpg,x\n", "line 2: the label is empty"),
        ("path,label\na.jpg,nan\nb.jpg,1\n", "label nan is not a finite number; if it is a class's name, .* --classes"),
        ("path,label\na.jpg,1_000\nb.jpg,1\n", "label '1_000' is not a number"),
        (b"path,label\na.jpg,\xe9t\xe9\n", "line 2 is not UTF-8 text; save the file as UTF-8"),
        ("path,label\na.jpg,1\n".encode("utf-16"), "line 1 is not UTF-8 text; save the file as UTF-8"),
    ],
)
def test_invalid_csv_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"train\.csv: (?s:.*){message}"):
        read_list(tmp_path, text)


@pytest.mark.parametrize(
    ("val", "message"),
    [
        ("dog,cat", "the same classes in another order (class 0 is 'cat' and 'dog')"),
        ("cat,emu", "different classes (2 and 2; 'dog' is in one only)"),
        ("cat,dog,emu", "different classes (2 and 3; 'emu' is in one only)"),
        ("cat,dog", ""),
    ],
)
def test_check_sets_requires_same_columns_in_train_and_val(tmp_path: Path, val: str, message: str) -> None:
    for split, columns in (("train", "cat,dog"), ("val", val)):
        (tmp_path / "a.jpg").write_bytes(encoded("JPEG"))
        zeros = ",0" * columns.count(",")
        (tmp_path / f"{split}.csv").write_text(f"path,{columns}\na.jpg,1{zeros}\n")
        command = ["pack", "list", "--root", str(tmp_path), "--split", split, "--out", str(tmp_path / split), "--quiet"]
        assert main(command) == 0
    needed = {name: "x" for name, item in FIELDS.items() if item.default is item.default_factory}
    config = RunConfig(**{**needed, "train_set": str(tmp_path / "train"), "val_set": str(tmp_path / "val")})
    if not message:
        assert check_sets(config, open_sets(config)) == (MULTILABEL, 2)
        return
    with pytest.raises(ValueError) as caught:
        check_sets(config, open_sets(config))
    assert message in str(caught.value) and "`dali-mix pack --classes`" in str(caught.value)
    assert RecordSet(tmp_path / "val").info.classes == tuple(val.split(","))
