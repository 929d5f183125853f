"""Failures during publication leave an old set unchanged. Links at temporary paths are not followed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from dali_mix._files import open_new
from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet
from dali_mix.recordio.publish import Publication
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import image_folder, small_set

SUFFIXES = (".rec", ".idx", ".npy", ".json")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("failing", range(6))
@pytest.mark.parametrize("shards", [1, 3])
def test_failed_rename_restores_old_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, shards: int
) -> None:
    small_set(tmp_path / "set", 4, shards=shards)
    before = contents(tmp_path)
    real, calls = Path.replace, iter(range(100))

    def replace(self: Path, target: Any) -> Path:
        if self.suffix == ".partial" and next(calls) == failing:
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        try:
            small_set(tmp_path / "set", 9, force=True)
        except OSError:
            assert contents(tmp_path) == before and list(verify_set(tmp_path / "set")) == []
        else:
            assert failing >= 4
    small_set(tmp_path / "set", 9, force=True)
    assert len(RecordSet(tmp_path / "set")) == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"set{suffix}" for suffix in SUFFIXES)


def test_failed_rename_without_old_set_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.replace

    def replace(self: Path, target: Any) -> Path:
        if self.name == ".set.npy.partial":
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="Input/output"):
        patched.setattr(Path, "replace", replace)
        small_set(tmp_path / "set", 4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_folder_at_output_path_is_refused(tmp_path: Path, suffix: str) -> None:
    small_set(tmp_path / "set", 4)
    (tmp_path / f"set{suffix}").unlink()
    (tmp_path / f"set{suffix}").mkdir()
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=rf"set\{suffix} is a folder; remove it, or choose another prefix"):
        small_set(tmp_path / "set", 9, force=True)
    assert contents(tmp_path) == before
    (tmp_path / f"set{suffix}").rmdir()
    small_set(tmp_path / "set", 9, force=True)


@pytest.mark.parametrize(
    "options", [["--max-pixels", "10"], ["--shards", "99"], ["--split", "tarin"], ["--task", "detection"]]
)
def test_refused_pack_with_force_changes_nothing(tmp_path: Path, options: list[str]) -> None:
    image_folder(tmp_path / "in")
    (tmp_path / "out").mkdir()
    small_set(tmp_path / "out" / "set", 4, shards=2)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()}
    command = ["pack", "imagefolder", "--root", str(tmp_path / "in"), "--out", str(tmp_path / "out" / "set"), "--force"]
    assert main([*command, "--quiet", *options]) == 1
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("name", [*(f".set{suffix}.partial" for suffix in SUFFIXES), ".set.publishing.new"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_links_at_temporary_paths_are_not_followed(tmp_path: Path, name: str, when: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"somebody's")
    folder = tmp_path / "out"
    folder.mkdir()
    if when == "before":
        (folder / name).symlink_to(victim)
        small_set(folder / "set", 4)
    else:
        with Publication(folder / "set") as files:
            (folder / name).symlink_to(victim)
            for suffix in SUFFIXES:
                with open_new(files.partial(f"set{suffix}")) as file:
                    file.write(b"new")
            files.publish([f"set{suffix}" for suffix in SUFFIXES])
    assert victim.read_bytes() == b"somebody's"
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"set{suffix}" for suffix in SUFFIXES)


def test_link_as_lock_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"somebody's")
    (tmp_path / ".set.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="cannot write into"):
        small_set(tmp_path / "set", 4)
    assert (tmp_path / "victim").read_bytes() == b"somebody's"


def test_open_new_replaces_links_and_keeps_umask(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"somebody's")
    (tmp_path / "a").symlink_to(tmp_path / "victim")
    (tmp_path / "b").symlink_to(tmp_path / "nothing")
    mask = os.umask(0o027)
    try:
        for name in "abc":
            with open_new(tmp_path / name, "w", "utf-8") as file:
                file.write("ü")
            assert (tmp_path / name).read_text() == "ü" and (tmp_path / name).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(mask)
    assert (tmp_path / "victim").read_bytes() == b"somebody's" and not (tmp_path / "nothing").exists()


def test_full_disk_at_journal_leaves_old_set_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_set(tmp_path / "set", 4)
    before = contents(tmp_path)

    def full(path: Path) -> None:
        if "publishing" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dali_mix.recordio.publish.sync", full)
    with pytest.raises(OSError, match="set: cannot write: No space left on device"):
        small_set(tmp_path / "set", 9, force=True)
    assert contents(tmp_path) == before
