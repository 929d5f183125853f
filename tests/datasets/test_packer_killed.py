"""Packers that are killed, interrupted or run concurrently."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def start_packing(root: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dali_mix.cli.main", "pack", "imagefolder", "--root", str(root), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--quiet", *options], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the packer has written to `path`. Fail if it ends first or after 60 seconds."""
    end = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None and time.monotonic() < end, "the packer ended before it could be killed"
        time.sleep(0.001)


@pytest.fixture
def slow_folder(tmp_path: Path) -> Path:
    """Return a folder of large images. Re-encoding them takes long enough to be interrupted."""
    root = tmp_path / "images"
    data = encoded("JPEG", 1500, 2000)
    for label in range(2):
        (root / str(label)).mkdir(parents=True)
        for number in range(40):
            (root / str(label) / f"{number}.jpg").write_bytes(data)
    return root


@pytest.mark.parametrize("victim", ["process", "worker"])
def test_kill_while_packing_publishes_nothing(tmp_path: Path, slow_folder: Path, victim: str) -> None:
    """After SIGKILL to the packer or one of its threads, nothing is published, and a rerun gives the same set."""
    out = tmp_path / "out" / "set"
    packing = start_packing(slow_folder, out, "--resize", "1000")
    wait_for(tmp_path / "out" / ".set.rec.partial", packing)
    target = packing.pid
    if victim == "worker":
        threads = [int(path.name) for path in Path(f"/proc/{packing.pid}/task").iterdir()]
        target = max(thread for thread in threads if thread != packing.pid)
    os.kill(target, signal.SIGKILL)
    assert packing.wait(timeout=60) == -signal.SIGKILL
    assert {path.name for path in out.parent.iterdir()} <= {".set.rec.partial", ".set.lock"}
    again = start_packing(slow_folder, out, "--resize", "1000")
    calm = start_packing(slow_folder, tmp_path / "calm" / "set", "--resize", "1000")
    assert again.wait(timeout=120) == calm.wait(timeout=120) == 0
    assert digests(out.parent) == digests(tmp_path / "calm")


def test_ctrl_c_while_packing_leaves_no_files(tmp_path: Path, slow_folder: Path) -> None:
    out = tmp_path / "out" / "set"
    packing = start_packing(slow_folder, out, "--resize", "1000")
    wait_for(tmp_path / "out" / ".set.rec.partial", packing)
    packing.send_signal(signal.SIGINT)
    _, error = packing.communicate(timeout=60)
    assert packing.returncode == 130 and error.strip().endswith("interrupted")
    assert list(out.parent.iterdir()) == []


def test_second_packer_of_same_set_is_refused(tmp_path: Path, slow_folder: Path) -> None:
    out = tmp_path / "out" / "set"
    first = start_packing(slow_folder, out, "--resize", "1000")
    wait_for(tmp_path / "out" / ".set.rec.partial", first)
    first.send_signal(signal.SIGSTOP)  # it must not finish while the second one starts
    try:
        second = start_packing(slow_folder, out, "--resize", "1000", "--force")
        _, error = second.communicate(timeout=60)
    finally:
        first.send_signal(signal.SIGCONT)
    assert second.returncode == 1 and "another packer is writing this set" in error
    assert first.wait(timeout=120) == 0
    assert list(verify_set(out)) == []
