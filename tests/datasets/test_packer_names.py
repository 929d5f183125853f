"""Control characters and undecodable bytes in names are escaped in messages, tables and logs."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from dali_mix._text import printable
from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options, PackOptions, pack_listing
from dali_mix.recordio import RecordSet
from dali_mix.recordio.adopt import adopt
from tests.recordio.samples import encoded, image_folder, small_set
from tests.recordio.test_adopt import classes, foreign

Capture = pytest.CaptureFixture[str]


ODD = {
    "escape": "a\x1b[31mred", "newline": "a\nb", "carriage return": "a\rb", "bell": "a\x07", "delete": "a\x7f",
    "csi": "a\x9b2J", "right-to-left override": "a\u202egpj", "line separator": "a\u2028b", "tab": "a\tb",
}  # fmt: skip


def clean(capsys: Capture) -> str:
    """Return the captured output after checking that newlines are its only control characters."""
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert text == printable(text, keep="\n")
    return text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünï 中 👩\u200d🚀", "plain ünï 中 👩\u200d🚀"),
        ("a\x1b[2Jb\n", "a\\x1b[2Jb\\n"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202e\u2066\u2029", "\\u202e\\u2066\\u2029"),
        (os.fsdecode(b"\xff.jpg"), "\\udcff.jpg"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_printable_escapes_control_characters(text: str, shown: str) -> None:
    assert printable(text) == shown == printable(printable(text))
    assert printable("a\nb\tc", keep="\n") == "a\nb\\tc"


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_class_and_file_names_are_escaped(tmp_path: Path, capsys: Capture, odd: str, kind: str) -> None:
    root = tmp_path / "in"
    (root / odd).mkdir(parents=True)
    (root / "plain").mkdir()
    (root / odd / f"{odd}.jpg").write_bytes(encoded("JPEG"))
    (root / "plain" / f"{odd}.jpg").write_bytes(b"<html>")
    (root / "plain" / "good.jpg").write_bytes(encoded("JPEG"))
    (root / "plain" / f"x.{odd}").write_bytes(b"")
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
            for file in sorted(root.rglob("*.*")):
                archive.write(file, file.relative_to(root))
        root = tmp_path / "in.zip"
    command = ["pack", "imagefolder", "--root", str(root), "--out", str(tmp_path / "set"), "--quiet"]
    assert main(command) == 1
    error = clean(capsys)
    assert f"plain/{printable(odd)}.jpg: a web page" in error and error.count("\n") == 1
    assert main([*command, "--skip-bad"]) == 0
    assert printable(odd) in clean(capsys)
    info = RecordSet(tmp_path / "set").info
    assert info.classes == (printable(odd), "plain") and f".{printable(odd.lower())}" in info.report["other_files"]
    for arguments in ([], ["--record", "0"], ["--json"]):
        assert main(["inspect", str(tmp_path / "set"), *arguments]) == 0
        clean(capsys)
    assert main(["verify", str(tmp_path / "set"), "--quiet"]) == 0
    clean(capsys)


def test_undecodable_suffix_is_escaped_in_report(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "0.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / "in" / "a" / os.fsdecode(b"x.\xff\xfe")).write_bytes(b"")
    command = ["pack", "imagefolder", "--root", str(tmp_path / "in"), "--out", str(tmp_path / "set"), "--quiet"]
    assert main(command) == 0
    assert RecordSet(tmp_path / "set").info.report["other_files"] == {".\\udcff\\udcfe": 1}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_names_in_foreign_manifest_are_escaped(tmp_path: Path, capsys: Capture, odd: str) -> None:
    small_set(tmp_path / "set", 3)
    path = tmp_path / "set.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    content |= {"classes": [odd, "b", "c"], "source": odd, "split": odd, "report": {odd: {odd: odd}, "x": odd}}
    path.write_text(json.dumps(content))
    assert RecordSet(path).info.classes[0] == printable(odd)
    for arguments in ([], ["--record", "0"]):
        assert main(["inspect", str(path), *arguments]) == 0
        assert printable(odd) in clean(capsys)


def test_adopt_and_verify_escape_names(tmp_path: Path, capsys: Capture) -> None:
    names = [name for name in ODD.values() if name == "".join(name.splitlines())][:3]
    assert adopt([foreign(tmp_path / "set.rec", classes(3))], classes=names).classes == tuple(map(printable, names))
    (tmp_path / "set\x1b[2J.rec").write_bytes(b"garbage")
    assert main(["adopt", str(tmp_path / "set\x1b[2J.rec"), "--quiet"]) == 1
    assert "set\\x1b[2J.rec: record 0" in clean(capsys)
    assert main(["verify", str(tmp_path / "none\x1b[2J"), "--quiet"]) == 1
    assert "none\\x1b[2J.json: no such set" in clean(capsys)


def test_undecodable_names_are_escaped_or_refused(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", classes=2)
    (root / "class0" / os.fsdecode(b"\xff.jpg")).write_bytes(b"<html>")
    listing = LAYOUTS["imagefolder"](root, "train", Options())
    pack_listing(listing, tmp_path / "set", PackOptions(skip_bad=True))
    skipped = RecordSet(tmp_path / "set").info.report["skipped"]
    assert [entry["file"] for entry in skipped] == ["class0/\\udcff.jpg"]
    (root / "class1").rename(root / os.fsdecode(b"\xff"))
    with pytest.raises(ValueError, match=r"images: the class name '\\\\udcff' is not UTF-8"):
        LAYOUTS["imagefolder"](root, "train", Options())
