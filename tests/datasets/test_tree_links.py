"""What a tree refuses, and where its walk ends."""

from __future__ import annotations

import io
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.datasets.archives import open_tree
from dali_mix.datasets.trees import FolderTree
from tests.recordio.samples import encoded, image_folder


def test_a_folder_below_that_is_a_link_outwards_is_refused(tmp_path: Path) -> None:
    image_folder(tmp_path / "outside", classes=2)
    inner = tmp_path / "root" / "tiny-imagenet-200"
    inner.mkdir(parents=True)
    (inner / "wnids.txt").write_text("class0\nclass1\n")
    (inner / "train").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="train: a symbolic link that leaves"):
        LAYOUTS["tiny-imagenet"](tmp_path / "root", "train", Options())
    tree = FolderTree(tmp_path / "root")
    for listed in (tree.folders, lambda name: list(tree.walk(name))):
        with pytest.raises(ValueError, match="a symbolic link that leaves"):
            listed("tiny-imagenet-200/train")


@pytest.mark.parametrize("target", ["..", ".", "../.."])
def test_a_link_back_adds_no_image(tmp_path: Path, target: str) -> None:
    root = image_folder(tmp_path / "images", classes=2, each=3)
    (root / "class0" / "deep").mkdir()
    (root / "class0" / "deep" / "loop").symlink_to(target)
    listing = LAYOUTS["imagefolder"](root, "train", Options())
    assert list(listing.names) == [f"class{label}/{number}.jpeg" for label in range(2) for number in range(3)]
    assert list(listing.labels) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_twice_in_an_archive_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"twice.{kind}"
    if kind == "zip":
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
            warnings.simplefilter("ignore")
            for seed in range(2):
                archive.writestr("a/1.jpg", encoded("JPEG", seed=seed))
    else:
        with tarfile.open(path, "w") as archive:
            for name in ("a/1.jpg", "./a/1.jpg"):
                member = tarfile.TarInfo(name)
                member.size = 3
                archive.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(ValueError, match=r"twice\.(zip|tar): a/1\.jpg is in it twice"):
        open_tree(path)


DANGLING = {"outside": "/nowhere/x.jpeg", "inside": "gone.jpeg", "below a folder": "../gone/x.jpeg"}


@pytest.mark.parametrize("options", [(), ("--follow-links",)], ids=["inside only", "anywhere"])
@pytest.mark.parametrize("target", DANGLING.values(), ids=DANGLING)
def test_a_dangling_link_is_an_unreadable_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, options: tuple[str, ...]
) -> None:
    root = image_folder(tmp_path / "root", classes=2, each=3)
    (root / "class0" / "9.jpeg").symlink_to(target)
    command = ["pack", "imagefolder", "--root", str(root), "--out", str(tmp_path / "set"), "--quiet", *options]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert f"9.jpeg: a dangling symbolic link: {target} does not exist" in error and "that leaves" not in error
    assert main([*command, "--skip-bad"]) == 0
    shown = capsys.readouterr()
    assert "skipped class0/9.jpeg: a dangling symbolic link" in shown.out and not shown.err
    assert "set: 6 images packed, 1 skipped, in " in shown.out


def test_a_link_to_itself_is_an_unreadable_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_folder(tmp_path / "root", classes=2, each=3)
    (root / "class0" / "9.jpeg").symlink_to("9.jpeg")
    command = ["pack", "imagefolder", "--root", str(root), "--out", str(tmp_path / "set"), "--quiet"]
    assert main(command) == 1
    assert "9.jpeg: cannot be read: Too many levels of symbolic links" in capsys.readouterr().err
    assert main([*command, "--skip-bad"]) == 0
    assert "set: 6 images packed, 1 skipped, in " in capsys.readouterr().out


@pytest.mark.parametrize("target", DANGLING.values(), ids=DANGLING)
def test_a_class_folder_that_dangles_is_no_class_lost(tmp_path: Path, target: str) -> None:
    root = image_folder(tmp_path / "root", classes=2, each=3)
    (root / "class9").symlink_to(target)
    with pytest.raises(FileNotFoundError, match="class9: a dangling symbolic link"):
        LAYOUTS["imagefolder"](root, "train", Options())


def test_a_folder_in_a_class_that_dangles_is_counted(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "root", classes=2, each=3)
    (root / "class0" / "more").symlink_to("/nowhere")
    assert LAYOUTS["imagefolder"](root, "train", Options()).report["other_files"] == {"dangling link": 1}


def test_a_listed_image_in_a_folder_that_dangles(tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to("/nowhere")
    with pytest.raises(FileNotFoundError, match="images: a dangling symbolic link: /nowhere does not exist"):
        FolderTree(tmp_path).read("images/deep/1.jpg")
