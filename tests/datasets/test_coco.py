"""COCO annotations in the published layout: targets, boxes, ids and rejected input."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.recordio import RecordSet
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded

Capture = pytest.CaptureFixture[str]
HEIGHT, WIDTH = 30, 50


def image(number: int, split: str) -> dict[str, Any]:
    prefix = f"COCO_{split}_" if split.endswith("2014") else ""
    name = f"{prefix}{number:012d}.jpg"
    return {"license": 1, "file_name": name, "height": HEIGHT, "width": WIDTH, "id": number, "date_captured": ""}


def note(number: int, owner: int, kind: int, box: list[float], crowd: int = 0) -> dict[str, Any]:
    shape: Any = {"counts": [1, 2], "size": [HEIGHT, WIDTH]} if crowd else [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]
    body = {"segmentation": shape, "area": 1.0, "iscrowd": crowd, "image_id": owner}
    return body | {"bbox": box, "category_id": kind, "id": number}


def content(split: str) -> dict[str, Any]:
    """Return annotations of four images.

    In order, they have two objects, a crowd only, no object, and a box without area plus a valid box.
    """
    names = {90: "toothbrush", 1: "person", 18: "dog"}  # neither sorted nor without gaps
    return {
        "info": {"year": 2014},
        "licenses": [],
        "images": [image(number, split) for number in (9, 25, 400000, 30)],
        "annotations": [
            note(1, 25, 1, [0, 0, 50, 30], crowd=1),
            note(2, 9, 90, [5, 3, 10, 6]),
            note(3, 9, 1, [25.5, 15, 24.5, 15.0]),
            note(4, 30, 18, [3, 4, 5, 0]),
            note(5, 30, 18, [40.5, 20, 9.7, 10.2]),  # 0.2 pixels beyond the right and bottom edges
        ],
        "categories": [{"supercategory": "x", "id": key, "name": name} for key, name in names.items()],
    }


def coco(root: Path, split: str = "val2014", **changes: Any) -> Path:
    """Write annotations/instances_SPLIT.json and the images in SPLIT/, and return the path of the JSON file."""
    made = content(split) | changes
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    for number, entry in enumerate(content(split)["images"]):
        (root / split / entry["file_name"]).write_bytes(encoded("JPEG", HEIGHT, WIDTH, seed=number))
    file = root / "annotations" / f"instances_{split}.json"
    file.write_text(json.dumps(made))
    return file


def pack(root: Path, out: Path, *options: str) -> int:
    return main(["pack", "coco", "--root", str(root), "--out", str(out), "--quiet", *options])


def refused(root: Path, capsys: Capture, *options: str) -> str:
    assert pack(root, root / "refused", "--split", "val2014", *options) == 1
    return capsys.readouterr().err


def test_multilabel_targets(tmp_path: Path, capsys: Capture) -> None:
    coco(tmp_path)
    assert pack(tmp_path, tmp_path / "set", "--split", "val2014") == 0
    records = RecordSet(tmp_path / "set")
    assert records.info.task == "multilabel" and records.info.classes == ("person", "dog", "toothbrush")
    assert records.table["id"].tolist() == [9, 25, 30]  # 400000 has no annotation
    assert records.labels(np.arange(3)).tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert records.info.report["unlabelled_dropped"] == 1 and "notices" not in records.info.report
    assert list(verify_set(tmp_path / "set")) == []
    assert pack(tmp_path, tmp_path / "all", "--split", "val2014", "--unlabelled", "keep") == 0
    assert RecordSet(tmp_path / "all").labels(np.array([2])).tolist() == [[0, 0, 0]]
    coco(tmp_path, annotations=[])
    assert "none of the 4 images of split 'val2014' has a label; check" in refused(tmp_path, capsys)


def test_detection_boxes(tmp_path: Path) -> None:
    coco(tmp_path)
    assert pack(tmp_path, tmp_path / "set", "--split", "val2014", "--task", "detection") == 0
    records = RecordSet(tmp_path / "set")
    assert records.table["id"].tolist() == [9, 25, 400000, 30]
    expected: list[list[list[float]]] = [
        [[2, 0.1, 0.1, 0.3, 0.3, 0], [0, 0.51, 0.5, 1, 1, 0]],
        [[0, 0, 0, 1, 1, 1]],
        [],
        [[1, 0.81, 20 / 30, 1, 1, 0]],
    ]
    for one, other in zip(records.labels(np.arange(4)), expected, strict=True):
        assert np.allclose(one, np.array(other).reshape(-1, 6), atol=1e-6)
    report = records.info.report
    assert (report["boxes_over_the_border"], report["boxes_without_area"], report["crowds"]) == (1, 1, 1)
    assert list(verify_set(tmp_path / "set")) == []
    assert (
        pack(tmp_path, tmp_path / "some", *["--split", "val2014"], "--task", "detection", "--unlabelled", "drop") == 0
    )
    assert RecordSet(tmp_path / "some").table["id"].tolist() == [9, 25, 30]


@pytest.mark.parametrize(
    "ids", [(1, 2, 3), (3, 1, 2), (0, 90, 13), (7, 0, 1)], ids=["in order", "another order", "gaps", "id 0"]
)
def test_classes_file_overrides_category_ids(tmp_path: Path, capsys: Capture, ids: tuple[int, ...]) -> None:
    """Splits may number their categories differently (roboflow/supervision#169, facebookresearch/detectron2#1731)."""
    person, dog, unused = ids
    categories = [{"id": unused, "name": "things"}, {"id": person, "name": "person"}, {"id": dog, "name": "dog"}]
    notes = [note(1, 9, dog, [5, 3, 10, 6]), note(2, 25, person, [1, 1, 9, 9]), note(3, 30, dog, [1, 1, 9, 9])]
    coco(tmp_path, categories=categories, annotations=notes)
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nperson\n")
    command = ["--split", "val2014", "--no-shuffle", "--force"]
    assert pack(tmp_path, tmp_path / "set", *command) == 0
    by_id = tuple(name for _, name in sorted(zip(ids, ("person", "dog", "things"), strict=True)))
    assert RecordSet(tmp_path / "set").info.classes == by_id
    assert "note: 1 of 3 classes have no annotation here: 'things' (--classes" in capsys.readouterr().err
    assert pack(tmp_path, tmp_path / "set", *command, "--classes", str(names)) == 0
    records = RecordSet(tmp_path / "set")
    assert records.info.classes == ("cat", "dog", "person")
    assert records.labels(np.arange(3)).tolist() == [[0, 1, 0], [0, 0, 1], [0, 1, 0]]
    assert pack(tmp_path, tmp_path / "set", *command, "--classes", str(names), "--task", "detection") == 0
    boxes = RecordSet(tmp_path / "set").labels(np.arange(4))
    assert [label[:, 0].tolist() for label in boxes] == [[1], [2], [], [1]]
    names.write_text("person\n")
    error = refused(tmp_path, capsys, "--classes", str(names))
    assert "annotations[0]: category 'dog' is not among the 1 names of --classes" in error


def test_boxes_within_tolerance_are_clipped(tmp_path: Path) -> None:
    """A box may exceed the image by one pixel or 1%, whichever is larger.

    It is clipped, or dropped if nothing is left.
    """
    images = [image(9, "val2014") | {"width": 500, "height": 300}]
    boxes = [[-4.9, 0, 20, 302.9], [-0.9, 0, 0.8, 5], [480, 290, 24.9, 12.9]]
    notes = [{k: v for k, v in note(n, 9, 1, box).items() if k != "iscrowd"} for n, box in enumerate(boxes)]
    coco(tmp_path, images=images, annotations=notes)
    listing = LAYOUTS["coco"](tmp_path, "val2014", Options(task="detection"))
    expected = [[0, 0, 0, 15.1 / 500, 1, 0], [0, 480 / 500, 290 / 300, 1, 1, 0]]
    assert np.allclose(np.asarray(listing.labels[0])[2:].reshape(-1, 6), expected, atol=1e-6)
    assert (listing.report["boxes_over_the_border"], listing.report["boxes_without_area"]) == (3, 1)


@pytest.mark.parametrize("box", [[-5.1, 0, 20, 20], [0, -3.1, 20, 20], [480, 0, 25.1, 20], [0, 290, 20, 13.1]])
def test_box_beyond_tolerance_is_refused(tmp_path: Path, box: list[float]) -> None:
    images = [image(9, "val2014") | {"width": 500, "height": 300}]
    coco(tmp_path, images=images, annotations=[note(1, 9, 1, box)])
    with pytest.raises(ValueError, match=r"leaves the 500x300 image"):
        LAYOUTS["coco"](tmp_path, "val2014", Options(task="detection"))


def test_boxes_are_grouped_by_image(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [image(number, "val2014") for number in random.permutation(1000)[:40].tolist()]
    notes = []
    for number in range(300):
        x, y, w, h = (random.uniform(1, [20, 10, 30, 20])).round(2).tolist()
        owner = images[random.integers(40)]["id"]
        notes.append(note(number, owner, [1, 18, 90][random.integers(3)], [x, y, w, h], int(random.integers(2))))
    coco(tmp_path, images=images, annotations=notes)
    listing = LAYOUTS["coco"](tmp_path, "val2014", Options(task="detection"))
    for entry, label in zip(images, listing.labels, strict=True):
        expected: list[float] = [2, 6]
        for item in notes:
            if item["image_id"] == entry["id"]:
                x, y, w, h = item["bbox"]
                kind = [1, 18, 90].index(item["category_id"])
                expected += [kind, x / WIDTH, y / HEIGHT, (x + w) / WIDTH, (y + h) / HEIGHT, item["iscrowd"]]
        assert np.allclose(np.asarray(label), np.minimum(expected, 6), atol=1e-6)


def test_split_and_years_select_annotations(tmp_path: Path, capsys: Capture) -> None:
    coco(tmp_path, "train2014")
    coco(tmp_path, "val2017")
    (tmp_path / "images").mkdir()
    (tmp_path / "val2017").rename(tmp_path / "images" / "val2017")
    for options in (["val"], ["val2017"], ["val", "--years", "2017"], ["val2017", "--years", "2017"]):
        assert pack(tmp_path, tmp_path / "set", "--force", "--split", *options) == 0
    records = RecordSet(tmp_path / "set")
    assert records.info.split == "val2017" and records.info.options["shuffle"] is None
    assert pack(tmp_path, tmp_path / "train", "--split", "train") == 0
    assert RecordSet(tmp_path / "train").info.options["shuffle"] == 0  # train2014 is also a training split
    error = refused(tmp_path, capsys)
    assert "no instances_val2014.json; choose --split among train2014, val2017" in error
    coco(tmp_path, "val2014")
    assert pack(tmp_path, tmp_path / "two", "--split", "val") == 1
    assert "choose --split among val2014, val2017" in capsys.readouterr().err
    assert "one year at a time" in refused(tmp_path, capsys, "--years", "2014,2017")


def test_size_different_from_published_gives_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [{"id": number, "name": f"class {number}"} for number in range(1, 91) if number % 9]
    coco(tmp_path, categories=many, annotations=[note(n, n, 1, [0, 0, 5, 5]) for n in (9, 30, 30)])
    listing = LAYOUTS["coco"](tmp_path, "val2014", Options())
    expected = "val2014 with annotations has 2 images here, 40,137 as published: is it a subset?"
    assert expected in listing.report["notices"]
    monkeypatch.setitem(LAYOUTS["coco"].__globals__["PUBLISHED"], "val2014", 2)
    notices = LAYOUTS["coco"](tmp_path, "val2014", Options()).report["notices"]
    assert [notice for notice in notices if "as published" in notice] == []


def test_file_names_with_folder_or_backslash_are_resolved(tmp_path: Path) -> None:
    images = [image(9, "val2014"), image(25, "val2014"), image(30, "val2014")]
    images[0]["file_name"] = "val2014/" + images[0]["file_name"]
    images[1]["file_name"] = "val2014\\" + images[1]["file_name"]
    coco(tmp_path, images=images)
    names = LAYOUTS["coco"](tmp_path, "val2014", Options()).names
    assert list(names) == [f"val2014/COCO_val2014_{number:012d}.jpg" for number in (9, 25, 30)]


def changed(key: str, row: int, **fields: Any) -> dict[str, Any]:
    entries = [dict(entry) for entry in content("val2014")[key]]
    entries[row] |= fields
    return {key: [{name: value for name, value in entry.items() if value != "gone"} for entry in entries]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": None}, "no list 'images' in it"),
        ({"annotations": {}}, "no list 'annotations' in it"),
        ({"categories": []}, "categories: there are none"),
        (changed("images", 1, id="25"), "images[1]: field 'id' is '25'"),
        (changed("images", 1, id=9), "images[1]: field 'id' is 9, as in images[0] already"),
        (changed("images", 1, id=True), "images[1]: field 'id' is True"),
        (changed("images", 2, file_name="gone"), "images[2]: field 'file_name' is missing"),
        (changed("images", 2, file_name="../x.jpg"), "images[2]: field 'file_name': '../x.jpg' is not a path below"),
        (changed("images", 2, file_name="COCO_val2014_000000000009.jpg"), "images[2]: field 'file_name' is 'val2014/"),
        (changed("images", 0, height=0), "images[0]: field 'height' is 0"),
        (changed("images", 0, height=1 << 20), "images[0]: field 'height' is 1048576"),
        (changed("images", 0, width=5.5), "images[0]: field 'width' is 5.5"),
        (changed("annotations", 3, image_id=7), "annotations[3]: field 'image_id' is 7, but no image has that id"),
        (changed("annotations", 3, category_id=2), "annotations[3]: field 'category_id' is 2, but no category has"),
        (changed("annotations", 0, category_id=None), "annotations[0]: field 'category_id' is None"),
        (changed("annotations", 1, image_id=1 << 70), "annotations[1]: field 'image_id' is 1180591620717411303424"),
        (changed("annotations", 1, bbox=[1, 2, 3]), "annotations[1]: field 'bbox' is [1, 2, 3]"),
        (changed("annotations", 1, bbox=[1, 2, "3", 4]), "'bbox' is [1, 2, '3', 4], expected four finite numbers"),
        (changed("annotations", 1, bbox=[1, 2, -3, 4]), "annotations[1]: field 'bbox' is [1, 2, -3, 4]"),
        (changed("annotations", 4, bbox=[1, float("nan"), 3, 4]), "annotations[4]: field 'bbox' is [1, nan, 3, 4]"),
        (changed("annotations", 4, bbox=[1, 10**400, 3, 4]), "annotations[4]: field 'bbox'"),
        (
            changed("annotations", 1, bbox=[30, 3, 40, 6]),
            "annotations[1]: field 'bbox' [30.0, 3.0, 40.0, 6.0] (x, y, width, height) leaves the",
        ),
        (changed("annotations", 1, iscrowd=2), "annotations[1]: field 'iscrowd' is 2, expected 0 or 1"),
        (changed("categories", 1, name="dog"), "categories[2]: field 'name' is 'dog', as in categories[1] already"),
        (changed("categories", 1, id=18), "categories[2]: field 'id' is 18"),
        (changed("categories", 1, name=" "), "categories[1]: field 'name' is ' '"),
    ],
)
def test_malformed_annotations_are_refused(
    tmp_path: Path, capsys: Capture, changes: dict[str, Any], reason: str
) -> None:
    file = coco(tmp_path, **changes)
    error = refused(tmp_path, capsys, "--task", "detection")
    assert f"{file}: " in error and reason in error


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"images": [', "cannot be read as JSON: Expecting value: line 1 column 13"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[1, 2]", "no list 'categories' in it"),
        ("\xff", "cannot be read as JSON"),
        ('{"categories": [7]}', "categories[0]: field 'id' is None"),
    ],
)
def test_invalid_annotation_file_is_refused(tmp_path: Path, capsys: Capture, text: str, reason: str) -> None:
    file = coco(tmp_path)
    file.write_text(text, encoding="latin-1")
    error = refused(tmp_path, capsys)
    assert f"{file}: " in error and reason in error
    assert gc.isenabled()


def test_missing_files_are_named(tmp_path: Path, capsys: Capture) -> None:
    file = coco(tmp_path)
    lost = tmp_path / "val2014" / "COCO_val2014_000000000025.jpg"
    lost.unlink()
    assert f"{lost}: no such file, listed at {file}: images[1] (--skip-bad" in refused(tmp_path, capsys)
    lost.write_bytes(encoded("JPEG", WIDTH, HEIGHT))  # rotated
    assert "its annotation is for 50x30 pixels but it has 30x50" in refused(tmp_path, capsys, "--task", "detection")
    assert pack(tmp_path, tmp_path / "many", "--split", "val2014") == 0  # without boxes the size does not matter
    (tmp_path / "val2014").rename(tmp_path / "elsewhere")
    assert "val2014: no such folder; unpack the images" in refused(tmp_path, capsys)
    assert "annotations: no such folder" in refused(tmp_path / "elsewhere", capsys)


def roboflow(root: Path, split: str, **changes: Any) -> Path:
    """Write SPLIT/_annotations.coco.json next to its images, as Roboflow exports them, and return its path."""
    names = {0: ("animals", "none"), 1: ("cat", "animals"), 2: ("dog", "animals")}
    file = root / split / "_annotations.coco.json"
    file.parent.mkdir(parents=True)
    images = [{"id": n, "license": 1, "file_name": f"{n}_jpg.rf.8f.jpg", "height": 30, "width": 50} for n in (0, 1)]
    for entry in images:
        (file.parent / str(entry["file_name"])).write_bytes(encoded("JPEG", HEIGHT, WIDTH))
    made = {
        "images": images,
        "annotations": [note(0, 0, 2, [5, 3, 10, 6]), note(1, 0, 1, [0, 0, 50, 30])],
        "categories": [{"id": key, "name": name, "supercategory": above} for key, (name, above) in names.items()],
    }
    file.write_text(json.dumps(made | changes))
    return file


def test_roboflow_export(tmp_path: Path, capsys: Capture) -> None:
    roboflow(tmp_path, "train")
    roboflow(tmp_path, "valid")
    for split in ("train", "valid"):
        assert pack(tmp_path, tmp_path / "set", "--split", split, "--task", "detection", "--no-shuffle", "--force") == 0
        records = RecordSet(tmp_path / "set")
        assert records.info.classes == ("cat", "dog") and records.table["id"].tolist() == [0, 1]
        boxes, none = records.labels(np.arange(2))
        assert np.allclose(boxes, [[1, 0.1, 0.1, 0.3, 0.3, 0], [0, 0, 0, 1, 1, 0]], atol=1e-6) and not len(none)
        said = capsys.readouterr().err
        assert "note: category 0, 'animals', is the parent of the others and has no annotation: it is not a" in said
    error = refused(tmp_path, capsys)
    assert "val2014/_annotations.coco.json: no such file; choose --split among train, valid" in error


@pytest.mark.parametrize(
    ("categories", "classes"),
    [
        ([(0, "dog", "none"), (1, "dog", "dog"), (2, "cat", "dog")], ("dog", "cat")),  # the parent shares a name
        ([(0, "cat", "none"), (1, "dog", "none"), (2, "cow", "none")], ("cat", "dog", "cow")),  # no parent
        ([(0, "cat", "cat"), (1, "dog", "pet"), (2, "cow", "pet")], ("cat", "dog", "cow")),  # its own parent
        ([(3, "pets", "none"), (1, "dog", "pets"), (2, "cow", "pets")], ("dog", "cow", "pets")),  # the id is not 0
    ],
)
def test_only_unused_parent_category_is_left_out(
    tmp_path: Path, categories: list[tuple[int, str, str]], classes: tuple[str, ...]
) -> None:
    """See roboflow/rf-detr#1303 and roboflow/rf-detr#609."""
    entries = [{"id": key, "name": name, "supercategory": above} for key, name, above in categories]
    roboflow(tmp_path, "train", categories=entries)
    assert LAYOUTS["coco"](tmp_path, "train", Options()).classes == classes


def test_category_error_uses_index_in_file(tmp_path: Path, capsys: Capture) -> None:
    entries = [{"id": key, "name": name, "supercategory": "pets"} for key, name in enumerate(["pets", "cat", "cat"])]
    roboflow(tmp_path, "train", categories=[entries[0] | {"supercategory": "none"}, *entries[1:]])
    error = refused(tmp_path, capsys, "--split", "train")
    assert "categories[2]: field 'name' is 'cat', as in categories[1] already" in error


def test_file_without_annotations_gives_note(tmp_path: Path, capsys: Capture) -> None:
    roboflow(tmp_path, "train", annotations=[])
    assert pack(tmp_path, tmp_path / "set", "--split", "train", "--task", "detection") == 0
    assert "note: no image has an annotation here; is it the right file?" in capsys.readouterr().err


def test_parent_category_with_annotations_is_a_class(tmp_path: Path) -> None:
    roboflow(tmp_path, "train", annotations=[note(0, 0, 0, [5, 3, 10, 6])])
    assert LAYOUTS["coco"](tmp_path, "train", Options()).classes == ("animals", "cat", "dog")


@pytest.mark.parametrize(
    ("folder", "prefix"),
    [
        ("images/default", ""),
        ("images", ""),
        ("default", ""),
        ("images/default", "default/"),
        ("images", "images/"),
    ],
)
def test_cvat_export(tmp_path: Path, capsys: Capture, folder: str, prefix: str) -> None:
    images = [image(number, "default") for number in (9, 25, 30)]
    coco(tmp_path, "default", images=[{**one, "file_name": prefix + one["file_name"]} for one in images])
    (tmp_path / "default").rename(tmp_path / "aside")
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    (tmp_path / "aside").rename(tmp_path / folder)
    assert pack(tmp_path, tmp_path / "set", "--split", "default", "--task", "detection") == 0
    assert RecordSet(tmp_path / "set").table["id"].tolist() == [9, 25, 30]
    assert pack(tmp_path, tmp_path / "no") == 1  # the default is --split train
    assert "no instances_train.json; choose --split among default" in capsys.readouterr().err
    (tmp_path / folder).rename(tmp_path / "aside")
    assert pack(tmp_path, tmp_path / "no", "--split", "default") == 1
    assert f"{tmp_path / 'default'}: no such folder; unpack the images of default there" in capsys.readouterr().err


def test_wrong_image_size_is_reported_before_its_box(tmp_path: Path, capsys: Capture) -> None:
    images = [{**entry, "width": 20, "height": 15} for entry in content("val2014")["images"]]
    file = coco(tmp_path, images=images)
    error = refused(tmp_path, capsys, "--task", "detection")
    assert f"{file}: images[1]: fields 'width' and 'height' are 20x15, but val2014/COCO_val2014_000000000025" in error
    assert ".jpg is 50x30: correct that first. " in error


def test_boxes_given_as_corners_get_a_hint(tmp_path: Path, capsys: Capture) -> None:
    notes = [note(1, 25, 1, [0, 0, 50, 30]), note(2, 9, 90, [30, 20, 48, 28])]
    coco(tmp_path, annotations=notes)
    error = refused(tmp_path, capsys, "--task", "detection")
    assert "leaves the 50x30 image" in error and "if these are x1, y1, x2, y2, make the last two a width" in error
    coco(tmp_path, annotations=[note(2, 9, 90, [45, 20, 20, 9])])
    assert "x1, y1, x2, y2" not in refused(tmp_path, capsys, "--task", "detection")


def test_duplicate_box_counts_once(tmp_path: Path, capsys: Capture) -> None:
    box = [5, 3, 10, 6]
    notes = [note(1, 9, 90, box), note(2, 9, 90, box), note(3, 9, 1, box), note(4, 9, 90, box, crowd=1)]
    coco(tmp_path, annotations=notes)
    assert pack(tmp_path, tmp_path / "set", "--split", "val2014", "--task", "detection", "--no-shuffle") == 0
    assert "1 box repeats another one of its image" in capsys.readouterr().err
    assert len(RecordSet(tmp_path / "set").labels(np.arange(1))[0]) == 3


def test_missing_field_is_distinguished_from_null(tmp_path: Path, capsys: Capture) -> None:
    entries = content("val2014")["images"]
    coco(tmp_path, images=[{key: value for key, value in entries[0].items() if key != "file_name"}, *entries[1:]])
    assert "images[0]: field 'file_name' is missing, expected a file's name" in refused(tmp_path, capsys)
    coco(tmp_path, images=[{**entries[0], "file_name": None}, *entries[1:]])
    assert "images[0]: field 'file_name' is None, expected a file's name" in refused(tmp_path, capsys)
