"""What a tree refuses, and where its walk ends."""

from __future__ import annotations

import io
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

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
