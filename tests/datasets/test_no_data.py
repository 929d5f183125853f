"""Files left by operating systems and tools are skipped and counted, in folders and archives."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path

import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.datasets.no_data import no_data
from dali_mix.engine.inference.image_files import find_images
from dali_mix.recordio import RecordSet
from tests.datasets.files import JPEG, archived, write_jpegs

Capture = pytest.CaptureFixture[str]


NO_DATA = {
    "cat/.ipynb_checkpoints/0-checkpoint.jpg": ".ipynb_checkpoints",
    "dog/@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg": "@eaDir",
    "cat/old/deep/@eadir/1.jpg": "@eaDir",
    "__MACOSX/cat/._0.jpg": "__MACOSX",
    "cat/__MACOSX/0.jpg": "__MACOSX",
    "cat/._0.jpg": "._*",
    "#recycle/gone/0.jpg": "#recycle",
    "$RECYCLE.BIN/S-1-5/0.jpg": "$RECYCLE.BIN",
    "lost+found/0.jpg": "lost+found",
    "System Volume Information/0.jpg": "System Volume Information",
    "dog/THUMBS.DB": "Thumbs.db",
    "dog/Desktop.ini": "desktop.ini",
    ".DS_Store": ".DS_Store",
    "dog/.@__thumb/0.jpg": ".@__thumb",
    "dog/__pycache__/x.pyc": "__pycache__",
    ".Trash-1000/files/0.jpg": ".*",
}


def pack(root: Path, out: Path, *options: str) -> int:
    return main(["pack", "imagefolder", "--root", str(root), "--out", str(out), *options])


@pytest.mark.parametrize("kind", ["folder", "set.zip", "set.tgz"])
@pytest.mark.parametrize("base", ["", "train/"])
def test_system_files_are_left_out_and_counted(tmp_path: Path, capsys: Capture, kind: str, base: str) -> None:
    data = [f"{base}{name}/{number}.jpg" for name in ("cat", "cat/old/deep", "dog") for number in (0, 1)]
    root = write_jpegs(tmp_path / "in", *data, *(base + name for name in NO_DATA))
    root = root if kind == "folder" else archived(root, tmp_path / kind)
    assert pack(root, tmp_path / "set") == 0
    info = RecordSet(tmp_path / "set").info
    assert info.count == 6 and info.classes == ("cat", "dog")
    assert info.report["left_out"] == Counter(NO_DATA.values())
    assert "@eaDir 2" in capsys.readouterr().out


def test_class_with_only_system_files_is_refused(tmp_path: Path, capsys: Capture) -> None:
    root = write_jpegs(tmp_path / "in", "cat/@eaDir/0.jpg", "dog/0.jpg")
    assert pack(root, tmp_path / "set") == 1
    assert "in/cat: a class folder without images" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cat.jpg", "thumbs", "eaDir", "_MACOSX", "recycle", "Thumbs.db.jpg", "a.b"])
def test_no_data_ignores_ordinary_names(name: str) -> None:
    assert no_data(name) is None


def test_list_may_name_system_files(tmp_path: Path) -> None:
    root = write_jpegs(tmp_path, "@eaDir/0.jpg", "a/1.jpg")
    (root / "train.txt").write_text("@eaDir/0.jpg\tx\na/1.jpg\ty\n")
    listing = LAYOUTS["list"](root, "train", Options())
    assert [listing.tree.read(name) for name in listing.names] == [JPEG, JPEG]


def test_find_images_leaves_out_system_files(tmp_path: Path) -> None:
    root = write_jpegs(tmp_path / "in", "a.jpg", "x/@eaDir/a.jpg", ".hidden/b.jpg", "x/b.jpg")
    assert [path.relative_to(root).as_posix() for path in find_images([root])] == ["a.jpg", "x/b.jpg"]
    assert len(find_images([root / ".hidden"])) == 1  # requested explicitly


def test_find_images_reports_unsupported_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_jpegs(tmp_path / "in", "a.jpg", "x/b.HEIC", "x/c.heic", "d.CR2", "notes.txt", "x/@eaDir/e.heic")
    assert [path.name for path in find_images([root])] == ["a.jpg"]
    assert f"{root}: 1 .cr2 file, 2 .heic files left out" in caplog.text
    with pytest.raises(ValueError, match=r"no image in it .*; 2 \.heic files left out"):
        find_images([root / "x"])


def test_find_images_raises_for_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_jpegs(tmp_path / "in", "a.jpg", "locked/b.jpg", "@eaDir/c.jpg")
    scan = os.scandir

    def scandir(path: str) -> object:  # the root user can read every folder, so chmod would have no effect
        if Path(path).name in ("locked", "@eaDir"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="locked"):
        find_images([root])
    (root / "locked/b.jpg").unlink()
    (root / "locked").rmdir()
    assert [path.name for path in find_images([root])] == ["a.jpg"]
