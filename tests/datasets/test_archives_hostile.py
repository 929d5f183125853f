"""Archives with path traversal, links, zip bombs or damage are rejected."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from dali_mix.cli.main import main
from dali_mix.datasets.archives import TarTree, ZipTree, open_tree
from tests.recordio.samples import encoded

Capture = pytest.CaptureFixture[str]


def pack(root: Path, out: Path, *options: str, layout: str = "imagefolder") -> int:
    return main(["pack", layout, "--root", str(root), "--out", str(out), "--quiet", *options])


def zip_of(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tar_of(path: Path, files: dict[str, bytes], *links: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for link in links:
            archive.addfile(link)
    return path


FILES = {f"data/train/{label}/{number}.jpg": encoded("JPEG", seed=number) for label in "ab" for number in range(3)}


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz", "set.tgz"])
def test_archives_pack_like_folders(tmp_path: Path, name: str) -> None:
    path = (zip_of if name.endswith("zip") else tar_of)(tmp_path / name, FILES)
    assert pack(path, tmp_path / "packed", "--no-shuffle") == 0
    for file, data in FILES.items():
        target = tmp_path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    assert pack(tmp_path / "data", tmp_path / "folder", "--no-shuffle") == 0
    assert (tmp_path / "packed.rec").read_bytes() == (tmp_path / "folder.rec").read_bytes()
    tree = open_tree(path)
    assert tree.exists("data/train") and tree.folders("data/train") == ["a", "b"]
    with pytest.raises(FileNotFoundError, match="not in the archive"):
        tree.read("data/none.jpg")


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "a/../../evil.jpg"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archive_with_path_traversal_is_refused(tmp_path: Path, capsys: Capture, name: str, kind: str) -> None:
    files = {**FILES, name: encoded("JPEG")}
    path = zip_of(tmp_path / "set.zip", files) if kind == "zip" else tar_of(tmp_path / "set.tar", files)
    assert pack(path, tmp_path / "packed") == 1
    error = capsys.readouterr().err
    assert f"{path}: " in error and "do not trust it" in error
    assert not list(tmp_path.rglob("evil*")) and not (tmp_path / "packed.json").exists()


def test_archive_with_links_is_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("data/link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(ValueError, match=r"set\.tar: data/link\.jpg is a link or device"):
        TarTree(tar_of(tmp_path / "set.tar", FILES, link))
    entry = zipfile.ZipInfo("data/link.jpg")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(ValueError, match=r"set\.zip: data/link\.jpg is a symbolic link"):
        ZipTree(tmp_path / "set.zip")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_decompression_bomb_is_refused(tmp_path: Path, capsys: Capture, kind: str) -> None:
    files = {f"train/a/{number}.jpg": bytes(100 << 20) for number in range(3)}
    path = tmp_path / f"bomb.{kind}"
    if kind == "zip":
        zip_of(path, files, zipfile.ZIP_DEFLATED)
    else:
        tar_of(path, files)
    assert path.stat().st_size < 1 << 20
    assert pack(path, tmp_path / "packed") == 1
    assert "a decompression bomb" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("damage", ["garbage", "cut", "empty"])
def test_damaged_archive_is_named(tmp_path: Path, capsys: Capture, kind: str, damage: str) -> None:
    path = tmp_path / f"set.{kind}"
    data = (zip_of if kind == "zip" else tar_of)(path, FILES).read_bytes()
    path.write_bytes({"garbage": b"garbage" * 500, "cut": data[: len(data) // 2], "empty": b""}[damage])
    assert pack(path, tmp_path / "packed") == 1
    assert f"{path}: " in capsys.readouterr().err


def test_changed_byte_in_zip_is_found(tmp_path: Path, capsys: Capture) -> None:
    path = zip_of(tmp_path / "set.zip", FILES)
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xd8\xff") + 200] ^= 1
    path.write_bytes(data)
    assert pack(path, tmp_path / "packed") == 1
    assert "cannot be unpacked" in capsys.readouterr().err


def test_open_tree_refuses_other_files(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="neither a folder nor"):
        open_tree(tmp_path / "file.bin")
