"""Archives are read like folders; damaged and encrypted ones are rejected."""

from __future__ import annotations

import errno
import io
import random
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dali_mix.cli.main import main
from dali_mix.datasets.archives import open_tree
from dali_mix.recordio import RecordSet
from tests.recordio.samples import encoded

Capture = pytest.CaptureFixture[str]


FILES = {f"data/{label}/{number}.bmp": encoded("BMP", seed=number) for label in "ab" for number in range(3)}


METHODS = {"stored": 0, "deflated": 8, "bzip2": 12, "lzma": 14}


KINDS = [*METHODS, "tar", "tar.gz", "tar.xz", "tar.bz2"]


def archive_of(folder: Path, kind: str) -> Path:
    """Write `FILES` into set.zip for a zip method, set.tgz for "tar.gz", or set.tar for any other compression."""
    if kind in METHODS:
        path = folder / "set.zip"
        with zipfile.ZipFile(path, "w", METHODS[kind]) as archive:
            for name, data in FILES.items():
                archive.writestr(name, data)
        return path
    path = folder / ("set.tgz" if kind == "tar.gz" else "set.tar")
    with tarfile.open(path, f"w:{kind[4:]}") as archive:
        for name, data in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def read_all(path: Path) -> None:
    tree = open_tree(path)
    for name in tree.walk():
        tree.read(name)
    found = [*tree.walk(), *tree.count_left_out()]  # a damaged name may start with a dot
    assert len(found) == len(FILES)  # no file is lost silently


@pytest.mark.parametrize("kind", KINDS)
def test_changed_byte_loses_no_file_silently(tmp_path: Path, kind: str) -> None:
    path = archive_of(tmp_path, kind)
    read_all(path)
    good = path.read_bytes()
    chosen = random.Random(0)
    offsets = range(len(good)) if len(good) < 400 else sorted(chosen.sample(range(len(good)), 400))
    refused = 0
    for offset in offsets:
        data = bytearray(good)
        data[offset] ^= chosen.randrange(1, 256)
        path.write_bytes(data)
        try:
            read_all(path)
        except ValueError as error:
            assert str(error).startswith(str(path)), error
            refused += 1
    assert refused > (0 if kind == "tar" else 20)  # a plain .tar has checksums only for its headers


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_archive_is_refused(tmp_path: Path, kind: str) -> None:
    path = archive_of(tmp_path, kind)
    good = path.read_bytes()
    for share in range(1, 20):
        path.write_bytes(good[: len(good.rstrip(b"\0")) * share // 20])
        with pytest.raises(ValueError, match=r"set\.(zip|tgz|tar).*: .*fetch"):
            read_all(path)
    if kind == "tar":
        path.write_bytes(good[: good.index(b"data/b/0.bmp")])  # between two members
        with pytest.raises(ValueError, match=r"set\.tar: not a readable tar file at data/a/2\.bmp: .*cut short"):
            read_all(path)


@pytest.mark.parametrize("kind", ["deflated", "bzip2", "lzma"])
def test_damaged_zip_member_is_named_or_skipped(tmp_path: Path, capsys: Capture, kind: str) -> None:
    path = archive_of(tmp_path, kind)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("data/a/1.bmp")
    start = member.header_offset + 30 + len(member.filename)
    data[start : start + 12] = b"\xff" * 12
    path.write_bytes(data)
    command = ["pack", "imagefolder", "--root", str(path), "--out", str(tmp_path / "set"), "--quiet"]
    assert main(command) == 1
    assert f"{path}/data/a/1.bmp: cannot be unpacked: " in capsys.readouterr().err
    assert main([*command, "--skip-bad"]) == 0
    info = RecordSet(tmp_path / "set").info
    assert info.count == 5 and info.report["skipped"][0]["file"] == "data/a/1.bmp"


def test_encrypted_zip_member_is_refused(tmp_path: Path) -> None:
    path = archive_of(tmp_path, "stored")
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # flag bits in the local header and in the central directory
        data[data.index(magic) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"set\.zip/data/a/0\.bmp: .*; unpack it yourself with its password"):
        read_all(path)


class _Full(io.BytesIO):
    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["opening", "writing"])
@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz"])
def test_full_temporary_folder_is_not_reported_as_damage(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, where: str, kind: str
) -> None:
    def open_full(**options: Any) -> Any:
        if where == "opening":
            raise OSError(errno.ENOSPC, "No space left on device")
        return _Full()

    path = archive_of(tmp_path, kind)
    monkeypatch.setattr(tempfile, "TemporaryFile", open_full)
    assert main(["pack", "imagefolder", "--root", str(path), "--out", str(tmp_path / "set"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "temporary folder" in error and "No space left" in error and "set TMPDIR" in error
    assert "fetch it again" not in error and not (tmp_path / "set.json").exists()


def test_missing_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive_of(tmp_path, "tar")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(OSError, match=r"set\.tar: cannot be unpacked into the temporary folder .*none"):
        open_tree(path)


def test_follow_links_is_refused_for_archives(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--follow-links is for folders"):
        open_tree(archive_of(tmp_path, "deflated"), follow_links=True)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_duplicate_name_in_archive_is_refused(tmp_path: Path, kind: str) -> None:
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
    with pytest.raises(ValueError, match=r"twice\.(zip|tar): a/1\.jpg occurs twice"):
        open_tree(path)
