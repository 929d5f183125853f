"""All mistakes in the annotations are reported together before packing starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dali_mix.datasets import LAYOUTS, Listing, Options, pack, packing
from dali_mix.datasets.mistakes import Mistakes
from dali_mix.recordio import RecordSet
from tests.datasets.files import archived, write_jpegs
from tests.datasets.test_nus_wide import nus_wide
from tests.datasets.test_vg500 import vg500
from tests.datasets.test_wider import wider

SIZE = "<size><width>64</width><height>48</height></size>"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def voc_object(name: str = "cat", corners: tuple[object, ...] = (5, 6, 20, 18)) -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


def voc(root: Path) -> dict[str, Any]:
    objects = {
        "good": voc_object(),
        "two": voc_object("ct") + voc_object(corners=(5, 6, 300, 18)) + voc_object(corners=(5, "nan", 20, 18)),
        "turned": voc_object(corners=(20, 6, 5, 18)),
        "torn": "<object>",
        "unnamed": voc_object(""),
        "lost": voc_object(),
    }
    for name, text in objects.items():
        write(root / "Annotations" / f"{name}.xml", f"<annotation>{SIZE}{text}</annotation>")
        if name != "lost":
            write_jpegs(root, f"JPEGImages/{name}.jpg")
    write_jpegs(root, "JPEGImages/bare.jpg")
    write(root.parent / "names", "cat\ndog\n")
    return {"layout": "voc", "task": "detection", "classes": root.parent / "names"}


VOC = (
    "two.xml: object 1: class 'ct' is not among the 2 classes",
    "two.xml: object 2: the box [4.0, 5.0, 300.0, 18.0] (x1, y1, x2, y2 in pixels) leaves the 64x48 image",
    "two.xml: object 3: field 'bndbox/ymin' is 'nan', not a number",
    "turned.xml: object 1: the box [20.0, 6.0, 5.0, 18.0] (xmin, ymin, xmax, ymax) is empty or has swapped corners",
    "torn.xml: not well-formed XML",
    "unnamed.xml: object 1: field 'name' is missing or empty",
    "lost.xml: no image",
    "bare.jpg: no .xml file",
)


def voc_lists(root: Path) -> dict[str, Any]:
    for name in ("a", "b", "c"):
        write_jpegs(root, f"VOCdevkit/VOC2007/JPEGImages/{name}.jpg")
        write(root / f"VOCdevkit/VOC2007/Annotations/{name}.xml", f"<annotation>{SIZE}{voc_object()}</annotation>")
    (root / "VOCdevkit/VOC2007/JPEGImages/c.jpg").unlink()
    write(root / "VOCdevkit/VOC2007/ImageSets/Main/train.txt", "a\nb\na\n../d\nc\nnone\n")
    return {"layout": "voc"}


VOC_LISTS = (
    "train.txt: line 3: a is already listed on line 1",
    "train.txt: line 4: '../d' is not a path below",
    "c.jpg: no",
    "train.txt: line 6: ",
)


def coco(root: Path) -> dict[str, Any]:
    images = [{"id": row, "file_name": f"{row}.jpg", "width": 64, "height": 48} for row in range(9)]
    images[1]["width"] = "wide"
    images[2]["file_name"] = "../2.jpg"
    images[3]["id"] = "3"
    images[6]["file_name"] = "5.jpg"
    boxes: list[Any] = [[5, 6, 9, 9], [5, 6, 9, 9], [5, 6, 9, 9], [5, 6, 900, 9], [5, 6, -9, 9], "box"]
    notes = [
        {"image_id": row, "category_id": 1, "bbox": box} for row, box in zip([0, 1, 2, 4, 5, 8], boxes, strict=True)
    ]
    notes += [
        {"image_id": 0, "category_id": 7, "bbox": [5, 6, 9, 9]},
        {"image_id": 77, "category_id": 1, "bbox": boxes[0]},
    ]
    for row in (0, 1, 2, 3, 4, 5, 8):
        write_jpegs(root, f"train/{row}.jpg")
    content = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "cat"}]}
    write(root / "train" / "_annotations.coco.json", json.dumps(content))
    return {"layout": "coco", "task": "detection"}


COCO = (
    "images[1]: field 'width' is 'wide'",
    "images[2]: field 'file_name': '../2.jpg' is not a path below",
    "images[3]: field 'id' is '3', expected an integer",
    "images[6]: field 'file_name' is 'train/5.jpg', as in images[5] already",
    "7.jpg: no",  # "no such file" or "not in the archive"
    "annotations[3]: field 'bbox' [5.0, 6.0, 900.0, 9.0] (x, y, width, height) leaves the 64x48 image",
    "annotations[4]: field 'bbox' is [5, 6, -9, 9]",
    "annotations[5]: field 'bbox' is 'box'",
    "annotations[6]: field 'category_id' is 7, but no category has that id",
    "annotations[7]: field 'image_id' is 77, but no image has that id",
)


def yolo(root: Path) -> dict[str, Any]:
    labels = {"good": "0 .5 .5 .2 .2", "bad": "0 .9 .5 .5 .2\n0 .5 .5 .2 .2\n5 .5 .5 .2 .2\n0 nan .5 .2 .2\n0 .5 .5\n"}
    for name, text in labels.items():
        write_jpegs(root, f"images/train/{name}.jpg")
        write(root / "labels" / "train" / f"{name}.txt", text)
    lines = ["images/train/good.jpg", "images/train/bad.jpg", "images/train/lost.jpg", "images/train/good.jpg"]
    write(root / "train.txt", "\n".join(lines))
    write(root / "data.yaml", "train: train.txt\nnames: [cat, dog]\n")
    return {"layout": "yolo"}


YOLO = (
    "bad.txt: line 1: the box 0.65, 0.4, 1.15, 0.6",
    "bad.txt: line 3: class 5 is out of range",
    "bad.txt: line 4: '0 nan .5 .2 .2' has a number that is not finite",
    "bad.txt: line 5: 3 numbers where a box has 5",
    "train.txt: line 4: images/train/good.jpg is already listed in",
    "lost.jpg: no",
)


def csv(root: Path) -> dict[str, Any]:
    write_jpegs(root, "a.jpg", "b.jpg", "c.jpg")
    rows = "0,a.jpg,cat\n1,b.jpg,cow\n2,b.jpg\nx,c.jpg,cat\n3,lost.jpg,dog\n4,../c.jpg,dog\n5,c.jpg,\n0,c.jpg,dog\n"
    write(root / "train.csv", "id,path,label\n" + rows + "6,a.jpg,dog\n")
    write(root.parent / "names", "cat\ndog\n")
    return {"layout": "list", "classes": root.parent / "names", "list": root / "train.csv"}


CSV = (
    "line 3: class 'cow' is not among the 2 classes",
    "line 4: 2 fields where the header has 3",
    "line 5: id 'x' is not an integer",
    "lost.jpg: no",
    "line 7: '../c.jpg' is not a path below",
    "line 8: the label is empty",
    "line 9: id 0 is also the id of",
    "line 10: a.jpg has another label in line 2",
)


def multilabel(root: Path) -> dict[str, Any]:
    write_jpegs(root, "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    write(root / "train.txt", "a.jpg\t1\nb.jpg\t1\t0\nc.jpg\t1\tcat\nd.jpg\t1\t7\ne.jpg\tnan\t0\n")
    return {"layout": "list", "list": root / "train.txt"}


MULTILABEL = (
    "line 1: 1 label fields, expected 2 as in most rows",  # the first row does not determine the expected number
    "line 3: label 'cat' is not a number",
    "line 4: label field 2 is 7.0",
    "line 5: label nan is not a finite number",
)


def boxes(root: Path) -> dict[str, Any]:
    write_jpegs(root, "0.jpg", "1.jpg", "2.jpg", "3.jpg")
    good, beyond, turned = [0, 0.1, 0.1, 0.5, 0.5], [0, 0.1, 0.1, 1.5, 0.5], [0, 0.5, 0.1, 0.1, 0.5]
    entries = [[good], [beyond, good, turned], [[0, 1, 2]], [[0, 5, 6, 20, 18]]]
    lines = [json.dumps({"path": f"{row}.jpg", "boxes": entry}) for row, entry in enumerate(entries)]
    write(root / "train.jsonl", "\n".join([*lines, "{", "5"]))
    return {"layout": "list", "list": root / "train.jsonl"}


BOXES = (
    "line 2: object 1: the box [2.0, 1.2, 30.0, 6.0] (x1, y1, x2, y2 in pixels) leaves the 20x12 image by more than a",
    "line 2: object 3: the box x 0.5..0.1, y 0.1..0.5 is empty, has swapped corners",
    "line 3: box 1: expected [class, x1, y1, x2, y2]",
    "line 4: object 1: the box 5, 6, 20, 18 (x1, y1, x2, y2) is beyond 0..1: are these pixels?",
    "line 5: not JSON",
    'line 6: expected {"path"',
)


def class_folders(root: Path) -> dict[str, Any]:
    write_jpegs(root, "train/cat/a.jpg")
    for name in ("dog", "emu"):
        write(root / "train" / name / "notes.txt", "")
    return {"layout": "imagefolder"}


CLASS_FOLDERS = ("dog: a class folder without images", "emu: a class folder without images")


def imagenet_val(root: Path) -> dict[str, Any]:
    write_jpegs(root, "val/a.jpg", "val/b.jpg", "val/c.jpg")
    write(root / "val.txt", "a.jpg n01440764\nb.jpg\na.jpg n01440764\nd.jpg n01440764\n")
    return {"layout": "imagenet-val", "split": "val"}


IMAGENET_VAL = (
    "line 2 is 'b.jpg': expected `file label`",
    "line 3: a.jpg is listed twice",
    "no label for val/c.jpg",
    "d is listed, but not among the images",
)


def tiny_imagenet(root: Path) -> dict[str, Any]:
    write_jpegs(root, "val/images/a.jpg")
    write(root / "wnids.txt", "n1\nn2\n")
    write(root / "val/val_annotations.txt", "a.jpg\tn1\nb.jpg\tn3\na.jpg\tn2\nlost.jpg\tn1\n")
    return {"layout": "tiny-imagenet", "split": "val"}


TINY = ("line 2 is 'b.jpg\\tn3'", "line 3: a.jpg is listed twice", "lost.jpg: no")


def nus(root: Path) -> dict[str, Any]:
    nus_wide(root)
    (root / "Flickr" / "actor" / "0001_2124494179.jpg").unlink()
    with (root / "ImageList" / "TrainImagelist.txt").open("a") as file:
        file.write("actor\\7.jpg\nactor\\0001_2124494179.jpg\n")
    (root / "Flickr" / "actor" / "7.jpg").write_bytes(b"")
    write(root / "Groundtruth/AllLabels/Labels_zebra.txt", "1\n" * 4 + "x\n")
    return {"layout": "nus-wide"}


NUS = ("line 4: actor/7.jpg is not in Imagelist.txt", "line 5: ", "label 5 is 'x'", "0001_2124494179.jpg: no")


def vg(root: Path) -> dict[str, Any]:
    vg500(root)
    (root / "VG_100K" / "2.jpg").unlink()
    with (root / "ssgrl_partition" / "train_list_500.txt").open("a") as file:
        file.write("1.jpg\n77.jpg\n")
    write_jpegs(root, "VG_100K/77.jpg")
    index = root / "vg_category_500_labels_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"1.jpg": [500]}))
    return {"layout": "vg500"}


VG = (
    "2.jpg: no",
    "line 4: 1.jpg is already listed on line 2",
    "line 5: 77.jpg has no entry",
    "1.jpg: [500] is not a list",
)


def attributes(root: Path) -> dict[str, Any]:
    wider(root)
    file = root / "Annotations" / "wider_attribute_trainval.json"
    content = json.loads(file.read_text())
    people = content["images"][0]["targets"]
    people[0]["attribute"][3] = 2
    people[1]["bbox"] = [1, 2, 3]
    content["images"].append({"file_name": "train/0--Parade/lost.jpg", "targets": [people[1] | {"bbox": [1, 2, 3, 4]}]})
    content["images"].append({"file_name": "train/0--Parade/a.jpg"})
    file.write_text(json.dumps(content))
    return {"layout": "wider", "split": "trainval"}


WIDER = (
    "images[0]: targets[0]: field 'attribute'",
    "images[0]: targets[1]: field 'bbox' is [1, 2, 3]",
    "lost.jpg: no",
    "images[3]: field 'file_name' is 'train/0--Parade/a.jpg', as in images[0] already",
    "images[3]: no list 'targets'",
)

SETS: dict[str, tuple[Callable[[Path], dict[str, Any]], tuple[str, ...]]] = {
    "voc": (voc, VOC),
    "voc with lists": (voc_lists, VOC_LISTS),
    "coco": (coco, COCO),
    "yolo": (yolo, YOLO),
    "csv": (csv, CSV),
    "multilabel": (multilabel, MULTILABEL),
    "boxes": (boxes, BOXES),
    "imagefolder": (class_folders, CLASS_FOLDERS),
    "imagenet-val": (imagenet_val, IMAGENET_VAL),
    "tiny-imagenet": (tiny_imagenet, TINY),
    "nus-wide": (nus, NUS),
    "vg500": (vg, VG),
    "wider": (attributes, WIDER),
}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("name", SETS)
def test_all_mistakes_are_reported_together(tmp_path: Path, name: str, packed: bool) -> None:
    make, mistakes = SETS[name]
    root = tmp_path / "root"
    options = make(root)
    source = archived(root, tmp_path / "root.zip") if packed else root
    with pytest.raises(ValueError) as refused:
        pack(**options, root=source, out=tmp_path / "set")
    head, *lines = str(refused.value).split("\n  ")
    assert head == f"{len(mistakes)} mistakes in the data set, nothing was packed:" and len(lines) == len(mistakes)
    for mistake in mistakes:
        assert sum(mistake in line for line in lines) == 1, mistake
    assert not list(tmp_path.glob("set*"))


def list_with_bad_rows(root: Path, bad: int) -> dict[str, Any]:
    names = [f"{row}.jpg" for row in range(bad + 1)]
    write_jpegs(root, *names)
    write(
        root / "train.csv", "path,label\n" + "".join(f"{name},{'cat' * (row == 0)}\n" for row, name in enumerate(names))
    )
    return {"layout": "list", "root": root, "out": root.parent / "set"}


@pytest.mark.parametrize("bad", [1, 3, 20, 21, 1000])
def test_first_twenty_mistakes_are_shown(tmp_path: Path, bad: int) -> None:
    with pytest.raises(ValueError) as refused:
        pack(**list_with_bad_rows(tmp_path / "root", bad))
    lines = str(refused.value).split("\n  ")
    texts = [f"{tmp_path}/root/train.csv: line {row + 3}: the label is empty: give its class, or" for row in range(bad)]
    shown = lines if bad == 1 else lines[1:]
    assert all(line.startswith(text) for line, text in zip(shown[:20], texts, strict=False))
    if bad > 1:
        assert lines[0].startswith(f"{bad:,} mistakes")
    assert len(shown) == min(bad, 20) + (bad > 20)
    assert bad <= 20 or shown[20] == f"… and {bad - 20:,} more"


def test_missing_images_are_reported_or_skipped(tmp_path: Path) -> None:
    options = list_with_bad_rows(tmp_path / "root", 0)
    with (tmp_path / "root" / "train.csv").open("a") as file:
        file.write("x/lost.jpg,dog\nlost.jpg,dog\n")
    with pytest.raises(
        ValueError, match=r"^2 mistakes(.*\n.*lost\.jpg: no such file, listed at .*skip_bad=True leaves){2}"
    ):
        pack(**options)
    info = pack(**options, skip_bad=True)
    assert [entry["file"] for entry in info.report["skipped"]] == ["lost.jpg", "x/lost.jpg"]


@pytest.mark.parametrize("name", ["caf\u00e9.jpg", "cafe\u0301.jpg"])
def test_image_name_matches_in_other_unicode_form(tmp_path: Path, name: str) -> None:
    write_jpegs(tmp_path / "root", name)
    write(tmp_path / "root" / "train.csv", "path,label\ncaf\u00e9.jpg,cat\n")
    for number, source in enumerate((tmp_path / "root", archived(tmp_path / "root", tmp_path / "root.zip"))):
        info = pack("list", root=source, list=tmp_path / "root" / "train.csv", out=tmp_path / f"set{number}")
        assert info.count == 1


# The rarer kind of label is the mistake; the other labels must not be reported.
@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["cat", "dog", "cat", "7"], None, "line 4: label '7' is a number, most are names"),
        (["0", "1", "0", "cat"], None, "line 4: label 'cat' is not a number"),
        (["cat", "dog", "cat", "7"], ["cat", "dog"], "line 4: class '7' is not among the 2 classes"),
        (["0", "1", "0", "cow"], ["cat", "dog"], "line 4: class 'cow' is not among the 2 classes"),
        (["0", "1", "0", "cat"], ["cat", "dog"], "line 4: label 'cat' is not a number"),
        (["cat", "dog", "cat", "dog\textra"], None, "line 4: 2 label fields where a class has one"),
        (["2\t5\t0\t.1\t.1\t.5\t.5", "2\t5", "0\t.1\t.1\t.5\t.5"], None, "line 3: not a detection label"),
    ],
)
def test_one_wrong_label_is_one_mistake(
    tmp_path: Path, labels: list[str], classes: list[str] | None, message: str
) -> None:
    names = [f"{row}.jpg" for row in range(len(labels))]
    write_jpegs(tmp_path / "root", *names)
    rows = (f"{name}\t{label}\n" for name, label in zip(names, labels, strict=True))
    write(tmp_path / "root" / "train.txt", "".join(rows))
    with pytest.raises(ValueError) as refused:
        pack("list", root=tmp_path / "root", out=tmp_path / "set", classes=classes)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_repeated_unknown_class_is_one_mistake(tmp_path: Path) -> None:
    for row in range(4):
        write_jpegs(tmp_path / "voc", f"{row}.jpg")
        write(tmp_path / "voc" / f"{row}.xml", f"<annotation>{SIZE}{voc_object('cow' if row else 'emu')}</annotation>")
    write_jpegs(tmp_path / "list", "0.jpg", "1.jpg", "2.jpg", "3.jpg")
    write(tmp_path / "list" / "train.csv", "path,label\n0.jpg,emu\n1.jpg,cow\n2.jpg,cow\n3.jpg,cow\n")
    content = {
        "images": [{"id": 0, "file_name": "0.jpg"}],
        "annotations": [{"image_id": 0, "category_id": kind} for kind in (1, 2, 2, 2)],
        "categories": [{"id": 1, "name": "emu"}, {"id": 2, "name": "cow"}],
    }
    write_jpegs(tmp_path / "coco", "train/0.jpg")
    write(tmp_path / "coco" / "train" / "_annotations.coco.json", json.dumps(content))
    places = {"voc": ("1.xml: object 1: ", "objects"), "list": ("line 3: ", "rows"), "coco": ("[1]: ", "annotations")}
    for layout, (place, unit) in places.items():
        with pytest.raises(ValueError, match=r"^2 mistakes .*\n.* 'emu' is not .*\n.* 'cow' is not ") as refused:
            pack(layout, root=tmp_path / layout, out=tmp_path / "set", classes=["cat", "dog"])
        emu, cow = str(refused.value).splitlines()[1:]
        assert place in cow and f"(as in 2 more {unit})" in cow and "as in" not in emu


def test_wrong_size_is_reported_once_per_image(tmp_path: Path) -> None:
    write_jpegs(tmp_path / "root", "train/0.jpg")
    content = {
        "images": [{"id": 0, "file_name": "0.jpg", "width": 6, "height": 4}],
        "annotations": [{"image_id": 0, "category_id": 1, "bbox": [at, 6, 9, 9]} for at in range(3)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    write(tmp_path / "root" / "train" / "_annotations.coco.json", json.dumps(content))
    with pytest.raises(ValueError, match=r"^\S+: images\[0\]: fields 'width' and 'height' are 6x4, but .* is 20x12"):
        pack("coco", root=tmp_path / "root", out=tmp_path / "set", task="detection")


def test_layout_called_directly_raises_first_mistake(tmp_path: Path) -> None:
    options = csv(tmp_path / "root")
    with pytest.raises(ValueError, match=r"train\.csv: line 4: 2 fields") as refused:
        LAYOUTS["list"](tmp_path / "root", "train", Options(list_file=options["list"]))
    assert "\n" not in str(refused.value)


def test_custom_layout_collects_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def layout(root: Path, split: str, options: Options) -> Listing:
        for row in range(3):
            with options.mistakes:
                if row:
                    raise ValueError(f"row {row} is wrong")
        raise ValueError("no image: errors caused by mistakes are not reported with them")

    monkeypatch.setitem(packing.LAYOUTS, "mine", layout)
    with pytest.raises(ValueError, match=r"^2 mistakes .*:\n  row 1 is wrong\n  row 2 is wrong$"):
        pack("mine", root=tmp_path, out=tmp_path / "set")


def test_duplicate_mistake_counts_once() -> None:
    mistakes = Mistakes()
    with pytest.raises(ValueError, match=r"^a: wrong$"), mistakes.together(images=True):
        for _ in range(2):
            mistakes.add(ValueError("a: wrong"))
    with pytest.raises(ValueError, match=r"^b: wrong$"):  # outside the block it is raised immediately
        mistakes.add(ValueError("b: wrong"))


def test_other_errors_are_not_collected() -> None:
    mistakes = Mistakes()
    with pytest.raises(KeyError), mistakes.together(images=True), mistakes:
        raise KeyError("a bug")
    assert mistakes.count == 0


def test_set_without_mistakes_is_packed(tmp_path: Path) -> None:
    pack(**list_with_bad_rows(tmp_path / "root", 0))
    assert len(RecordSet(tmp_path / "set")) == 1


def test_null_file_name_without_split_folder_is_refused(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 0, "file_name": None}, {"id": 1, "file_name": "b.jpg"}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    write_jpegs(tmp_path / "root", "images/b.jpg")
    write(tmp_path / "root" / "annotations" / "instances_train.json", json.dumps(content))
    with pytest.raises(ValueError, match=r"^\S+: images\[0\]: field 'file_name' is None, expected a file's name$"):
        pack("coco", root=tmp_path / "root", out=tmp_path / "set")


def test_class_without_column_is_one_mistake(tmp_path: Path) -> None:
    write_jpegs(tmp_path / "root", "a.jpg", "b.jpg")
    write(tmp_path / "root" / "train.csv", "path,cat,dog\na.jpg,1,0\nb.jpg,0,1\n")
    with pytest.raises(ValueError, match=r"^\S+: line 2: class 'emu' of classes has no column; correct one$"):
        pack("list", root=tmp_path / "root", out=tmp_path / "set", classes=["emu", "dog", "cat"])
