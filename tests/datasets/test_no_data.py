"""What is no data is left out and counted, a class called like a split is a class, and one folder can be two splits."""

from __future__ import annotations

import errno
import os
import re
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.datasets.no_data import no_data
from dali_mix.engine.inference.image_files import find_images
from dali_mix.recordio import RecordSet
from tests.recordio.samples import encoded, image_folder

Capture = pytest.CaptureFixture[str]
JPEG = encoded("JPEG")
NO_DATA = {
    "cat/.ipynb_checkpoints/0-checkpoint.jpg": ".ipynb_checkpoints",
    "dog/@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg": "@eaDir",
    "cat/old/deep/@eadir/1.jpg": "@eaDir",
    "__MACOSX/cat/._0.jpg": "__MACOSX",
    "cat/__MACOSX/0.jpg": "__MACOSX",
    "cat/._0.jpg": "._*",
    "#recycle/gone/0.jpg": "#recycle",
    "$RECYCLE.BIN/S-1-5/0.jpg": "$RECYCLE.BIN",
    "lost+found/0.jpg": "lost+found",
    "System Volume Information/0.jpg": "System Volume Information",
    "dog/THUMBS.DB": "Thumbs.db",
    "dog/Desktop.ini": "desktop.ini",
    ".DS_Store": ".DS_Store",
    "dog/.@__thumb/0.jpg": ".@__thumb",
    "dog/__pycache__/x.pyc": "__pycache__",
    ".Trash-1000/files/0.jpg": ".*",
}


def lay(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(JPEG)
    return root


def pack(root: Path, out: Path, *options: str) -> int:
    return main(["pack", "imagefolder", "--root", str(root), "--out", str(out), "--quiet", *options])


def archived(root: Path, path: Path) -> Path:
    files = sorted(file for file in root.rglob("*") if file.is_file())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(root))
    else:
        with tarfile.open(path, "w:gz") as archive:
            for file in files:
                archive.add(file, str(file.relative_to(root)))
    return path


@pytest.mark.parametrize("kind", ["folder", "set.zip", "set.tgz"])
@pytest.mark.parametrize("base", ["", "train/"])
def test_what_is_no_data_is_left_out_and_counted(tmp_path: Path, capsys: Capture, kind: str, base: str) -> None:
    data = [f"{base}{name}/{number}.jpg" for name in ("cat", "cat/old/deep", "dog") for number in (0, 1)]
    root = lay(tmp_path / "in", *data, *(base + name for name in NO_DATA))
    root = root if kind == "folder" else archived(root, tmp_path / kind)
    assert pack(root, tmp_path / "set") == 0
    info = RecordSet(tmp_path / "set").info
    assert info.count == 6 and info.classes == ("cat", "dog")
    assert info.report["left_out"] == Counter(NO_DATA.values())
    assert "@eaDir 2" in capsys.readouterr().out


def test_only_no_data_is_no_class(tmp_path: Path, capsys: Capture) -> None:
    root = lay(tmp_path / "in", "cat/@eaDir/0.jpg", "dog/0.jpg")
    assert pack(root, tmp_path / "set") == 1
    assert "in/cat: a class folder without images" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cat.jpg", "thumbs", "eaDir", "_MACOSX", "recycle", "Thumbs.db.jpg", "a.b"])
def test_names_that_may_be_data(name: str) -> None:
    assert no_data(name) is None


def test_a_list_may_name_what_a_walk_leaves_out(tmp_path: Path) -> None:
    root = lay(tmp_path, "@eaDir/0.jpg", "a/1.jpg")
    (root / "train.txt").write_text("@eaDir/0.jpg\tx\na/1.jpg\ty\n")
    listing = LAYOUTS["list"](root, "train", Options())
    assert [listing.tree.read(name) for name in listing.names] == [JPEG, JPEG]


def test_predict_leaves_out_the_same(tmp_path: Path) -> None:
    root = lay(tmp_path / "in", "a.jpg", "x/@eaDir/a.jpg", ".hidden/b.jpg", "x/b.jpg")
    assert [path.relative_to(root).as_posix() for path in find_images([root])] == ["a.jpg", "x/b.jpg"]
    assert len(find_images([root / ".hidden"])) == 1  # asked for by name


def test_predict_counts_images_that_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = lay(tmp_path / "in", "a.jpg", "x/b.HEIC", "x/c.heic", "d.CR2", "notes.txt", "x/@eaDir/e.heic")
    assert [path.name for path in find_images([root])] == ["a.jpg"]
    assert f"{root}: 1 .cr2 file, 2 .heic files left out" in caplog.text
    with pytest.raises(ValueError, match=r"no image in it .*; 2 \.heic files left out"):
        find_images([root / "x"])


def test_a_folder_that_may_not_be_read_stops_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay(tmp_path / "in", "a.jpg", "locked/b.jpg", "@eaDir/c.jpg")
    scan = os.scandir

    def scandir(path: str) -> object:  # root may read every folder, so a mode would not do
        if Path(path).name in ("locked", "@eaDir"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="locked"):
        find_images([root])
    (root / "locked/b.jpg").unlink()
    (root / "locked").rmdir()
    assert [path.name for path in find_images([root])] == ["a.jpg"]


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
def test_a_class_called_like_a_split(
    tmp_path: Path, capsys: Capture, files: list[str], split: str, classes: str, noted: str
) -> None:
    root = lay(tmp_path / "in", *(file if "." in file else f"{file}.jpg" for file in files))
    assert pack(root, tmp_path / "set", "--split", split) == 0
    assert " ".join(RecordSet(tmp_path / "set").info.classes) == classes
    error = capsys.readouterr().err
    assert noted in error and ("note:" in error) == bool(noted)


@pytest.mark.parametrize(("choice", "classes"), [("yes", "new old"), ("no", "bus train")])
def test_the_reading_is_chosen(tmp_path: Path, capsys: Capture, choice: str, classes: str) -> None:
    root = lay(tmp_path / "in", "bus/old/0.jpg", "bus/new/0.jpg", "train/old/0.jpg", "train/new/0.jpg")
    assert pack(root, tmp_path / "set", "--split-folders", choice) == 0
    assert " ".join(RecordSet(tmp_path / "set").info.classes) == classes
    assert "--split-folders" not in capsys.readouterr().err


def test_a_split_that_is_not_there(tmp_path: Path, capsys: Capture) -> None:
    root = lay(tmp_path / "in", "a/0.jpg", "b/0.jpg")
    assert pack(root, tmp_path / "set", "--split-folders", "yes") == 1
    assert "no folder 'train'; the folders are a, b" in capsys.readouterr().err
    root = lay(tmp_path / "two", "train/0.jpg", "test/0.jpg")
    assert pack(root, tmp_path / "set") == 1
    assert "pass --split-folders no" in capsys.readouterr().err
    assert pack(root, tmp_path / "set", "--split-folders", "no") == 0


def test_files_left_out_are_counted_by_suffix(tmp_path: Path, capsys: Capture) -> None:
    root = lay(tmp_path / "in", "cat/0.jpg", "cat/n0123_77", "dog/0.jpg", "dog/notes.txt", "loose.jpg")
    lay(root, *(f"dog/IMG_{number}.HEIC" for number in range(5)), "dog/x.CR2", "cat/y.avif", "cat/z.NEF")
    assert pack(root, tmp_path / "set") == 0
    report = RecordSet(tmp_path / "set").info.report
    assert report["other_files"] == {".avif": 1, ".cr2": 1, ".heic": 5, ".nef": 1, ".txt": 1, "no suffix": 1}
    captured = capsys.readouterr()
    assert "1 .avif file, 1 .cr2 file, 5 .heic files, 1 .nef file left out: images that cannot" in captured.err
    assert "1 images are in no class folder" in captured.err and ".txt 1, no suffix 1" in captured.out
    lay(root, "emu/0.heic", "emu/1.heic")
    assert pack(root, tmp_path / "other") == 1
    assert "emu: a class folder without images (only 2 .heic files)" in capsys.readouterr().err


def shares(root: Path, share: float) -> dict[str, set[str]]:
    return {
        split: set(LAYOUTS["imagefolder"](root, split, Options(val_share=share)).names) for split in ("train", "val")
    }


@pytest.mark.parametrize(
    ("each", "share", "held"), [(10, 0.2, 2), (7, 0.3, 2), (2, 0.01, 1), (3, 0.99, 2), (1, 0.5, 0)]
)
def test_one_folder_as_two_splits(tmp_path: Path, each: int, share: float, held: int) -> None:
    root = lay(image_folder(tmp_path / "in", 3, each), "other/0.jpg", "other/1.jpg")
    parts = shares(root, share)
    assert not parts["train"] & parts["val"]
    assert len(parts["train"] | parts["val"]) == 3 * each + 2
    counts = Counter(name.split("/")[0] for name in parts["val"])
    assert [counts[f"class{label}"] for label in range(3)] == [held] * 3 and counts["other"] == 1
    val = LAYOUTS["imagefolder"](root, "val", Options(val_share=share))
    assert val.classes == ("class0", "class1", "class2", "other")
    inside = lay(tmp_path / "split" / "train", *(parts["train"] | parts["val"]))
    assert {name.removeprefix("train/") for name in shares(inside.parent, share)["val"]} == parts["val"]
    assert shares(archived(root, tmp_path / "in.zip"), share) == parts


def test_few_files_change_sides_when_some_are_added(tmp_path: Path) -> None:
    root = lay(tmp_path, *(f"{kind}/{number}.jpg" for kind in "ab" for number in range(200)))
    before = shares(root, 0.1)
    lay(root, *(f"{kind}/new{number}.jpg" for kind in "ab" for number in range(20)))
    after = shares(root, 0.1)
    assert len(before["train"] & after["val"]) + len(before["val"] & after["train"]) <= 8


def test_a_list_as_two_splits(tmp_path: Path) -> None:
    root = lay(tmp_path, *(f"{number}.jpg" for number in range(20)))
    (root / "all.csv").write_text("path,a,b\n" + "".join(f"{number}.jpg,1,{number % 2}\n" for number in range(20)))
    options = Options(val_share=0.25, list_file=root / "all.csv")
    parts = [LAYOUTS["list"](root, split, options) for split in ("train", "val")]
    assert [len(part.names) for part in parts] == [15, 5] and parts[0].classes == parts[1].classes
    assert len({*parts[0].names, *parts[1].names}) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--val-share", "1"], "is not between 0 and 1"),
        (["--val-share", "nan"], "is not between 0 and 1"),
        (["--val-share", "0.1", "--split", "test"], "choose --split train or val"),
        (["--val-share", "0.1"], "val: there is a split val already: leave --val-share out"),
        (["--val-share", "0.1", "--split", "val"], "val: there is a split val already: leave --val-share out"),
    ],
)
def test_shares_that_do_not_fit(tmp_path: Path, capsys: Capture, options: list[str], message: str) -> None:
    root = lay(tmp_path / "in", "train/a/0.jpg", "train/a/1.jpg", "val/a/0.jpg")
    assert pack(root, tmp_path / "set", *options) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["", ".zip", ".tar.gz"])
@pytest.mark.parametrize(
    ("names", "split", "base"),
    [
        (("train/train/cat/0.jpg", "train/train/dog/0.jpg"), "train", "train/train"),
        (("Train/train/cat/0.jpg", "Train/train/dog/0.jpg", "val/val/cat/1.jpg", "train.csv"), "train", "Train/train"),
        (("in/train/train/train/cat/0.jpg", "in/train/train/train/dog/0.jpg"), "train", "in/train/train/train"),
        (("seg_train/seg_train/cat/0.jpg", "seg_train/seg_train/dog/0.jpg", "seg_test/seg_test/cat/1.jpg"),
         "seg_train", "seg_train/seg_train"),
        (("train/train/train/0.jpg", "train/train/dog/0.jpg"), "train", "train/train"),  # "train" is a class, too
    ],
)  # fmt: skip
def test_a_split_in_a_folder_of_its_name(
    tmp_path: Path, names: tuple[str, ...], split: str, base: str, suffix: str
) -> None:
    root = lay(tmp_path / "in", *names)
    if suffix:
        root = archived(root, tmp_path / f"in{suffix}")
    listing = LAYOUTS["imagefolder"](root, split, Options())
    other = "train" if base + "/train/0.jpg" in names else "cat"
    assert set(listing.classes) == {other, "dog"}
    assert {name.rpartition("/")[0] for name in listing.names} == {f"{base}/{other}", f"{base}/dog"}


def test_val_share_beside_a_split_val(tmp_path: Path) -> None:
    root = lay(tmp_path, *(f"{split}/{split}/cat/{number}.jpg" for split in ("train", "val") for number in range(4)))
    with pytest.raises(ValueError, match="/val: there is a split val already"):
        LAYOUTS["imagefolder"](root, "val", Options(val_share=0.5))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train/train/0.jpg",), "one class only, 'train'; if it is none, correct --root or --split"),
        (("train/a/cat/0.jpg", "train/a/dog/0.jpg"), "one class only, 'a'"),
        (("seg_train/seg_train/cat/0.jpg", "seg_pred/0.jpg"), "if they are splits, pass --split seg_train"),
        (tuple(f"{number}/0.jpg" for number in range(12)), "label 2 is class '10', not '2';.*--classes FILE"),
        (tuple(f"train/{number}/0.jpg" for number in (7, 10)), "label 0 is class '10', not '7'"),
        (tuple(f"{number}/0.jpg" for number in range(10)), ""),
        (tuple(f"{number:02d}/0.jpg" for number in range(12)), ""),
        (("1/0.jpg", "10/0.jpg", "2/0.jpg", "cat/0.jpg"), ""),
    ],
)
def test_classes_that_may_be_others_than_meant(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    notices = LAYOUTS["imagefolder"](lay(tmp_path, *names), "train", Options()).report.get("notices", [])
    assert len(notices) == bool(said)
    assert re.search(said, " ".join(notices))


def test_the_order_of_numbers(tmp_path: Path, capsys: Capture) -> None:
    lay(tmp_path / "in", *(f"{number}/0.jpg" for number in range(12)))
    assert pack(tmp_path / "in", tmp_path / "set") == 0
    assert "label 2 is class '10'" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("".join(f"{number}\n" for number in range(12)))
    assert pack(tmp_path / "in", tmp_path / "set", "--force", "--classes", str(tmp_path / "names.txt")) == 0
    assert "note" not in capsys.readouterr().err
    assert RecordSet(tmp_path / "set").info.classes == tuple(map(str, range(12)))
