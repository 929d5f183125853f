"""Atomic publication: kills at any point, full disks, concurrent packers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dali_mix.recordio import RecordSet
from dali_mix.recordio.publish import Publication
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import small_set

# For N = 1, 2, …, a child process packs a set and kills itself before its Nth call that changes files. Its files are
# copied to the folder N-left. Then another child packs the set without a kill. argv: folder, and "old" to replace an
# existing set.
KILLED = """
import os, pathlib, shutil, signal, sys
from dali_mix.recordio import write_set
folder, replace = pathlib.Path(sys.argv[1]), sys.argv[2] == "old"

def pack(prefix, count, limit, force, shards=2):
    calls = 0
    def counted(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call
    os.pwrite, os.fsync = counted(os.pwrite), counted(os.fsync)
    for name in ("replace", "unlink", "write_bytes", "write_text"):
        setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
    samples = [(bytes(50) + bytes([row]), row % 2, 5, 5, "jpeg") for row in range(count)]
    write_set(prefix, samples, classes="ab", shards=shards, force=force)

def child(*args):
    pid = os.fork()
    if pid == 0:
        try:
            pack(*args)
        finally:
            os._exit(int(sys.exc_info()[0] is not None))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

assert child(folder / "calm" / "set", 6, 0, False) == 0
for limit in range(1, 100):
    target = folder / str(limit)
    if replace:
        assert child(target / "set", 4, 0, False, 3) == 0
    status = child(target / "set", 6, limit, replace)
    if status == 0:
        shutil.rmtree(target)
        break
    assert status == -signal.SIGKILL
    shutil.copytree(target, folder / f"{limit}-left")
    assert child(target / "set", 6, 0, (target / "set.json").exists()) == 0
print(limit - 1)
"""


def kill_at_every_point(folder: Path, older: str) -> int:
    """Run `KILLED` and return the number of points at which a packer was killed."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), older], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_kill_at_any_point_leaves_no_incomplete_set(tmp_path: Path) -> None:
    """A killed packer leaves no incomplete set, and a rerun gives exactly the files of an uninterrupted run."""
    points = kill_at_every_point(tmp_path, "none")
    assert points > 15  # every kind of call was interrupted
    empty = [path.parent.name for path in tmp_path.glob("*-left/.set-*.rec.partial") if not path.stat().st_size]
    assert len(set(empty)) < len(empty), "killed before the first record was written"
    assert len(set(empty)) > 1, "killed between one shard and the next"
    expected = contents(tmp_path / "calm")
    assert set(expected) == {"set-00000.rec", "set-00001.rec", "set.idx", "set.npy", "set.json"}
    for point in range(1, points + 1):
        left = tmp_path / f"{point}-left"
        if (left / "set.json").exists():  # killed during the cleanup: the set is complete
            assert {name: data for name, data in contents(left).items() if name in expected} == expected
        else:
            with pytest.raises(FileNotFoundError):
                RecordSet(left / "set")
        assert contents(tmp_path / str(point)) == expected


def test_kill_while_replacing_never_mixes_sets(tmp_path: Path) -> None:
    """A kill leaves the old set, the new set or no set, but never a mixture; a rerun gives the new set.

    If no set is left, the rerun does not need --force: the remaining files of the old set count as abandoned.
    """
    points = kill_at_every_point(tmp_path, "old")
    expected = contents(tmp_path / "calm")
    seen = set()
    for point in range(1, points + 1):
        left = tmp_path / f"{point}-left"
        if (left / "set.json").exists():
            records = RecordSet(left / "set")
            found = [records.encoded(row).tobytes() for row in range(len(records))]
            assert found == [bytes(50) + bytes([row]) for row in range(len(records))]
            seen.add(len(records))
        else:
            seen.add(0)
        assert contents(tmp_path / str(point)) == expected
    assert {4, 0} <= seen <= {4, 6, 0}


def test_newer_file_in_abandoned_set_is_not_overwritten(tmp_path: Path) -> None:
    small_set(tmp_path / "set")
    (tmp_path / "set.json").unlink()
    (tmp_path / ".set.publishing").write_text('{"new": [], "old": ["set.rec", "set.idx", "set.npy"]}')
    later = (tmp_path / ".set.publishing").stat().st_mtime + 10
    (tmp_path / "set.rec").write_bytes(b"somebody's")
    os.utime(tmp_path / "set.rec", (later, later))
    with pytest.raises(FileExistsError, match=r"set\.rec exists; pass --force"):
        small_set(tmp_path / "set")
    assert (tmp_path / "set.rec").read_bytes() == b"somebody's"


def test_file_size_limit_leaves_old_set_unchanged(tmp_path: Path) -> None:
    small_set(tmp_path / "set", 4)
    before = contents(tmp_path)
    code = """
import resource, sys
from dali_mix.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(main(["pack", "digits", "--split", "val", "--out", sys.argv[1], "--force", "--quiet"]))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "set")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert ".set.rec.partial: cannot write" in done.stderr and "free disk space" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(tmp_path) == before
    assert list(verify_set(tmp_path / "set")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_full_file_system_leaves_no_files(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"mounting is not allowed here: {mount.stderr.strip()}")
    try:
        with pytest.raises(OSError, match="No space left on device"):
            small_set(disk / "set", 400)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_existing_set_needs_force(tmp_path: Path) -> None:
    small_set(tmp_path / "set", 3)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=r"set\.(rec|json) exists; pass --force"):
        small_set(tmp_path / "set", 4)
    assert contents(tmp_path) == before
    small_set(tmp_path / "set", 4, force=True)
    assert len(RecordSet(tmp_path / "set")) == 4


def test_foreign_rec_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "set.rec").write_bytes(b"somebody's")
    with pytest.raises(FileExistsError, match="--force"):
        small_set(tmp_path / "set")
    assert contents(tmp_path) == {"set.rec": b"somebody's"}


def test_replacing_with_fewer_shards_removes_the_rest(tmp_path: Path) -> None:
    small_set(tmp_path / "set", 6, shards=3)
    small_set(tmp_path / "set", 6, force=True)
    assert set(contents(tmp_path)) == {"set.rec", "set.idx", "set.npy", "set.json"}


def test_files_of_similar_prefix_are_kept(tmp_path: Path) -> None:
    (tmp_path / ".set-more.rec.partial").write_bytes(b"being written by another packer")
    small_set(tmp_path / "set-more.v2", 2)
    small_set(tmp_path / "set", 2)
    assert (tmp_path / ".set-more.rec.partial").exists()


def test_second_packer_of_same_set_is_refused(tmp_path: Path) -> None:
    with Publication(tmp_path / "set"):
        with pytest.raises(OSError, match="another packer is writing this set"):
            small_set(tmp_path / "set")
        small_set(tmp_path / "other")
    small_set(tmp_path / "set")


def test_only_one_concurrent_packer_succeeds(tmp_path: Path) -> None:
    """One packer succeeds, the others fail with an error, and no lock file is left."""
    code = """
import sys
from dali_mix.recordio import write_set
try:
    write_set(sys.argv[1], [(bytes(500), 0, 5, 5, "jpeg")] * 3000, classes="a")
except OSError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
    start = [sys.executable, "-c", code, str(tmp_path / "set")]
    running = [subprocess.Popen(start, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    errors = [process.communicate(timeout=60)[1] for process in running]
    assert sorted(process.returncode for process in running) == [0, 1, 1, 1, 1, 1]
    assert all("another packer" in error or "--force" in error for error in errors if error)
    assert set(contents(tmp_path)) == {"set.rec", "set.idx", "set.npy", "set.json"}
    assert "never written" in next(verify_set(tmp_path / "set"))  # the images are zeros; no record is missing


def test_folder_as_prefix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder, not the prefix"):
        small_set(tmp_path)


def test_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match=r"file is a file, not a folder; choose another prefix"):
        small_set(tmp_path / "file" / "set")
    with pytest.raises(OSError, match=r"/proc/none/set: the folder /proc/none cannot be created: .*; choose"):
        small_set(Path("/proc/none/set"))
    with pytest.raises(OSError, match=r"/proc/set: cannot write into /proc: .*; choose another prefix"):
        small_set(Path("/proc/set"))
