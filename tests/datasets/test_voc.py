"""VOC devkits in the published layout: targets, boxes, years, classes and rejected input."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.datasets.layouts.voc import VOC_CLASSES
from dali_mix.recordio import RecordSet
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded

Capture = pytest.CaptureFixture[str]
HEIGHT, WIDTH = 30, 50
Item = tuple[str, tuple[float, float, float, float], int]  # name, xmin ymin xmax ymax, difficult

DOG: Item = ("dog", (1, 1, 50, 30), 0)  # the complete image
HARD_CAT: Item = ("cat", (11, 4, 20, 6), 1)
PERSON: Item = ("person", (26, 16, 50, 30), 0)
HARD_PERSON: Item = ("person", (2, 2, 3, 3), 1)


def annotation(items: list[Item], size: str = f"<width>{WIDTH}</width><height>{HEIGHT}</height>") -> str:
    objects = "".join(
        f"<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin>"
        f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin>"
        "<ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
        for name, (x1, y1, x2, y2), difficult in items
    )
    return f"<annotation><folder>VOC</folder><size>{size}<depth>3</depth></size>{objects}</annotation>"


def devkit(root: Path, year: str, split: str, images: dict[str, list[Item]]) -> Path:
    """Write VOCdevkit/VOC<year> with one split and return that folder."""
    base = root / "VOCdevkit" / f"VOC{year}"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for number, (key, items) in enumerate(images.items()):
        (base / "Annotations" / f"{key}.xml").write_text(annotation(items))
        (base / "JPEGImages" / f"{key}.jpg").write_bytes(encoded("JPEG", HEIGHT, WIDTH, seed=number))
    (base / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{key}\n" for key in images))
    (base / "ImageSets" / "Main" / f"dog_{split}.txt").write_text("")
    return base


def pack(root: Path, out: Path, *options: str) -> int:
    return main(["pack", "voc", "--root", str(root), "--out", str(out), "--quiet", *options])


def refused(root: Path, capsys: Capture, *options: str) -> str:
    assert pack(root, root / "refused", *options) == 1
    return capsys.readouterr().err


IMAGES = {"000005": [DOG, HARD_CAT], "000007": [HARD_PERSON, PERSON], "000009": [HARD_CAT], "000012": []}


@pytest.mark.parametrize(("split", "only_difficult"), [("trainval", 0), ("train", 0), ("test", -1), ("val", -1)])
def test_multilabel_targets(tmp_path: Path, split: str, only_difficult: int) -> None:
    devkit(tmp_path, "2007", split, IMAGES)
    assert pack(tmp_path, tmp_path / "set", "--split", split, "--no-shuffle", "--task", "multilabel") == 0
    records = RecordSet(tmp_path / "set")
    assert records.info.classes == VOC_CLASSES and len(VOC_CLASSES) == 20 and records.info.task == "multilabel"
    expected = np.zeros((4, 20), dtype=np.float32)
    dog, cat, person = (VOC_CLASSES.index(name) for name in ("dog", "cat", "person"))
    expected[0, dog] = expected[1, person] = 1  # one of the persons is not difficult
    expected[0, cat] = expected[2, cat] = only_difficult
    assert np.array_equal(records.labels(np.arange(4)), expected)
    assert list(verify_set(tmp_path / "set")) == []


@pytest.mark.parametrize(
    ("split", "task", "left"),
    [("train", "multilabel", 2), ("test", "multilabel", 2), ("train", "detection", 3)],
)
def test_unlabelled_images_are_dropped_if_requested(tmp_path: Path, split: str, task: str, left: int) -> None:
    devkit(tmp_path, "2007", split, IMAGES)  # in "test" too, an image whose only class is ignored is unlabelled
    listing = LAYOUTS["voc"](tmp_path, split, Options(task=task, unlabelled="drop"))
    assert len(listing.names) == left and listing.report["unlabelled_dropped"] == 4 - left


def test_boxes_are_one_based_and_inclusive(tmp_path: Path) -> None:
    devkit(tmp_path, "2007", "test", IMAGES)
    assert pack(tmp_path, tmp_path / "set", "--split", "test", "--task", "detection") == 0
    found = RecordSet(tmp_path / "set").labels(np.arange(4))
    dog, cat, person = (VOC_CLASSES.index(name) for name in ("dog", "cat", "person"))
    expected: list[list[list[float]]] = [
        [[dog, 0, 0, 1, 1, 0], [cat, 10 / 50, 3 / 30, 20 / 50, 6 / 30, 1]],
        [[person, 1 / 50, 1 / 30, 3 / 50, 3 / 30, 1], [person, 0.5, 0.5, 1, 1, 0]],
        [[cat, 10 / 50, 3 / 30, 20 / 50, 6 / 30, 1]],
        [],
    ]
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one, np.array(other).reshape(-1, 6), atol=1e-6)


def test_one_pixel_box_without_difficult_field(tmp_path: Path) -> None:
    base = devkit(tmp_path, "2007", "test", {"000005": [("dog", (7, 9, 7, 9), 0)]})
    file = base / "Annotations" / "000005.xml"
    file.write_text(file.read_text().replace("<difficult>0</difficult>", ""))
    label = LAYOUTS["voc"](tmp_path, "test", Options(task="detection")).labels[0]
    assert np.allclose(np.asarray(label)[3:], [6 / 50, 8 / 30, 7 / 50, 9 / 30, 0], atol=1e-6)


def test_suspicious_annotations_are_noted(tmp_path: Path, capsys: Capture) -> None:
    """See HCIILAB/SCUT-HEAD-Dataset-Release#4, sovit-123/fasterrcnn-pytorch-training-pipeline#44 and
    xaio6/LabelQuick#13."""
    base = devkit(tmp_path, "2007", "train", {"a.b": [DOG], "c": [("dog", (3, 3, 3, 9), 0), ("dog", (3, 3, 9, 3), 0)]})
    file = base / "Annotations" / "a.b.xml"
    made = file.read_text()
    arguments = ("--task", "detection", "--force", "--no-shuffle")
    for said in ("a.b", "a.b.png", r"C:\\pictures\\a.b.jpg", "/home/me/a.b.JPG", " "):
        file.write_text(made.replace("<folder>", f"<filename>{said}</filename><folder>"))
        assert pack(tmp_path, tmp_path / "set", *arguments) == 0
        assert "filename" not in capsys.readouterr().err
    for said in ("c.jpg", "a.c.jpg", "a", "b/c"):
        file.write_text(made.replace("<folder>", f"<filename>{said}</filename><folder>"))
        assert pack(tmp_path, tmp_path / "set", *arguments) == 0
        printed = capsys.readouterr().err
        assert (
            f"1 annotation names another image in <filename> (first: a.b.xml says {said.rpartition('/')[2]})" in printed
        )
        assert "note: 2 boxes are one pixel wide or high" in printed
    for box in ((30, 20, 15, 9), (30, 1, 15, 9)):  # x, y, width, height
        file.write_text(annotation([("dog", box, 0)]))
        assert "or has swapped corners: are the last two a width and a height? correct it" in refused(tmp_path, capsys)


def test_corners_accept_any_order_and_fractions(tmp_path: Path) -> None:
    """See thtrieu/darkflow#739 and datitran/raccoon_dataset#74."""
    base = devkit(tmp_path, "2007", "train", {"a": []})
    corners = {"ymax": "20.5", "xmin": " 11.0 ", "xmax": "3e1", "ymin": "6.25"}
    box = "".join(f"<{name}>{value}</{name}>" for name, value in corners.items())
    text = f"<bndbox>{box}</bndbox><difficult>0</difficult><name>dog</name>"
    (base / "Annotations" / "a.xml").write_text(f"<annotation><object>{text}</object></annotation>")
    assert pack(tmp_path, tmp_path / "set", "--task", "detection") == 0
    found = RecordSet(tmp_path / "set").labels(np.arange(1))[0][0, 1:5]
    assert np.allclose(found, [10 / WIDTH, 5.25 / HEIGHT, 30 / WIDTH, 20.5 / HEIGHT], atol=1e-6)


def test_several_years_in_one_set(tmp_path: Path, capsys: Capture) -> None:
    devkit(tmp_path, "2007", "trainval", {"000005": [DOG], "000007": [PERSON]})
    devkit(tmp_path, "2012", "trainval", {"2008_000001": [PERSON]})
    error = refused(tmp_path, capsys, "--split", "trainval")
    assert "there are years 2007, 2012: choose, e.g. --years 2007,2012" in error
    both = ["--split", "trainval", "--years", "2007,2012", "--no-shuffle"]
    assert pack(tmp_path, tmp_path / "both", *both) == 0
    assert "VOC2007+2012 trainval has 3 images here, 16,551 as published" in capsys.readouterr().err
    records = RecordSet(tmp_path / "both")
    assert records.labels(np.arange(3))[:, [11, 14]].tolist() == [[1, 0], [0, 1], [0, 1]]
    assert pack(tmp_path / "VOCdevkit", tmp_path / "one", "--split", "trainval", "--years", "2012") == 0
    assert RecordSet(tmp_path / "one").info.count == 1
    error = refused(tmp_path, capsys, "--split", "trainval", "--years", "2010")
    assert "VOC2010: no such folder; choose --years among 2007, 2012" in error
    assert pack(tmp_path / "VOCdevkit" / "VOC2012", tmp_path / "flat", "--split", "trainval") == 0
    devkit(tmp_path, "2009", "trainval", {"2009_000001": [PERSON]})  # its published size is unknown
    listing = LAYOUTS["voc"](tmp_path, "trainval", Options(years=("2007", "2009")))
    assert len(listing.names) == 3 and not listing.report


def test_year_folder_next_to_devkit_is_found(tmp_path: Path) -> None:
    base = devkit(tmp_path, "2007", "trainval", {"000005": [DOG]})
    base.rename(tmp_path / "VOC2007")
    (tmp_path / "VOCdevkit" / "VOCcode").mkdir()
    assert pack(tmp_path, tmp_path / "set", "--split", "trainval") == 0


def test_one_of_several_year_lists_may_be_empty(tmp_path: Path, capsys: Capture) -> None:
    devkit(tmp_path, "2007", "val", {})
    devkit(tmp_path, "2012", "val", {"2008_000001": [PERSON]})
    assert pack(tmp_path, tmp_path / "set", "--split", "val", "--years", "2007,2012") == 0
    assert RecordSet(tmp_path / "set").info.count == 1
    assert "no image found for split 'val'" in refused(tmp_path, capsys, "--split", "val", "--years", "2007")


def test_published_size_gives_no_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devkit(tmp_path, "2007", "test", IMAGES)
    assert "notices" in LAYOUTS["voc"](tmp_path, "test", Options()).report
    monkeypatch.setitem(LAYOUTS["voc"].__globals__["PUBLISHED"], ("2007", "test"), 4)
    assert "notices" not in LAYOUTS["voc"](tmp_path, "test", Options()).report


def test_classes_auto_or_file_replaces_voc_classes(tmp_path: Path, capsys: Capture) -> None:
    base = devkit(tmp_path, "2007", "train", {"a b": [("RBC", (1, 1, 9, 9), 0), ("Platelets", (2, 2, 9, 9), 0)]})
    (base / "JPEGImages" / "a b.jpg").rename(base / "JPEGImages" / "a b.jpeg")
    error = refused(tmp_path, capsys)
    assert (
        "a b.xml: object 1: class 'RBC' is not among the 20 classes of PASCAL VOC" in error
        and "--classes auto" in error
    )
    assert pack(tmp_path, tmp_path / "auto", "--classes", "auto") == 0
    assert RecordSet(tmp_path / "auto").info.classes == ("Platelets", "RBC")
    assert "notices" not in RecordSet(tmp_path / "auto").info.report  # these are not PASCAL's images
    devkit(tmp_path, "2007", "test", {"other": [("RBC", (1, 1, 9, 9), 0)]})
    assert pack(tmp_path, tmp_path / "test", "--classes", "auto", "--split", "test") == 0
    assert RecordSet(tmp_path / "test").info.classes == ("Platelets", "RBC")  # the classes of the training split
    (tmp_path / "names").write_text("RBC\nWBC\nPlatelets\n")
    assert pack(tmp_path, tmp_path / "named", "--classes", str(tmp_path / "names")) == 0
    assert RecordSet(tmp_path / "named").labels(np.arange(1)).tolist() == [[1, 0, 1]]


def test_missing_size_is_read_and_wrong_size_is_refused(tmp_path: Path, capsys: Capture) -> None:
    base = devkit(tmp_path, "2007", "test", {"000005": [PERSON]})
    detection = ["--split", "test", "--task", "detection"]
    file = base / "Annotations" / "000005.xml"
    for size in ("<width>0</width><height>0</height>", "<height>30</height>", "<width>50</width>", ""):
        file.write_text(annotation([PERSON], size))
        assert pack(tmp_path, tmp_path / "set", "--force", *detection) == 0
        assert np.allclose(RecordSet(tmp_path / "set").labels(np.arange(1))[0][0, 1:5], [0.5, 0.5, 1, 1])
    file.write_text(annotation([PERSON], f"<width>{2 * WIDTH}</width><height>{HEIGHT}</height>"))
    error = refused(tmp_path, capsys, *detection)
    assert "000005.jpg: its annotation is for 100x30 pixels but it has 50x30" in error and "test.txt: line 1" in error
    assert "so 33x10 here, but it has 16x10" not in error
    assert "so 33x10 here" in refused(tmp_path, capsys, *detection, "--resize", "10")
    file.write_text(annotation([PERSON]))
    assert pack(tmp_path, tmp_path / "small", *detection, "--resize", "10") == 0


def test_box_beyond_image_is_clipped_or_refused(tmp_path: Path, capsys: Capture) -> None:
    base = devkit(tmp_path, "2007", "test", {"000005": [("dog", (0, 0, 51, 31), 0)]})
    detection = ["--split", "test", "--task", "detection"]
    assert pack(tmp_path, tmp_path / "set", *detection) == 0  # beyond the image by one pixel: clipped
    records = RecordSet(tmp_path / "set")
    assert records.labels(np.arange(1))[0][0, 1:5].tolist() == [0, 0, 1, 1]
    assert records.info.report["clipped_boxes"] == 1
    (base / "Annotations" / "000005.xml").write_text(annotation([("dog", (1, 1, 60, 30), 0)]))
    error = refused(tmp_path, capsys, *detection)
    assert "000005.xml: object 1: the box [0.0, 0.0, 60.0, 30.0]" in error and "leaves the 50x30 image" in error
    (base / "Annotations" / "000005.xml").write_text(annotation([("dog", (1, 1, 1e300, 30), 0)]))
    assert "000005.xml: object 1: the box [0.0, 0.0, 1e+300, 30.0]" in refused(tmp_path, capsys, *detection)


def test_image_is_matched_by_unique_stem(tmp_path: Path, capsys: Capture) -> None:
    """Thumbnails in a subfolder are ignored; two pictures with the same stem are rejected."""
    base = devkit(tmp_path, "2007", "train", {"000005": [DOG]})
    pictures = base / "JPEGImages"
    (pictures / "thumbs").mkdir()
    (pictures / "thumbs" / "000005.jpg").write_bytes(encoded("JPEG", 3, 5))
    assert LAYOUTS["voc"](tmp_path, "train", Options()).names == ["VOCdevkit/VOC2007/JPEGImages/000005.jpg"]
    (pictures / "000005.png").write_bytes(encoded("PNG", HEIGHT, WIDTH))
    names = [f"VOCdevkit/VOC2007/JPEGImages/000005.{suffix}" for suffix in ("jpg", "png")]
    assert f"train.txt: line 1: 000005 may be {names[0]} or {names[1]}: remove" in refused(tmp_path, capsys)
    (pictures / "000005.jpg").unlink()
    assert LAYOUTS["voc"](tmp_path, "train", Options()).names == names[1:]


@pytest.mark.parametrize("task", ["multilabel", "detection"])
def test_archive_packs_like_folder(tmp_path: Path, task: str) -> None:
    devkit(tmp_path / "data", "2007", "test", IMAGES)
    with tarfile.open(tmp_path / "VOCtest_06-Nov-2007.tar", "w") as tar:
        tar.add(tmp_path / "data" / "VOCdevkit", "VOCdevkit")
    for root, out in ((tmp_path / "data", "folder"), (tmp_path / "VOCtest_06-Nov-2007.tar", "tar")):
        assert pack(root, tmp_path / out, "--split", "test", "--task", task) == 0
    assert (tmp_path / "folder.rec").read_bytes() == (tmp_path / "tar.rec").read_bytes()


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
    "<annotation><object><name>&c;</name></object></annotation>"
)
BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<annotation><object>", "not well-formed XML: no element found: line 1"),
        ("", "not well-formed XML"),
        (BOMB, "has a DOCTYPE"),
        (BOMB.replace('"1.0"', '"1.0" encoding="utf-16"').encode("utf-16"), "has a DOCTYPE"),
        ('<?xml version="1.0" encoding="none"?><annotation/>', "unknown encoding"),
        ("<html/>", "its outermost element is <html>, expected <annotation>"),
        (f"<annotation><object>{BOX}</object></annotation>", "object 1: field 'name' is missing"),
        ("<annotation><object><name>dog</name></object></annotation>", "object 1: field 'bndbox/xmin' is None"),
        (annotation([DOG, ("dog", (1, 1, "x", 9), 0)]), "object 2: field 'bndbox/xmax' is 'x', not a number"),
        (annotation([("dog", (1, 1, float("nan"), 9), 0)]), "object 1: field 'bndbox/xmax' is 'nan', not a number"),
        (annotation([("dog", (1, 1, float("inf"), 9), 0)]), "object 1: field 'bndbox/xmax' is 'inf', not a number"),
        (annotation([("dog", (9, 1, 8, 9), 0)]), "object 1: the box [9.0, 1.0, 8.0, 9.0]"),
        (annotation([("dog", (1, 1, 9, 9), 2)]), "object 1: field 'difficult' is 2, expected 0 or 1"),
    ],
)
def test_malformed_annotations_are_refused(tmp_path: Path, capsys: Capture, content: str | bytes, reason: str) -> None:
    base = devkit(tmp_path, "2007", "train", {"000005": [DOG], "000007": [DOG]})
    file = base / "Annotations" / "000007.xml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    error = refused(tmp_path, capsys)
    assert f"{file}: " in error and reason in error


def test_missing_and_duplicate_files_are_named(tmp_path: Path, capsys: Capture) -> None:
    base = devkit(tmp_path, "2007", "train", {"000005": [DOG], "000007": [DOG]})
    listed = base / "ImageSets" / "Main" / "train.txt"
    assert "val.txt: no such file; choose --split among train" in refused(tmp_path, capsys, "--split", "val")
    assert "--split: '../val' is not a path below ImageSets/Main" in refused(tmp_path, capsys, "--split", "../val")
    (base / "JPEGImages" / "000007.jpg").unlink()
    error = refused(tmp_path, capsys)
    assert f"000007.jpg: no such file, listed at {listed}: line 2 (--skip-bad" in error
    assert pack(tmp_path, tmp_path / "set", "--skip-bad") == 0
    (base / "Annotations" / "000007.xml").unlink()
    error = refused(tmp_path, capsys)
    assert f"{listed}: line 2: " in error and "000007.xml: no such file" in error
    listed.write_text("000005\n\n000005\n")
    assert f"{listed}: line 3: 000005 is already listed on line 1" in refused(tmp_path, capsys)
    listed.write_text("..\\..\\000005\n")
    assert f"{listed}: line 1: " in (error := refused(tmp_path, capsys)) and "'..' are refused" in error
    (base / "JPEGImages").rename(base / "moved")
    (base / "ImageSets").rename(base / "lists")  # the missing images are reported first
    assert f"{base / 'JPEGImages'}: no such folder" in refused(tmp_path, capsys)
    (base / "moved").rename(base / "JPEGImages")
    assert "no VOCdevkit/VOC2007 or the like" in refused(base / "JPEGImages", capsys)
    assert "is for --task multilabel or detection" in refused(tmp_path, capsys, "--task", "classification")


def roboflow(root: Path, split: str, images: dict[str, list[Item]]) -> Path:
    """Write SPLIT/NAME.jpg next to SPLIT/NAME.xml, as Roboflow exports them, and return the folder."""
    folder = root / split
    folder.mkdir(parents=True)
    for number, (key, items) in enumerate(images.items()):
        (folder / f"{key}.xml").write_text(annotation(items))
        (folder / f"{key}.jpg").write_bytes(encoded("JPEG", HEIGHT, WIDTH, seed=number))
    (root / "README.roboflow.txt").write_text("")
    return folder


@pytest.mark.parametrize("names", [None, "RBC\nWBC\nPlatelets\n", "auto"])
def test_roboflow_export(tmp_path: Path, capsys: Capture, names: str | None) -> None:
    root = tmp_path / "root"
    box: Item = ("WBC", (6, 4, 25, 15), 0)
    roboflow(root, "train", {"a_jpg.rf.1": [box, ("RBC", (1, 1, 50, 30), 1)], "b_jpg.rf.2": []})
    roboflow(root, "valid", {"c": [("Platelets", (1, 1, 50, 30), 0)]})
    options = ["--split", "train", "--task", "detection", "--no-shuffle"]
    if names:
        (tmp_path / "names").write_text(names)
        options += ["--classes", "auto" if names == "auto" else str(tmp_path / "names")]
    assert pack(root, tmp_path / "set", *options) == 0
    records = RecordSet(tmp_path / "set")
    found = records.info.classes
    assert found == (("RBC", "WBC", "Platelets") if "\n" in (names or "") else ("Platelets", "RBC", "WBC"))
    boxes, none = records.labels(np.arange(2))
    white, red = found.index("WBC"), found.index("RBC")
    assert np.allclose(boxes, [[white, 0.1, 0.1, 0.5, 0.5, 0], [red, 0, 0, 1, 1, 1]], atol=1e-6) and not len(none)
    assert pack(root, tmp_path / "valid", *options[2:], "--split", "valid") == 0
    assert RecordSet(tmp_path / "valid").info.classes == found
    error = refused(root, capsys, "--split", "val")
    assert f"{root / 'val'}: no annotations there; choose --split among train, valid" in error


def test_roboflow_files_without_counterpart_are_refused(tmp_path: Path, capsys: Capture) -> None:
    folder = roboflow(tmp_path, "train", {"a": [("WBC", (6, 4, 25, 15), 0)], "b": []})
    (folder / "b.xml").unlink()
    assert f"{folder / 'b.jpg'}: no .xml file next to it" in refused(tmp_path, capsys)
    (folder / "b.jpg").unlink()
    (folder / "a.png").write_bytes(encoded("PNG", HEIGHT, WIDTH))
    assert f"{folder / 'a.png'}: no .xml file next to it, or another image has it" in refused(tmp_path, capsys)
    (folder / "a.png").unlink()
    (folder / "a.jpg").unlink()
    assert f"{folder / 'a.xml'}: no image next to it; fetch it" in refused(tmp_path, capsys)


LABEL_MAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\nfish:0,0,128::\n"


def test_cvat_export(tmp_path: Path, capsys: Capture) -> None:
    """CVAT's corners start at 0 and exclude the last pixel: cvat-ai/datumaro writes x, y, x + w, y + h."""
    base = devkit(tmp_path, "2007", "default", {"a": [("dog", (5.0, 3.0, 25.0, 15.0), 0)], "b": []})
    base = base.rename(tmp_path / "task")
    (base / "labelmap.txt").write_text(LABEL_MAP)
    command = ["--split", "default", "--task", "detection"]
    assert pack(base, tmp_path / "set", *command) == 0
    records = RecordSet(tmp_path / "set")
    assert records.info.classes == ("cat", "dog", "fish")  # including classes that do not occur in this export
    assert np.allclose(records.labels(np.arange(2))[0], [[1, 0.1, 0.1, 0.5, 0.5, 0]], atol=1e-6)
    assert pack(base, tmp_path / "auto", *command, "--classes", "auto") == 0
    assert RecordSet(tmp_path / "auto").info.classes == ("dog",)
    assert "train.txt: no such file; choose --split among default" in refused(base, capsys)
    (base / "Annotations" / "b.xml").write_text(annotation([("cow", (1, 1, 9, 9), 0)]))
    assert "b.xml: object 1: class 'cow' is not among the 3 classes" in refused(base, capsys, *command)


def unlisted(root: Path, images: str, annotations: str) -> Path:
    """Write a set of twelve images without split lists."""
    for folder in (images, annotations):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(12):
        (root / images / f"{number}.jpg").write_bytes(encoded("JPEG", HEIGHT, WIDTH, seed=number))
        (root / annotations / f"{number}.xml").write_text(annotation([("fish", (1, 1, 10, 10), 0)]))
    return root


FOLDERS = [("JPEGImages", "Annotations"), ("images", "annotations"), (".", ".")]


@pytest.mark.parametrize("folders", FOLDERS)
def test_set_without_lists_is_one_split(tmp_path: Path, capsys: Capture, folders: tuple[str, str]) -> None:
    root = unlisted(tmp_path / "set", *folders)
    assert pack(root, tmp_path / "out", "--task", "detection") == 0
    records = RecordSet(tmp_path / "out")
    assert len(records) == 12 and records.info.classes == ("fish",)
    assert "all 12 images are split train; --val-share 0.2 makes train and val" in capsys.readouterr().err
    (root / folders[1] / "3.xml").rename(root / folders[1] / "lost.xml")
    assert "3.jpg: no .xml file " in (error := refused(root, capsys)) and "remove the image" in error
    (root / folders[0] / "3.jpg").unlink()
    assert "lost.xml: no image " in (error := refused(root, capsys)) and "remove the annotation" in error
    if folders != (".", "."):
        assert f"3.jpg: no .xml file of its name in {root / folders[1]}" not in error
        assert f"lost.xml: no image of its name in {root / folders[0]}" in error


@pytest.mark.parametrize("folders", FOLDERS)
def test_val_share_makes_two_splits(tmp_path: Path, capsys: Capture, folders: tuple[str, str]) -> None:
    root = unlisted(tmp_path / "set", *folders)
    found = []
    for split in ("train", "val"):
        assert pack(root, tmp_path / split, "--task", "detection", "--split", split, "--val-share", "0.25") == 0
        records = RecordSet(tmp_path / split)
        found.append({records.encoded(row).tobytes() for row in range(len(records))})
    assert [len(part) for part in found] == [9, 3] and len(found[0] | found[1]) == 12
    assert "no list of splits" not in capsys.readouterr().err
    assert "--val-share makes the splits train and val" in refused(
        root, capsys, "--split", "test", "--val-share", "0.2"
    )


def test_val_share_divides_train_list(tmp_path: Path) -> None:
    devkit(tmp_path, "2007", "train", {f"{number:06}": [DOG] for number in range(8)})
    for split, count in (("train", 6), ("val", 2)):
        assert pack(tmp_path, tmp_path / split, "--split", split, "--val-share", "0.25") == 0
        assert len(RecordSet(tmp_path / split)) == count


def test_duplicate_object_counts_once(tmp_path: Path, capsys: Capture) -> None:
    devkit(tmp_path, "2007", "train", {"000005": [DOG, DOG, PERSON], "000007": [PERSON, PERSON, PERSON]})
    assert pack(tmp_path, tmp_path / "set", "--task", "detection", "--no-shuffle") == 0
    assert "3 boxes repeat another one of their image and class: left out" in capsys.readouterr().err
    assert [len(label) for label in RecordSet(tmp_path / "set").labels(np.arange(2))] == [2, 1]
