"""Annotation files as other programs write them: sizes nobody needs, encodings, numbers of hundreds of digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_mix.datasets import LAYOUTS, Listing, Options
from dali_mix.datasets.annotations import read_json, read_xml, xml_number
from dali_mix.datasets.trees import FolderTree
from tests.recordio.samples import encoded

HUGE = "1" * 400


def coco(root: Path, task: str, text: str = "", **image: Any) -> Listing:
    (root / "val").mkdir(parents=True, exist_ok=True)
    (root / "val" / "0.jpg").write_bytes(encoded("JPEG", 48, 64))
    (root / "annotations").mkdir(exist_ok=True)
    content = {
        "images": [{"id": 1, "file_name": "0.jpg", **image}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 12, 16, 12]}],
    }
    (root / "annotations" / "instances_val.json").write_text(text or json.dumps(content))
    return LAYOUTS["coco"](root, "val", Options(task=task))


@pytest.mark.parametrize(
    "size",
    [{}, {"height": -1, "width": -1}, {"height": 48.0, "width": 64.0}, {"height": None, "width": None}, {"height": 0},
     {"height": "48", "width": "64"}, {"height": 48.5}, {"height": int(HUGE)}],
)  # fmt: skip
def test_multi_label_needs_no_sizes(tmp_path: Path, size: dict[str, Any]) -> None:
    listing = coco(tmp_path, "multilabel", **size)
    assert np.array(listing.labels).tolist() == [[1]] and listing.sizes is None


@pytest.mark.parametrize("size", [(48, 64), (48.0, 64.0), (48, 64.0)])
def test_boxes_take_whole_numbers_however_written(tmp_path: Path, size: tuple[float, float]) -> None:
    listing = coco(tmp_path, "detection", height=size[0], width=size[1])
    assert listing.sizes == [(48, 64)] and type(listing.sizes[0][1]) is int
    assert np.asarray(listing.labels[0])[3:7].tolist() == [0.125, 0.25, 0.375, 0.5]


@pytest.mark.parametrize("value", [None, -1, 0, 48.5, "48", True, float("inf"), float("nan"), int(HUGE), -0.0])
def test_boxes_need_sizes(tmp_path: Path, value: Any) -> None:
    match = r"images\[0\]: field 'height' is .*a number of pixels \(--task multilabel"
    with pytest.raises(ValueError, match=match) as caught:
        coco(tmp_path, "detection", height=value, width=64)
    assert len(str(caught.value)) < 250 + len(str(tmp_path))


@pytest.mark.parametrize(
    "field", ['"id": 1', '"image_id": 1', '"category_id": 1', '"bbox": [8, 12, 16, 12]', '"height": 48']
)
@pytest.mark.parametrize("number", [HUGE, "-" + HUGE, "1e999", "1" * 5000])
def test_numbers_of_hundreds_of_digits(tmp_path: Path, field: str, number: str) -> None:
    coco(tmp_path, "detection", height=48, width=64)
    text = (tmp_path / "annotations" / "instances_val.json").read_text()
    assert field in text
    changed = field.replace("16", number) if "bbox" in field else f"{field.partition(':')[0]}: {number}"
    with pytest.raises(ValueError, match=r"instances_val\.json: "):
        coco(tmp_path, "detection", text.replace(field, changed, 1))


XML = "<annotation><object><name>{}</name></object></annotation>"


@pytest.mark.parametrize(
    ("encoding", "head", "name"),
    [
        ("utf-8", "", "münze"),
        ("utf-8-sig", "", "münze"),
        ("utf-16", '<?xml version="1.0" encoding="utf-16"?>', "münze"),
        ("latin-1", '<?xml version="1.0" encoding="ISO-8859-1"?>', "münze"),
        ("cp1252", '<?xml version="1.0" encoding="windows-1252"?>', "münze"),
        ("koi8-r", '<?xml version="1.0" encoding="koi8-r"?>', "монета"),
    ],
)
def test_encodings_that_are_read(tmp_path: Path, encoding: str, head: str, name: str) -> None:
    (tmp_path / "a.xml").write_bytes((head + XML.format(name)).encode(encoding))
    assert read_xml(FolderTree(tmp_path), "a.xml", "annotation").findtext("object/name") == name


@pytest.mark.parametrize(
    ("encoding", "head"),
    [
        ("gbk", '<?xml version="1.0" encoding="GBK"?>'),
        ("gb2312", '<?xml version="1.0" encoding="gb2312"?>'),
        ("big5", '<?xml version="1.0" encoding="Big5"?>'),
        ("shift_jis", '<?xml version="1.0" encoding="Shift_JIS"?>'),
        ("utf-8", '<?xml version="1.0" encoding="no-such"?>'),
        ("gbk", '<?xml version="1.0" encoding="utf-8"?>'),
        ("gbk", ""),
    ],
)
def test_encodings_that_are_not(tmp_path: Path, encoding: str, head: str) -> None:
    (tmp_path / "a.xml").write_bytes((head + "\n" + XML.format("中")).encode(encoding))
    with pytest.raises(ValueError, match=r"a\.xml: .*save the file as UTF-8"):
        read_xml(FolderTree(tmp_path), "a.xml", "annotation")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!DOCTYPE a><annotation/>", "has a DOCTYPE.*; remove it"),
        ("<annotation>", "not well-formed XML: .*; fetch it again"),
        ("<other/>", "its outermost element is <other>"),
    ],
)
def test_what_is_wrong_with_xml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.xml: {message}"):
        read_xml(FolderTree(tmp_path), "a.xml", "annotation")


@pytest.mark.parametrize("text", [HUGE, "-" + HUGE, "1" * 5000, "1e999", "nan", "", "seven"])
def test_xml_numbers(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.xml").write_text(f"<annotation><x>{text}</x></annotation>")
    element = read_xml(FolderTree(tmp_path), "a.xml", "annotation")
    with pytest.raises(ValueError, match=r"where: field 'x' is .{0,70}, not a number; correct it$"):
        xml_number(element, "x", "where")


@pytest.mark.parametrize("number", ["1e300", "1048576", HUGE])
def test_a_size_beyond_any_image(tmp_path: Path, number: str) -> None:
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text("0\n")
    (tmp_path / "JPEGImages/0.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / "Annotations/0.xml").write_text(
        f"<annotation><size><height>{number}</height><width>9</width></size></annotation>"
    )
    with pytest.raises(ValueError, match=r"0\.xml: field 'size/height' is .{1,70}, not a number"):
        LAYOUTS["voc"](tmp_path, "val", Options(task="detection"))


def test_json_of_another_encoding(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "a.json").write_bytes('{"a": "münze"}'.encode(encoding))
        assert read_json(FolderTree(tmp_path), "a.json") == {"a": "münze"}
    (tmp_path / "a.json").write_bytes('{"a": "münze"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.json: cannot be read as JSON: byte 8 is not utf-8 text; save the file"):
        read_json(FolderTree(tmp_path), "a.json")
