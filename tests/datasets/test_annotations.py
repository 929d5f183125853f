"""XML and JSON annotations that are malformed or in unusual encodings."""

from __future__ import annotations

from pathlib import Path

import pytest

from dali_mix.datasets import LAYOUTS, Options
from dali_mix.datasets.annotations import read_json, read_xml, xml_number
from dali_mix.datasets.trees import FolderTree
from tests.recordio.samples import encoded

HUGE = "1" * 400


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
def test_read_xml_accepts_supported_encodings(tmp_path: Path, encoding: str, head: str, name: str) -> None:
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
def test_read_xml_refuses_unsupported_or_wrong_encodings(tmp_path: Path, encoding: str, head: str) -> None:
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
def test_read_xml_names_file_and_problem(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.xml: {message}"):
        read_xml(FolderTree(tmp_path), "a.xml", "annotation")


@pytest.mark.parametrize("text", [HUGE, "-" + HUGE, "1" * 5000, "1e999", "nan", "", "seven"])
def test_xml_number_refuses_invalid_numbers(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.xml").write_text(f"<annotation><x>{text}</x></annotation>")
    element = read_xml(FolderTree(tmp_path), "a.xml", "annotation")
    with pytest.raises(ValueError, match=r"where: field 'x' is .{0,70}, not a number; correct it$"):
        xml_number(element, "x", "where")


@pytest.mark.parametrize("number", ["1e300", "1048576", HUGE])
def test_voc_refuses_impossible_image_size(tmp_path: Path, number: str) -> None:
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text("0\n")
    (tmp_path / "JPEGImages/0.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / "Annotations/0.xml").write_text(
        f"<annotation><size><height>{number}</height><width>9</width></size></annotation>"
    )
    with pytest.raises(ValueError, match=r"0\.xml: field 'size/height' is .{1,70}, not a number"):
        LAYOUTS["voc"](tmp_path, "val", Options(task="detection"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_read_json_accepts_unicode_encodings(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_bytes('{"a": "münze"}'.encode(encoding))
    assert read_json(FolderTree(tmp_path), "a.json") == {"a": "münze"}


def test_read_json_refuses_latin_1(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('{"a": "münze"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.json: cannot be read as JSON: byte 8 is not utf-8 text; save the file"):
        read_json(FolderTree(tmp_path), "a.json")
