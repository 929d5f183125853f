"""Class folders: which folders are splits or classes, and the messages about other folders."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.recordio import RecordSet
from tests.datasets.files import archived, write_jpegs
from tests.recordio.samples import encoded, image_folder

Capture = pytest.CaptureFixture[str]


def pack(root: Path, out: Path, *options: str) -> int:
    return main(["pack", "imagefolder", "--root", str(root), "--out", str(out), *options])


@pytest.mark.parametrize(
    ("files", "split", "classes", "noted"),
    [
        (["bus/0", "car/0", "train/0"], "train", "bus car train", ""),
        (["bus/0", "car/0", "train/0"], "val", "bus car train", ""),
        (["bus/0", "car/0", "test/0", "val/0"], "train", "bus car test val", ""),
        (["Train/0", "bus/0"], "train", "Train bus", ""),
        (["bus/old/0", "bus/new/0", "train/old/0", "train/new/0"], "train", "bus train", "pass --split-folders yes"),
        (["train/a/0", "train/b/0", "extra/a/0"], "train", "extra train", "pass --split-folders yes"),
        (["train/a/0", "train/b/0", "val/a/0", "extra/a/0"], "train", "a b", "splits, extra left out"),
        (["train/a/0", "train/b/0", "val/a/0", "val/b/0"], "train", "a b", ""),
        (["Train/a/0", "Train/b/0", "Test/a/0"], "train", "a b", ""),
        (["TRAIN/a/0", "VAL/a/0", "VAL/b/0"], "val", "a b", ""),
        (["train/a/0", "train/b/0", "docs/readme.txt"], "train", "a b", ""),
        (["outer/train/a/0", "outer/train/b/0", "outer/val/a/0"], "train", "a b", ""),
        (["fold0/a/0", "fold0/b/0", "fold1/a/0"], "fold0", "a b", "fold0 read as splits"),
        (["training_set/a/0", "training_set/b/0", "test_set/a/0", "test_set/b/0"], "train", "test_set training_set",
         "if they are splits, pass --split test_set"),
    ],
)  # fmt: skip
def test_folders_are_read_as_classes_or_splits(
    tmp_path: Path, capsys: Capture, files: list[str], split: str, classes: str, noted: str
) -> None:
    root = write_jpegs(tmp_path / "in", *(file if "." in file else f"{file}.jpg" for file in files))
    assert pack(root, tmp_path / "set", "--split", split) == 0
    assert " ".join(RecordSet(tmp_path / "set").info.classes) == classes
    error = capsys.readouterr().err
    assert noted in error and ("note:" in error) == bool(noted)


@pytest.mark.parametrize(("choice", "classes"), [("yes", "new old"), ("no", "bus train")])
def test_split_folders_option_selects_reading(tmp_path: Path, capsys: Capture, choice: str, classes: str) -> None:
    root = write_jpegs(tmp_path / "in", "bus/old/0.jpg", "bus/new/0.jpg", "train/old/0.jpg", "train/new/0.jpg")
    assert pack(root, tmp_path / "set", "--split-folders", choice) == 0
    assert " ".join(RecordSet(tmp_path / "set").info.classes) == classes
    assert "--split-folders" not in capsys.readouterr().err


def test_split_without_folder_or_classes_is_refused(tmp_path: Path, capsys: Capture) -> None:
    root = write_jpegs(tmp_path / "in", "a/0.jpg", "b/0.jpg")
    assert pack(root, tmp_path / "set", "--split-folders", "yes") == 1
    assert "no folder 'train'; the folders are a, b" in capsys.readouterr().err
    root = write_jpegs(tmp_path / "two", "train/0.jpg", "test/0.jpg")
    assert pack(root, tmp_path / "set") == 1
    assert "pass --split-folders no" in capsys.readouterr().err
    assert pack(root, tmp_path / "set", "--split-folders", "no") == 0


def test_unread_files_are_counted_by_suffix(tmp_path: Path, capsys: Capture) -> None:
    root = write_jpegs(tmp_path / "in", "cat/0.jpg", "cat/n0123_77", "dog/0.jpg", "dog/notes.txt", "loose.jpg")
    write_jpegs(root, *(f"dog/IMG_{number}.HEIC" for number in range(5)), "dog/x.CR2", "cat/y.avif", "cat/z.NEF")
    assert pack(root, tmp_path / "set") == 0
    report = RecordSet(tmp_path / "set").info.report
    assert report["other_files"] == {".avif": 1, ".cr2": 1, ".heic": 5, ".nef": 1, ".txt": 1, "no suffix": 1}
    captured = capsys.readouterr()
    assert "1 .avif file, 1 .cr2 file, 5 .heic files, 1 .nef file left out: images that cannot" in captured.err
    assert "1 images are in no class folder" in captured.err and ".txt 1, no suffix 1" in captured.out
    write_jpegs(root, "emu/0.heic", "emu/1.heic")
    assert pack(root, tmp_path / "other") == 1
    assert "emu: a class folder without images (only 2 .heic files)" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["", ".zip", ".tar.gz"])
@pytest.mark.parametrize(
    ("names", "split", "base"),
    [
        (("train/train/cat/0.jpg", "train/train/dog/0.jpg"), "train", "train/train"),
        (("Train/train/cat/0.jpg", "Train/train/dog/0.jpg", "val/val/cat/1.jpg", "train.csv"), "train", "Train/train"),
        (("in/train/train/train/cat/0.jpg", "in/train/train/train/dog/0.jpg"), "train", "in/train/train/train"),
        (("seg_train/seg_train/cat/0.jpg", "seg_train/seg_train/dog/0.jpg", "seg_test/seg_test/cat/1.jpg"),
         "seg_train", "seg_train/seg_train"),
        (("train/train/train/0.jpg", "train/train/dog/0.jpg"), "train", "train/train"),  # "train" is also a class
    ],
)  # fmt: skip
def test_nested_split_folder_of_same_name_is_entered(
    tmp_path: Path, names: tuple[str, ...], split: str, base: str, suffix: str
) -> None:
    root = write_jpegs(tmp_path / "in", *names)
    if suffix:
        root = archived(root, tmp_path / f"in{suffix}")
    listing = LAYOUTS["imagefolder"](root, split, Options())
    other = "train" if base + "/train/0.jpg" in names else "cat"
    assert set(listing.classes) == {other, "dog"}
    assert {name.rpartition("/")[0] for name in listing.names} == {f"{base}/{other}", f"{base}/dog"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train/train/0.jpg",), "only one class, 'train'; if it is not a class, correct --root or --split"),
        (("train/a/cat/0.jpg", "train/a/dog/0.jpg"), "only one class, 'a'"),
        (("seg_train/seg_train/cat/0.jpg", "seg_pred/0.jpg"), "if they are splits, pass --split seg_train"),
        (tuple(f"{number}/0.jpg" for number in range(12)), "label 2 is class '10', not '2';.*--classes FILE"),
        (tuple(f"train/{number}/0.jpg" for number in (7, 10)), "label 0 is class '10', not '7'"),
        (tuple(f"{number}/0.jpg" for number in range(10)), ""),
        (tuple(f"{number:02d}/0.jpg" for number in range(12)), ""),
        (("1/0.jpg", "10/0.jpg", "2/0.jpg", "cat/0.jpg"), ""),
    ],
)
def test_suspicious_classes_give_a_notice(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    notices = LAYOUTS["imagefolder"](write_jpegs(tmp_path, *names), "train", Options()).report.get("notices", [])
    assert len(notices) == bool(said)
    assert re.search(said, " ".join(notices))


def test_classes_file_sets_order_of_numeric_classes(tmp_path: Path, capsys: Capture) -> None:
    write_jpegs(tmp_path / "in", *(f"{number}/0.jpg" for number in range(12)))
    assert pack(tmp_path / "in", tmp_path / "set") == 0
    assert "label 2 is class '10'" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("".join(f"{number}\n" for number in range(12)))
    assert pack(tmp_path / "in", tmp_path / "set", "--force", "--classes", str(tmp_path / "names.txt")) == 0
    assert "note" not in capsys.readouterr().err
    assert RecordSet(tmp_path / "set").info.classes == tuple(map(str, range(12)))


def test_split_selects_its_folder_or_is_refused(tmp_path: Path, capsys: Capture) -> None:
    image_folder(tmp_path / "train", 2, 3)
    image_folder(tmp_path / "val", 2, 2)
    assert len(LAYOUTS["imagefolder"](tmp_path, "train", Options()).names) == 6
    assert len(LAYOUTS["imagefolder"](tmp_path, "val", Options()).names) == 4
    assert len(LAYOUTS["imagefolder"](tmp_path / "val", "val", Options()).names) == 4
    assert pack(tmp_path, tmp_path / "set", "--split", "test") == 1
    assert "no folder 'test'; choose --split among train, val" in capsys.readouterr().err


@pytest.mark.parametrize(("split", "meant"), [("vla", "val"), ("tran", "train"), ("Train", "train"), ("tets", "test")])
def test_mistyped_split_suggests_nearest(tmp_path: Path, capsys: Capture, split: str, meant: str) -> None:
    root = image_folder(tmp_path / "flat")
    assert pack(root, tmp_path / "set", "--split", split) == 1
    assert f"{root}: no folder '{split}'; did you mean --split {meant}?" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["all", "eval", "tiny", "val2", "vid", "dev", "testing", "valid", "night"])
def test_flat_folder_accepts_any_split_name(tmp_path: Path, split: str) -> None:
    assert pack(image_folder(tmp_path / "flat"), tmp_path / "set", "--split", split) == 0


def test_single_empty_class_folder_is_refused(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "flat" / "cats").mkdir(parents=True)
    assert pack(tmp_path / "flat", tmp_path / "set") == 1
    assert f"{tmp_path}/flat/cats: a class folder without images" in capsys.readouterr().err


def test_other_and_hidden_files_are_counted(tmp_path: Path) -> None:
    image_folder(tmp_path, 2, 3)
    (tmp_path / "class0" / "notes.txt").write_text("x")
    (tmp_path / "class0" / ".hidden.jpg").write_text("x")
    (tmp_path / "README").write_text("x")
    listing = LAYOUTS["imagefolder"](tmp_path, "train", Options())
    assert len(listing.names) == 6
    assert listing.report == {"other_files": {".txt": 1}}
    assert listing.tree.count_left_out() == {".*": 1}


def test_classes_file_sets_class_order(tmp_path: Path) -> None:
    image_folder(tmp_path / "images", 2, 1)
    names = tmp_path / "names.txt"
    names.write_text("class1\nunseen\nclass0\n")
    assert pack(tmp_path / "images", tmp_path / "set", "--classes", str(names), "--no-shuffle") == 0
    records = RecordSet(tmp_path / "set")
    assert records.info.classes == ("class1", "unseen", "class0")
    assert records.labels(np.arange(2)).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("class1\n", "class0: not among"), ("class1\n\n", "line 2 is empty"), ("a\na\n", "line 2: 'a'")],
)
def test_wrong_classes_file_is_refused(tmp_path: Path, capsys: Capture, text: str, reason: str) -> None:
    image_folder(tmp_path / "images", 2, 1)
    names = tmp_path / "names.txt"
    names.write_text(text)
    assert pack(tmp_path / "images", tmp_path / "set", "--classes", str(names)) == 1
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("left", [(), ("notes.txt",), (".DS_Store", "notes.txt")])
def test_class_missing_from_split_keeps_its_index(tmp_path: Path, capsys: Capture, left: tuple[str, ...]) -> None:
    """With `--classes`, a class without images keeps its index (huggingface/pytorch-image-models#957)."""
    image_folder(tmp_path / "val", 3, 2)
    for file in (tmp_path / "val" / "class1").iterdir():
        file.unlink()
    (tmp_path / "names").write_text("class0\nclass1\nclass2\n")
    arguments = ("--split", "val", "--classes", str(tmp_path / "names"))
    for name in left:
        (tmp_path / "val" / "class1" / name).write_text("x")
    assert pack(tmp_path, tmp_path / "set", "--split", "val") == 1
    assert "or name the classes with --classes FILE" in capsys.readouterr().err
    assert pack(tmp_path, tmp_path / "set", *arguments) == 0
    assert f"note: {tmp_path}/val: no image in the class folders class1" in capsys.readouterr().err
    assert RecordSet(tmp_path / "set").labels(np.arange(4)).tolist() == [0, 0, 2, 2]


def test_empty_or_missing_folders_are_refused(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "images").mkdir()
    assert pack(tmp_path / "images", tmp_path / "set") == 1
    assert "no class folders" in capsys.readouterr().err
    image_folder(tmp_path / "images", 2, 1)
    (tmp_path / "images" / "empty").mkdir()
    assert pack(tmp_path / "images", tmp_path / "set") == 1
    assert "empty: a class folder without images" in capsys.readouterr().err
    assert pack(tmp_path / "none", tmp_path / "set") == 1
    assert "none: no such folder" in capsys.readouterr().err


ODD = ["nan", "null", "None", "NA", "true", "False", "inf", "1_0", "ünïcode", "with space", "x,y", "-", "1.0.0"]


@pytest.mark.parametrize("name", [*ODD[:-3], "1.0", "2"])
def test_class_folders_accept_unusual_names(tmp_path: Path, name: str) -> None:
    image_folder(tmp_path, 1, 1)
    (tmp_path / name).mkdir()
    (tmp_path / name / "0.jpg").write_bytes(encoded("JPEG"))
    assert set(LAYOUTS["imagefolder"](tmp_path, "train", Options()).classes) == {"class0", name}


DANGLING = {"outside": "/nowhere/x.jpeg", "inside": "gone.jpeg", "below a folder": "../gone/x.jpeg"}


@pytest.mark.parametrize("target", DANGLING.values(), ids=DANGLING)
def test_dangling_class_folder_is_refused(tmp_path: Path, target: str) -> None:
    root = image_folder(tmp_path / "root", classes=2, each=3)
    (root / "class9").symlink_to(target)
    with pytest.raises(FileNotFoundError, match="class9: a dangling symbolic link"):
        LAYOUTS["imagefolder"](root, "train", Options())


def test_dangling_folder_inside_class_is_counted(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "root", classes=2, each=3)
    (root / "class0" / "more").symlink_to("/nowhere")
    assert LAYOUTS["imagefolder"](root, "train", Options()).report["other_files"] == {"dangling link": 1}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("data.yaml", "images/train/a.jpg", "labels/train/a.txt"), "in/data.yaml suggests, use `dali-mix pack yolo`"),
        (("train/images/a.jpg", "train/labels/a.txt"), "in/train/labels/a.txt suggests, use `dali-mix pack yolo`"),
        (
            ("obj.data", "obj_train_data/a.jpg", "obj_train_data/a.txt"),
            "in/obj.data suggests, use `dali-mix pack yolo`",
        ),
        (("annotations/instances_val2017.json", "val2017/a.jpg"), "_val2017.json suggests, use `dali-mix pack coco`"),
        (("train/a.jpg", "train/_annotations.coco.json"), "_annotations.coco.json suggests, use `dali-mix pack coco`"),
        (("VOC2007/Annotations/a.xml", "VOC2007/JPEGImages/a.jpg"), "/a.xml suggests, use `dali-mix pack voc`"),
        (("train/a.jpg", "train/a.xml"), "in/train/a.xml suggests, use `dali-mix pack voc`"),
        (("cat/a.jpg", "dog/a.txt", "config.yaml", "results.json"), ""),
    ],
)
def test_imagefolder_suggests_layout_with_boxes(
    tmp_path: Path, capsys: Capture, names: tuple[str, ...], said: str
) -> None:
    pack(write_jpegs(tmp_path / "in", *names), tmp_path / "set")
    error = capsys.readouterr().err
    assert said in error and error.startswith(("dali-mix pack: error: ", "note: "))
    assert ("if the images have boxes" in error) == bool(said)
