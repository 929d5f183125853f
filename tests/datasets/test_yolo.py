"""YOLO label files as written by Ultralytics, Roboflow, CVAT and darknet: boxes and rejected input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.recordio import RecordSet
from dali_mix.recordio.verify import verify_set
from tests.datasets.files import archived
from tests.recordio.samples import encoded

Capture = pytest.CaptureFixture[str]
HEIGHT, WIDTH = 40, 200  # one pixel is 2.5% of the height; 1% of the width is two pixels

# a.jpg: two boxes, b.jpg: none (empty), c.jpg: no label file, d.jpg: one box
LABELS = {
    "a": "0 0.5 0.5 1 1\n1 0.25 0.375 0.5 0.25\n",
    "b": "\n",
    "c": None,
    "d": "1\t0.875  0.5 0.25 0.5",
}
EXPECTED: list[list[list[float]]] = [
    [[0, 0, 0, 1, 1, 0], [1, 0, 0.25, 0.5, 0.5, 0]],
    [],
    [],
    [[1, 0.75, 0.25, 1, 0.75, 0]],
]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def write_images_and_labels(root: Path, images: str, labels: str, texts: dict[str, str | None] = LABELS) -> None:
    for number, (key, text) in enumerate(texts.items()):
        write(root / images / f"{key}.jpg", encoded("JPEG", HEIGHT, WIDTH, seed=number))
        if text is not None:
            write(root / labels / f"{key}.txt", text)


def ultralytics(root: Path, text: str = "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n") -> None:
    write_images_and_labels(root, "images/train", "labels/train")
    write(root / "data.yaml", text)


def pack(root: Path, out: Path, *options: str) -> int:
    return main(["pack", "yolo", "--root", str(root), "--out", str(out), "--quiet", "--no-shuffle", *options])


def refused(root: Path, capsys: Capture, *options: str) -> str:
    assert pack(root, root.parent / "refused", *options) == 1
    return capsys.readouterr().err


def assert_expected(prefix: Path) -> None:
    records = RecordSet(prefix)
    assert records.info.classes == ("cat", "dog") and records.info.task == "detection"
    for one, other in zip(records.labels(np.arange(4)), EXPECTED, strict=True):
        assert np.array_equal(one, np.array(other).reshape(-1, 6))
    assert list(verify_set(prefix)) == []


NAMES = "nc: 2\nnames: ['cat', 'dog']\n"
LIST = "".join(f"{{}}/{key}.jpg\n" for key in LABELS)
FORMS = {
    "Ultralytics": ("images/train", "labels/train", {"data.yaml": "path: .\ntrain: images/train\n" + NAMES}),
    "names as a dict": (
        "images/train",
        "labels/train",
        {"dataset.yaml": "path: ../datasets/coco8  # root\ntrain: images/train\nval:\nnames:\n  1: dog\n  0: cat\n"},
    ),
    "path of another machine": (
        "images/train",
        "labels/train",
        {"data.yml": "path: 'C:\\data\\pets'\ntrain: .\\images\\train\n" + NAMES},
    ),
    "absolute path": ("images/train", "labels/train", {"data.yaml": "train: /content/data/images/train\n" + NAMES}),
    "Roboflow": (
        "train/images",
        "train/labels",
        {"data.yaml": "train: ../train/images\nval: ../valid/images\n\n" + NAMES + "\nroboflow:\n  license: MIT\n"},
    ),
    "Roboflow's API": ("train/images", "train/labels", {"data.yaml": "train: pets-1/train/images\n" + NAMES}),
    "a list": (
        "images/train",
        "labels/train",
        {"data.yaml": "train: train.txt\n" + NAMES, "train.txt": LIST.replace("{}", "./images/train")},
    ),
    "a list of absolute paths": (
        "images/train",
        "labels/train",
        {"data.yaml": "path: /x\ntrain: [lists/a.txt]\n" + NAMES, "lists/a.txt": LIST.replace("{}", "/y/images/train")},
    ),
    "same folder": ("train", "train", {"data.yaml": "train: train\n" + NAMES}),
    "CVAT": (
        "obj_train_data",
        "obj_train_data",
        {
            "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
            "obj.names": "cat\ndog\n",
            "train.txt": LIST.replace("{}", "data/obj_train_data"),
        },
    ),
    "CVAT with folders": (
        "obj_train_data/images/x",
        "obj_train_data/images/x",
        {
            "obj.data": "train = data/train.txt\nnames = data/obj.names\n",
            "obj.names": "cat\r\ndog\r\n\r\n",
            "train.txt": LIST.replace("{}", "data/obj_train_data/images/x"),
        },
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_packs_the_same_set(tmp_path: Path, capsys: Capture, form: str) -> None:
    images, labels, files = FORMS[form]
    root = tmp_path / "root"
    write_images_and_labels(root, images, labels)
    for name, text in files.items():
        write(root / name, text)
    assert pack(root, tmp_path / "set") == 0
    assert_expected(tmp_path / "set")
    assert "note: 1 image has no label file: without boxes" in capsys.readouterr().err
    assert RecordSet(tmp_path / "set").info.report["images_without_label_file"] == 1
    assert pack(archived(root, tmp_path / "root.zip"), tmp_path / "zip") == 0
    assert (tmp_path / "set.rec").read_bytes() == (tmp_path / "zip.rec").read_bytes()


def test_list_matches_unicode_form_and_keeps_missing_image(tmp_path: Path) -> None:
    write_images_and_labels(tmp_path, "obj_train_data", "obj_train_data", {"e\u0301": "0 0.5 0.5 1 1"})
    write(tmp_path / "obj.names", "cat\n")
    write(tmp_path / "obj.data", "train = data/train.txt\nnames = data/obj.names\n")
    write(tmp_path / "train.txt", "data/obj_train_data/\u00e9.jpg\ndata/obj_train_data/b.jpg\n")
    listing = LAYOUTS["yolo"](tmp_path, "train", Options())
    assert list(listing.names) == ["obj_train_data/\u00e9.jpg", "obj_train_data/b.jpg"]
    assert [len(np.asarray(label)) for label in listing.labels] == [8, 2]
    assert listing.tree.read(listing.names[0])


@pytest.mark.parametrize("split", ["val", "valid"])
@pytest.mark.parametrize("key", ["val", "valid"])
def test_val_and_valid_are_one_split(tmp_path: Path, split: str, key: str) -> None:
    write_images_and_labels(tmp_path, "valid/images", "valid/labels")
    write(tmp_path / "data.yaml", f"{key}: ../valid/images\n{NAMES}")
    assert len(LAYOUTS["yolo"](tmp_path, split, Options()).names) == 4


@pytest.mark.parametrize("folders", [("images/{}", "labels/{}"), ("{}/images", "{}/labels"), ("{}", "{}")])
def test_classes_file_replaces_yaml_names(tmp_path: Path, folders: tuple[str, str]) -> None:
    write_images_and_labels(tmp_path / "root", *(folder.replace("{}", "train") for folder in folders))
    names = write(tmp_path / "names.txt", "cat\ndog\n")
    assert pack(tmp_path / "root", tmp_path / "set", "--classes", str(names)) == 0
    assert_expected(tmp_path / "set")
    train = folders[0].replace("{}", "train")
    write(tmp_path / "root" / "data.yaml", f"train: {train}\nnames: [a]\nnc: 7\n")
    assert pack(tmp_path / "root", tmp_path / "other", "--classes", str(names)) == 0
    assert_expected(tmp_path / "other")


def test_split_may_list_several_folders(tmp_path: Path) -> None:
    write_images_and_labels(tmp_path, "images/one", "labels/one", {"a": "0 0.5 0.5 1 1"})
    write_images_and_labels(tmp_path, "images/two", "labels/two", {"a": "1 0.5 0.5 1 1"})
    write(tmp_path / "data.yaml", "train:\n  - images/one\n  - images/two\n" + NAMES)
    listing = LAYOUTS["yolo"](tmp_path, "train", Options())
    assert list(listing.names) == ["images/one/a.jpg", "images/two/a.jpg"]
    assert [np.asarray(label)[2] for label in listing.labels] == [0, 1]


def test_yaml_names_are_kept_as_written(tmp_path: Path) -> None:
    """YAML booleans, numbers, nulls and dates are kept as class names."""
    write_images_and_labels(tmp_path, "train/images", "train/labels")
    write(tmp_path / "data.yaml", "train: train/images\nnames: [no, 5, ~, 2020-01-01, 1e3, 'é']\n")
    listing = LAYOUTS["yolo"](tmp_path, "train", Options())
    assert listing.classes == ("no", "5", "~", "2020-01-01", "1e3", "é")


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    text = f"names: [!!python/object/apply:pathlib.Path.touch [{tmp_path / 'made'}], dog]\n"
    ultralytics(tmp_path, f"train: !!python/name:os.system images/train\n{NAMES}")
    assert len(LAYOUTS["yolo"](tmp_path, "train", Options()).names) == 4
    write(tmp_path / "data.yaml", f"train: images/train\n{text}")
    with pytest.raises(ValueError, match="no class names under 'names'"):
        LAYOUTS["yolo"](tmp_path, "train", Options())
    assert not (tmp_path / "made").exists()


def test_polygons_become_bounding_boxes(tmp_path: Path, capsys: Capture) -> None:
    ultralytics(tmp_path / "root")
    lines = "0 0.5 0.25 0.25 0.5 0.75 0.75\n1 0.1 0.2 0.3 0.1 0.4 0.5 0.2 0.6\n1 0.5 0.5 0.5 0.5\n"
    write(tmp_path / "root/labels/train/d.txt", lines)
    assert pack(tmp_path / "root", tmp_path / "set") == 0
    assert "note: 2 lines are polygons: each became its bounding box" in capsys.readouterr().err
    found = RecordSet(tmp_path / "set").labels(np.array([3]))[0]
    expected = [[0, 0.25, 0.25, 0.75, 0.75, 0], [1, 0.1, 0.1, 0.4, 0.6, 0], [1, 0.25, 0.25, 0.75, 0.75, 0]]
    assert np.allclose(found, expected, atol=1e-6)


def test_keypoints_are_left_out(tmp_path: Path) -> None:
    ultralytics(tmp_path, f"train: images/train\nkpt_shape: [2, 3]\n{NAMES}")
    write(tmp_path / "labels/train/d.txt", "1 0.5 0.5 0.5 0.5 0.1 0.1 2 0.2 0.2 0\n")
    listing = LAYOUTS["yolo"](tmp_path, "train", Options())
    assert np.asarray(listing.labels[3])[2:].tolist() == [1, 0.25, 0.25, 0.75, 0.75, 0]
    assert "1 line has keypoints, which were left out; the box stays" in listing.report["notices"]


def test_duplicate_and_empty_boxes_are_left_out(tmp_path: Path) -> None:
    ultralytics(tmp_path)
    lines = "0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 0.5\n0 0.50 0.5 5e-1 0.5\n0 0.5 0.5 0 0.5\n0 1.005 0.5 0.005 0.5\n"
    write(tmp_path / "labels/train/d.txt", lines)
    listing = LAYOUTS["yolo"](tmp_path, "train", Options())
    assert np.asarray(listing.labels[3])[2::6].tolist() == [0, 1]
    assert (listing.report["repeated_lines"], listing.report["boxes_without_area"]) == (1, 2)
    assert "1 line repeats an earlier line of the file: left out" in listing.report["notices"]


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.01 0.5 0.039 1", [0, 0, 0.0295, 1]),  # beyond the edge by almost two of 200 pixels: 1%
        ("0 0.99 0.5 0.039 1", [0.9705, 0, 1, 1]),
        ("0 0.5 0 1 0.049", [0, 0, 1, 0.0245]),  # beyond the edge by almost one of 40 pixels: 2.5%
        ("0 0.5 1 1 0.049", [0, 0.9755, 1, 1]),
        ("0 0.4 1.024 0.2 0.9 0.3 0.7", [0.2, 0.7, 0.4, 1]),
    ],
)
def test_box_within_tolerance_is_clipped(tmp_path: Path, line: str, box: list[float]) -> None:
    ultralytics(tmp_path / "root")
    write(tmp_path / "root/labels/train/d.txt", line)
    assert pack(tmp_path / "root", tmp_path / "set") == 0
    records = RecordSet(tmp_path / "set")
    assert np.allclose(records.labels(np.array([3]))[0][0, 1:5], box, atol=1e-6)
    assert records.info.report["clipped_boxes"] == 1


def test_box_at_border_is_not_counted_as_clipped(tmp_path: Path) -> None:
    """Its centre and width are rounded to six digits, so its edge may be slightly beyond 1."""
    ultralytics(tmp_path / "root")
    write(tmp_path / "root/labels/train/d.txt", "0 0.833334 0.5 0.333334 1")  # up to 1.000001
    assert pack(tmp_path / "root", tmp_path / "set") == 0
    records = RecordSet(tmp_path / "set")
    assert records.labels(np.array([3]))[0][0, 3] == 1
    assert records.info.report["clipped_boxes"] == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 1", "4 numbers where a box has 5 (class cx cy w h)"),
        ("0", "1 numbers where a box has 5"),
        ("0 0.5 0.5 1 1 0.9", "if the sixth is a confidence, these are predictions, not labels"),
        ("0 0.5 0.5 1 1 1 1 1", "8 numbers where a box has 5"),
        ("0 0.5 0.5 1 x", "'0 0.5 0.5 1 x': expected numbers separated by spaces"),
        ("0,0.5,0.5,1,1", "'0,0.5,0.5,1,1': expected numbers separated by spaces"),
        ("cat 0.5 0.5 1 1", "'cat 0.5 0.5 1 1': expected numbers separated by spaces"),
        ("0 0.5 nan 1 1", "'0 0.5 nan 1 1' has a number that is not finite"),
        ("0 0.5 0.5 inf 1", "has a number that is not finite"),
        ("nan 0.5 0.5 1 1", "has a number that is not finite"),
        ("0 0.5 0.5 1e999 1", "has a number that is not finite"),
        ("2 0.5 0.5 1 1", "class 2 is out of range: there are 2 classes, counted from 0"),
        ("-1 0.5 0.5 1 1", "class -1 is out of range"),
        ("0.5 0.5 0.5 1 1", "class 0.5 is out of range"),
        ("0 0.5 0.5 -0.5 1", "width -0.5 and height 1: sizes must not be negative"),
        ("0 0.5 0.5 1 -1", "sizes must not be negative"),
        (
            "0 0.5 0.5 1.03 1",
            "leaves the 200x40 image by more than a pixel and 1%; correct it (--bad-boxes clips",
        ),
        ("0 0.5 0.5 1 1.06", "the box 0, -0.03, 1, 1.03 (x1, y1, x2, y2 in 0..1) leaves the 200x40 image"),
        ("0 0.5 0.5 1 1e300", "leaves the 200x40 image"),
        ("0 100 20 50 10", "leaves the 200x40 image by more than a pixel and 1%; correct it: if these are pixels"),
        ("0 0.5 0.5 -0.1 0.7 0.3 0.9", "leaves the 200x40 image"),
        (b"0 0.5 0.5 1 1 \xff", "is not UTF-8 text; save the file as UTF-8"),
    ],
)
def test_malformed_lines_are_refused(tmp_path: Path, capsys: Capture, line: str | bytes, reason: str) -> None:
    ultralytics(tmp_path / "root")
    data = line.encode() if isinstance(line, str) else line
    file = write(tmp_path / "root/labels/train/d.txt", b"0 0.5 0.5 1 1\n\n" + data + b"\n")
    error = refused(tmp_path / "root", capsys)
    assert f"{file}: line 3" in error and reason in error


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train: images/train\n", "no class names under 'names'; add them in the order of their numbers, as `names:"),
        ("train: images/train\nnames:\n", "no class names under 'names'"),
        ("train: images/train\nnames: cat\n", "no class names under 'names'"),
        ("train: images/train\nnames: [cat, [dog]]\n", "no class names under 'names'"),
        ("train: images/train\nnames: [cat, '']\n", "no class names under 'names'"),
        ("train: images/train\nnames: [cat, dog, cat]\n", "classes 0 and 2 are both called 'cat'; rename one"),
        ("train: images/train\nnames: {1: cat, 2: dog}\n", "the numbers in 'names' are '1', '2', expected 0 to 1"),
        ("train: images/train\nnames: {cat: 0, dog: 1}\n", "the numbers in 'names' are 'cat', 'dog', expected 0 to 1"),
        ("train: images/train\nnc: 3\nnames: [cat, dog]\n", "it states 3 classes but names 2; correct one"),
        (f"val: images/train\ntest: images/train\n{NAMES}", "no split 'train' in it; choose --split among val, test"),
        (NAMES, "no split 'train' in it; choose --split among none"),
        (f"train: images/trian\n{NAMES}", "split 'train': no 'images/trian' below"),
        (f"train: other/train\n{NAMES}", "split 'train': no 'other/train' below"),
        (f"train: ../../../etc\n{NAMES}", "split 'train': no '../../../etc' below"),
        (f"train: {'x' * 300}\n{NAMES}", "split 'train': no 'xxx"),
        (f"train: [[images/train]]\n{NAMES}", "split 'train' is neither a path nor a list of paths"),
        ("names: [cat, dog\ntrain: a\n", "line 2: cannot be read as YAML: expected ',' or ']'"),
        ("names: *cat\n", "line 1: cannot be read as YAML: found undefined alias"),
        ('names: ["\\UFFFFFFFF"]\n', "cannot be read as YAML"),
        ("a\x00b: 1\n", "cannot be read as YAML"),
        ("[" * 100_000, "cannot be read as YAML"),
        ("? [a]\n: b\n", "cannot be read as YAML"),
        ("- train\n", "no `key: value` lines in it; is it the right file?"),
        ("", "no `key: value` lines in it"),
        (b"names: [\xff]\n", "line 1 is not UTF-8 text"),
    ],
)
def test_malformed_yaml_is_refused(tmp_path: Path, capsys: Capture, text: str | bytes, reason: str) -> None:
    ultralytics(tmp_path / "root")
    file = write(tmp_path / "root/data.yaml", text)
    error = refused(tmp_path / "root", capsys)
    assert f"{file}: " in error and reason in error


def test_yaml_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    ultralytics(tmp_path, "\n".join([*lines, "train: images/train", "names: *a29"]))
    with pytest.raises(ValueError, match="no class names under 'names'"):
        LAYOUTS["yolo"](tmp_path, "train", Options())


def test_missing_files_are_named(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "root"
    ultralytics(root)
    write(root / "data.yaml", f"train: train.txt\n{NAMES}")
    listed = write(root / "train.txt", "images/train/a.jpg\n./images/train/e.jpg\n")
    lost = root / "images/train/e.jpg"
    assert f"{lost}: no such file, listed at {listed}: line 2 (--skip-bad" in refused(root, capsys)
    assert pack(root, tmp_path / "set", "--skip-bad") == 0
    write(root / "labels/train/e.txt", "0 3 3 3 3")  # the size of the missing image is unknown
    assert pack(root, tmp_path / "set", "--skip-bad", "--force") == 0
    listed.write_text("images/train/a.jpg\n/x/images/train/a.jpg\n")
    assert f"{listed}: line 2: images/train/a.jpg is already listed in {listed}: line 1" in refused(root, capsys)
    listed.write_text("\n")
    assert "no image found for split 'train' of layout yolo; check --root, or choose" in refused(root, capsys)
    write(root / "data.yaml", f"train: images/train\n{NAMES}")
    (root / "labels").rename(root / "elsewhere")
    error = refused(root, capsys)
    assert f"{root}/labels/train/a.txt: no such file, and no other of the 4 images has a label file" in error
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").symlink_to(root / "gone")
    assert "a.txt: a dangling symbolic link" in refused(root, capsys)
    (root / "data.yaml").unlink()
    assert "no data.yaml or obj.data in it; copy the set's .yaml file there as data.yaml" in refused(root, capsys)
    write(root / "obj.data", "train = train.txt\nnames = data/obj.names\n")
    assert "data/obj.names: no such file; fetch it" in refused(root, capsys)
    write(root / "obj.data", "train = train.txt\n")
    assert "obj.data: no class names under 'names'" in refused(root, capsys)
    assert "is for --task detection, not multilabel" in refused(root, capsys, "--task", "multilabel")


def test_box_tolerance_follows_exif_rotation(tmp_path: Path, capsys: Capture) -> None:
    """The one-pixel tolerance refers to the image as displayed or, with `--exif ignore`, as stored."""
    ultralytics(tmp_path / "root")
    write(tmp_path / "root/images/train/d.jpg", encoded("JPEG", HEIGHT, WIDTH, turn=6))
    write(tmp_path / "root/labels/train/d.txt", "0 0.5 0 1 0.049\n")  # 2.45%: under 1 pixel of 40, over 1 pixel of 200
    assert "leaves the 40x200 image" in refused(tmp_path / "root", capsys)
    assert pack(tmp_path / "root", tmp_path / "set", "--exif", "ignore") == 0
    assert RecordSet(tmp_path / "set").info.report["turned_by_exif"] == 1


@pytest.mark.parametrize(("unlabelled", "left"), [("keep", 4), ("drop", 2), (None, 4)])
def test_images_without_boxes_are_kept_by_default(tmp_path: Path, unlabelled: str | None, left: int) -> None:
    ultralytics(tmp_path)
    assert len(LAYOUTS["yolo"](tmp_path, "train", Options(unlabelled=unlabelled)).names) == left


@pytest.mark.parametrize(("images", "labels"), [("images/train", "labels/train"), ("train", "train")])
def test_unread_images_and_unmatched_labels_are_noted(tmp_path, capsys, images, labels):
    write_images_and_labels(tmp_path / "set", images, labels)
    write(tmp_path / "set/data.yaml", f"train: {images}\nnames: [cat, dog]\n")
    for name in ("x.avif", "y.heic", "z.HEIC"):
        write(tmp_path / "set" / images / name, b"")
    for name in ("x.txt", "y.txt", "lost.txt", "classes.txt"):
        write(tmp_path / "set" / labels / name, "0 .5 .5 1 1\n")
    assert main(["pack", "yolo", "--root", str(tmp_path / "set"), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "1 .avif file, 2 .heic files left out: images that cannot be read here" in printed.out + printed.err
    assert "3 label files have no image that is read: left out (first: " in printed.out + printed.err
    assert len(RecordSet(tmp_path / "out")) == 4


@pytest.mark.parametrize(("images", "labels"), [("images/train", "labels/train"), ("train", "train")])
def test_label_file_shared_by_images_is_noted(tmp_path, capsys, images, labels):
    write_images_and_labels(tmp_path / "set", images, labels)
    write(tmp_path / "set/data.yaml", f"train: {images}\nnames: [cat, dog]\n")
    for name in ("a.png", "a.bmp", "c.png"):  # c has no label file
        write(tmp_path / "set" / images / name, encoded("PNG", HEIGHT, WIDTH, seed=9))
    assert pack(tmp_path / "set", tmp_path / "out") == 0
    assert (
        f"1 label file belongs to several images, which all get the same boxes (first: {tmp_path}/set/{labels}/a.txt)"
        in (capsys.readouterr().err)
    )
    records = RecordSet(tmp_path / "out")
    assert records.info.report["label_files_of_several_images"] == 1
    assert [len(boxes) for boxes in records.labels(np.arange(7))] == [2, 2, 2, 0, 0, 0, 1]


def test_complete_set_gives_no_label_file_note(tmp_path, capsys):
    ultralytics(tmp_path / "set")
    assert main(["pack", "yolo", "--root", str(tmp_path / "set"), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    for note in ("label files have no image", "several images"):
        assert note not in printed.out + printed.err


def test_val_share_makes_two_splits_of_train(tmp_path):
    ultralytics(tmp_path / "set")
    for split, count in (("train", 3), ("val", 1)):
        assert pack(tmp_path / "set", tmp_path / split, "--split", split, "--val-share", "0.25") == 0
        assert len(RecordSet(tmp_path / split)) == count


def test_odd_number_of_coordinates_is_refused(tmp_path, capsys):
    ultralytics(tmp_path / "set")
    write(tmp_path / "set/labels/train/a.txt", "0 .1 .1 .5 .1 .5 .5 .9\n")
    assert "the 7 coordinates of a polygon are not pairs of x and y" in refused(tmp_path / "set", capsys)
