"""Names that differ only in Unicode normalization, as on macOS, refer to the same file or class."""

from __future__ import annotations

import json
import unicodedata
import zipfile
from pathlib import Path

import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.engine.build import _class_difference
from dali_mix.engine.checkpoint.trained import Trained
from dali_mix.recordio import RecordSet
from tests.recordio.samples import encoded

Capture = pytest.CaptureFixture[str]


NAMES = ["Bücher/été.jpg", "Bücher/naïve.jpg", "한국/가.jpg", "plain/Å.jpg"]


FORMS = [("NFC", "NFD"), ("NFD", "NFC")]


def write_images(root: Path, form: str) -> Path:
    for number, name in enumerate(NAMES):
        path = root / unicodedata.normalize(form, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded("JPEG", 8 + number, 16))
    return root


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".lst", ".txt"])
@pytest.mark.parametrize(("listed", "stored"), FORMS)
def test_list_matches_files_in_other_unicode_form(
    tmp_path: Path, suffix: str, listed: str, stored: str, zipped: bool
) -> None:
    root = write_images(tmp_path / "in", stored)
    if zipped:
        with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
            for file in sorted(path for path in root.rglob("*") if path.is_file()):
                archive.write(file, file.relative_to(root).as_posix())
        root = tmp_path / "in.zip"
    lines = {
        ".csv": ["path,label"] + [f"{name},{number}" for number, name in enumerate(NAMES)],
        ".jsonl": [json.dumps({"path": name, "label": number}) for number, name in enumerate(NAMES)],
        ".lst": [f"{number}\t{number}\t{name}" for number, name in enumerate(NAMES)],
        ".txt": [f"{name}\t{number}" for number, name in enumerate(NAMES)],
    }[suffix]
    file = tmp_path / f"all{suffix}"
    file.write_text(unicodedata.normalize(listed, "\n".join(lines)), encoding="utf-8")
    command = ["pack", "list", "--root", str(root), "--list", str(file), "--out", str(tmp_path / "set"), "--quiet"]
    assert main([*command, "--no-shuffle"]) == 0
    records = RecordSet(tmp_path / "set")
    assert records.table["label"].tolist() == [0, 1, 2, 3]
    assert records.table["height"].tolist() == [8, 9, 10, 11]


def test_exact_name_wins_and_ambiguous_name_is_refused(tmp_path: Path, capsys: Capture) -> None:
    mixed = "e\u0301\u00e9.jpg"  # neither fully composed nor fully decomposed
    names = [unicodedata.normalize(form, mixed) for form in ("NFC", "NFD")]
    for name in names:
        (tmp_path / name).write_bytes(encoded("JPEG"))
    for listed, found in ((names, True), ([mixed], False)):
        (tmp_path / "all.txt").write_text("".join(f"{name}\t0\n" for name in listed), encoding="utf-8")
        command = ["pack", "list", "--root", str(tmp_path), "--list", str(tmp_path / "all.txt"), "--quiet"]
        assert main([*command, "--out", str(tmp_path / f"set{found}")]) == (not found)
    assert "no such file" in capsys.readouterr().err  # the name is ambiguous


def test_name_lookup_does_not_follow_links_out(tmp_path: Path, capsys: Capture) -> None:
    write_images(tmp_path / "outside", "NFD")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "all.txt").write_text("link/Bücher/été.jpg\t0\n", encoding="utf-8")
    command = ["pack", "list", "--root", str(tmp_path / "in"), "--list", str(tmp_path / "all.txt"), "--quiet"]
    assert main([*command, "--out", str(tmp_path / "set")]) == 1
    assert "leaves" in capsys.readouterr().err


@pytest.mark.parametrize(("listed", "stored"), FORMS)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_voc_list_matches_other_unicode_form(tmp_path: Path, listed: str, stored: str, suffix: str) -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    name = unicodedata.normalize(stored, "Küche")
    (tmp_path / f"JPEGImages/{name}{suffix}").write_bytes(encoded("PNG" if suffix == ".png" else "JPEG"))
    (tmp_path / f"Annotations/{name}.xml").write_text(
        "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
        "</object></annotation>"
    )
    text = unicodedata.normalize(listed, "Küche\n")
    (tmp_path / "ImageSets/Main/train.txt").write_text(text, encoding="utf-8")
    assert main(["pack", "voc", "--root", str(tmp_path), "--out", str(tmp_path / "set"), "--quiet"]) == 0


@pytest.mark.parametrize(("given", "stored"), FORMS)
def test_classes_file_matches_other_unicode_form(tmp_path: Path, given: str, stored: str) -> None:
    root = write_images(tmp_path / "in", stored)
    classes = [unicodedata.normalize(given, name) for name in ("plain", "한국", "Bücher")]
    (tmp_path / "classes.txt").write_text("\n".join(classes), encoding="utf-8")
    listing = LAYOUTS["imagefolder"](root, "train", Options(classes_file=tmp_path / "classes.txt"))
    assert listing.classes == tuple(classes)
    assert sorted(listing.labels) == [0, 1, 2, 2]  # type: ignore[type-var]
    assert [name[:5] for name, label in zip(listing.names, listing.labels, strict=True) if label == 0] == ["plain"]


@pytest.mark.parametrize("name", ["é", "Å", "ḍ̇", "한"])
def test_class_mismatch_explains_unicode_forms(name: str) -> None:
    ours, others = ((unicodedata.normalize(form, name), "zebra") for form in ("NFC", "NFD"))
    assert ours != others
    said = "; these differ in Unicode normalization (NFC, NFD) only: {!a} and {!a}"
    assert said.format(ours[0], others[0]) in _class_difference(ours, others)
    assert "Unicode" not in _class_difference(ours, ("e", "zebra"))
    with pytest.raises(ValueError, match=r"a\.pt has 2 classes, not the 2 of val_set") as caught:
        Trained(Path("a.pt"), classes=ours).check_set("", others, "val_set")
    assert said.format(others[0], ours[0]) in str(caught.value)
