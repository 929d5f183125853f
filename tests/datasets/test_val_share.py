"""`--val-share`: dividing one folder or list into train and val."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from tests.datasets.files import archived, write_jpegs
from tests.recordio.samples import encoded, image_folder

Capture = pytest.CaptureFixture[str]


def pack(root: Path, out: Path, *options: str) -> int:
    return main(["pack", "imagefolder", "--root", str(root), "--out", str(out), "--quiet", *options])


def shares(root: Path, share: float) -> dict[str, set[str]]:
    return {
        split: set(LAYOUTS["imagefolder"](root, split, Options(val_share=share)).names) for split in ("train", "val")
    }


@pytest.mark.parametrize(
    ("each", "share", "held"), [(10, 0.2, 2), (7, 0.3, 2), (2, 0.01, 1), (3, 0.99, 2), (1, 0.5, 0)]
)
def test_val_share_splits_each_class_folder(tmp_path: Path, each: int, share: float, held: int) -> None:
    root = write_jpegs(image_folder(tmp_path / "in", 3, each), "other/0.jpg", "other/1.jpg")
    parts = shares(root, share)
    assert not parts["train"] & parts["val"]
    assert len(parts["train"] | parts["val"]) == 3 * each + 2
    counts = Counter(name.split("/")[0] for name in parts["val"])
    assert [counts[f"class{label}"] for label in range(3)] == [held] * 3 and counts["other"] == 1
    val = LAYOUTS["imagefolder"](root, "val", Options(val_share=share))
    assert val.classes == ("class0", "class1", "class2", "other")
    inside = write_jpegs(tmp_path / "split" / "train", *(parts["train"] | parts["val"]))
    assert {name.removeprefix("train/") for name in shares(inside.parent, share)["val"]} == parts["val"]
    assert shares(archived(root, tmp_path / "in.zip"), share) == parts


def test_adding_files_moves_few_to_other_split(tmp_path: Path) -> None:
    root = write_jpegs(tmp_path, *(f"{kind}/{number}.jpg" for kind in "ab" for number in range(200)))
    before = shares(root, 0.1)
    write_jpegs(root, *(f"{kind}/new{number}.jpg" for kind in "ab" for number in range(20)))
    after = shares(root, 0.1)
    assert len(before["train"] & after["val"]) + len(before["val"] & after["train"]) <= 8


def test_val_share_splits_a_list(tmp_path: Path) -> None:
    root = write_jpegs(tmp_path, *(f"{number}.jpg" for number in range(20)))
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
def test_invalid_val_share_is_refused(tmp_path: Path, capsys: Capture, options: list[str], message: str) -> None:
    root = write_jpegs(tmp_path / "in", "train/a/0.jpg", "train/a/1.jpg", "val/a/0.jpg")
    assert pack(root, tmp_path / "set", *options) == 1
    assert message in capsys.readouterr().err


def test_val_share_is_refused_with_nested_val_split(tmp_path: Path) -> None:
    root = write_jpegs(
        tmp_path, *(f"{split}/{split}/cat/{number}.jpg" for split in ("train", "val") for number in range(4))
    )
    with pytest.raises(ValueError, match="/val: there is a split val already"):
        LAYOUTS["imagefolder"](root, "val", Options(val_share=0.5))


def test_val_share_does_not_depend_on_unicode_form(tmp_path: Path) -> None:
    sides = []
    for form in ("NFC", "NFD"):
        for number in range(40):
            path = tmp_path / form / "a" / unicodedata.normalize(form, f"é{number}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded("JPEG"))
        listing = LAYOUTS["imagefolder"](tmp_path / form, "val", Options(val_share=0.3))
        sides.append({unicodedata.normalize("NFC", name) for name in listing.names})
    assert sides[0] == sides[1] and len(sides[0]) == 12
