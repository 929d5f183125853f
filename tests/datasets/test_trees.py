"""Only files below the root are read. Links that leave it are rejected without `--follow-links`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.datasets.archives import open_tree
from dali_mix.datasets.trees import FolderTree, check_name
from dali_mix.recordio import RecordSet
from tests.recordio.samples import encoded, image_folder

Capture = pytest.CaptureFixture[str]


def pack(root: Path, out: Path, *options: str, layout: str = "imagefolder") -> int:
    return main(["pack", layout, "--root", str(root), "--out", str(out), "--quiet", *options])


@pytest.mark.parametrize("name", ["../a.jpg", "a/../../b.jpg", "/etc/passwd", "..", "", "a\\..\\..\\b", "C:/a", "a\0b"])
def test_check_name_refuses_paths_outside_root(name: str) -> None:
    with pytest.raises(ValueError, match="not a path below"):
        check_name(name, "root")


@pytest.mark.parametrize("path", ["../secret.jpg", "a/../../secret.jpg", "{absolute}", "link.jpg", "folder/secret.jpg"])
def test_list_entries_outside_root_are_refused(tmp_path: Path, capsys: Capture, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.jpg").write_bytes(encoded("JPEG"))
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "folder").symlink_to(tmp_path)
    (root / "good.jpg").write_bytes(encoded("JPEG"))
    path = path.replace("{absolute}", str(tmp_path / "secret.jpg"))
    (root / "train.txt").write_text(f"good.jpg\t0\n{path}\t1\n")
    assert pack(root, tmp_path / "set", "--no-shuffle", layout="list") == 1
    error = capsys.readouterr().err
    assert ("train.txt: line 2" in error and "not a path below" in error) or "symbolic link that leaves" in error
    assert not (tmp_path / "set.json").exists()


def test_links_out_of_root_are_refused(tmp_path: Path, capsys: Capture) -> None:
    root = image_folder(tmp_path / "root")
    outside = image_folder(tmp_path / "outside", 1)
    (root / "class0" / "more.jpg").symlink_to(outside / "class0" / "0.jpeg")
    assert pack(root, tmp_path / "set") == 1
    assert "more.jpg: a symbolic link that leaves" in capsys.readouterr().err
    (root / "class0" / "more.jpg").unlink()
    (root / "class9").symlink_to(outside / "class0")
    assert pack(root, tmp_path / "set") == 1
    assert "class9: a symbolic link that leaves" in capsys.readouterr().err


def test_links_inside_root_are_followed(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "root", 2, 2)
    (root / "class1" / "again.jpeg").symlink_to(root / "class0" / "0.jpeg")
    (tmp_path / "name").symlink_to(root)  # the root itself may be a link
    assert pack(tmp_path / "name", tmp_path / "set", "--no-shuffle") == 0
    assert len(RecordSet(tmp_path / "set")) == 5


def test_link_loop_terminates(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "root", 2, 2)
    (root / "class0" / "self").symlink_to(root / "class0")
    (root / "class1" / "up").symlink_to(root)
    names = FolderTree(root).images()
    assert {"class0/0.jpeg", "class1/1.jpeg"} <= set(names) and len(names) < 50


def test_non_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match=r"pipe\.jpg: not a regular file"):
        FolderTree(tmp_path).read("pipe.jpg")  # does not block on a writer


def test_subfolder_link_out_of_root_is_refused(tmp_path: Path) -> None:
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
def test_link_to_ancestor_adds_no_images(tmp_path: Path, target: str) -> None:
    root = image_folder(tmp_path / "images", classes=2, each=3)
    (root / "class0" / "deep").mkdir()
    (root / "class0" / "deep" / "loop").symlink_to(target)
    listing = LAYOUTS["imagefolder"](root, "train", Options())
    assert list(listing.names) == [f"class{label}/{number}.jpeg" for label in range(2) for number in range(3)]
    assert list(listing.labels) == [0, 0, 0, 1, 1, 1]


DANGLING = {"outside": "/nowhere/x.jpeg", "inside": "gone.jpeg", "below a folder": "../gone/x.jpeg"}


@pytest.mark.parametrize("options", [(), ("--follow-links",)], ids=["default", "follow-links"])
@pytest.mark.parametrize("target", DANGLING.values(), ids=DANGLING)
def test_dangling_link_is_an_unreadable_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, options: tuple[str, ...]
) -> None:
    root = image_folder(tmp_path / "root", classes=2, each=3)
    (root / "class0" / "9.jpeg").symlink_to(target)
    command = ["pack", "imagefolder", "--root", str(root), "--out", str(tmp_path / "set"), *options]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert f"9.jpeg: a dangling symbolic link: {target} does not exist" in error and "that leaves" not in error
    assert main([*command, "--skip-bad"]) == 0
    shown = capsys.readouterr()
    assert "skipped class0/9.jpeg: a dangling symbolic link" in shown.out and not shown.err
    assert "set: 6 images packed, 1 skipped, in " in shown.out


def test_self_link_is_an_unreadable_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_folder(tmp_path / "root", classes=2, each=3)
    (root / "class0" / "9.jpeg").symlink_to("9.jpeg")
    command = ["pack", "imagefolder", "--root", str(root), "--out", str(tmp_path / "set")]
    assert main(command) == 1
    assert "9.jpeg: cannot be read: Too many levels of symbolic links" in capsys.readouterr().err
    assert main([*command, "--skip-bad"]) == 0
    assert "set: 6 images packed, 1 skipped, in " in capsys.readouterr().out


def test_image_in_dangling_folder_names_the_link(tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to("/nowhere")
    with pytest.raises(FileNotFoundError, match="images: a dangling symbolic link: /nowhere does not exist"):
        FolderTree(tmp_path).read("images/deep/1.jpg")


@pytest.mark.parametrize("kind", ["file", "folder", "root"])
def test_follow_links_follows_links_out_of_root(tmp_path: Path, capsys: Capture, kind: str) -> None:
    image_folder(tmp_path / "outside", 2, 3)
    root = tmp_path / "links"
    root.mkdir()
    if kind == "file":
        for label in range(2):
            (root / f"class{label}").mkdir()
            for number in range(3):
                file = f"class{label}/{number}.jpeg"
                (root / file).symlink_to(tmp_path / "outside" / file)
    elif kind == "folder":
        for label in range(2):
            (root / f"class{label}").symlink_to(tmp_path / "outside" / f"class{label}")
    else:
        (root / "train").symlink_to(tmp_path / "outside")
    command = ["pack", "imagefolder", "--root", str(root), "--out", str(tmp_path / "set"), "--quiet"]
    assert main(command) == 1
    assert "pass --follow-links" in capsys.readouterr().err
    assert main([*command, "--follow-links"]) == 0
    assert RecordSet(tmp_path / "set").info.count == 6


def test_link_loop_outside_root_terminates(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "root", 2, 2)
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "back").symlink_to(root)
    (root / "class0" / "out").symlink_to(tmp_path / "away")
    names = list(open_tree(root, follow_links=True).walk())
    assert {"class0/0.jpeg", "class1/1.jpeg"} <= set(names) and len(names) < 20
