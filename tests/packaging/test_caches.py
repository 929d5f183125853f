"""Caches of compiled functions and fonts when the home directory is not writable. Other users cannot access them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dali_mix import caches

ROOT = Path(__file__).parents[2]
NOWHERE = "/dev/null/home"  # no user can make a folder below it, not even root

COMPILE = """
import numpy as np
from dali_mix.mixers.kernels import numba_paste_loops
assert len(numba_paste_loops.chain(np.zeros(1, np.int64), True)[0]) == 1
print(sum(numba_paste_loops.chain.stats.cache_hits.values()), numba_paste_loops.chain.stats.cache_path)
"""

MIX = """
import torch
from dali_mix.mixers import CutMix, SaliencyMix, SpliceMix
from dali_mix import compiled
from dali_mix.pipelines.kernels import fused
g = torch.Generator().manual_seed(0)
images = torch.randint(256, (4, 3, 32, 40), dtype=torch.uint8, generator=g)
targets = torch.arange(4)
for mixer in (CutMix(4), SaliencyMix(4), SpliceMix(num_classes=4)):
    out, _ = mixer(images, targets, generator=torch.Generator().manual_seed(1))
    print(out.sum().item())
print(compiled.available(), fused.available())
"""


def python(code: str, tmp: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python code without a writable home. Its temporary files go below `tmp`."""
    dropped = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    command = [sys.executable, "-c", code]
    env = {"HOME": NOWHERE, "TMPDIR": str(tmp), "OMP_NUM_THREADS": "1", **env}
    done = subprocess.run(command, env=kept | env, cwd=tmp, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package that cannot store compiled functions next to its files."""
    packages = tmp_path_factory.mktemp("packages")
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "dali_mix", packages / "dali_mix", ignore=unwanted)
    shutil.copytree(ROOT / "pipelines", packages / "dali_mix/pipelines", ignore=unwanted)
    for folder in ("dali_mix/mixers/kernels", "dali_mix/pipelines/kernels"):
        (packages / folder / "__pycache__").touch()  # a file blocks the folder
    return packages


def test_kernels_are_compiled_once_into_private_folder(read_only: Path, tmp_path: Path) -> None:
    folder = tmp_path / f"dali_mix-{os.geteuid()}"
    for hits in ("0", "1"):
        said = python(COMPILE, tmp_path, PYTHONPATH=str(read_only))
        found, path = said.stdout.split()
        assert found == hits and Path(path).is_relative_to(folder / "numba"), said
        assert said.stderr == ""
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("squat", ["file", "link", "open", "listed", "group"])
def test_cache_folder_open_to_others_is_not_used(read_only: Path, tmp_path: Path, squat: str) -> None:
    folder = tmp_path / f"dali_mix-{os.geteuid()}"
    if squat == "file":
        folder.touch()
    elif squat == "link":
        (tmp_path / "target").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "target")
    else:
        folder.mkdir()
        folder.chmod({"open": 0o777, "listed": 0o755, "group": 0o770}[squat])
    said = python("from dali_mix import caches; print(caches.fallback())", tmp_path, PYTHONPATH=str(read_only))
    assert said.stdout == "None\n"
    if squat == "link":  # the functions still work
        assert python(COMPILE, tmp_path, PYTHONPATH=str(read_only)).stdout.split() == ["0", "None"]


def test_matplotlib_uses_fallback_folder_without_warning(tmp_path: Path) -> None:
    code = "import dali_mix.reports, matplotlib; print(matplotlib.get_cachedir())"
    said = python(code, tmp_path)
    assert said.stdout == f"{tmp_path}/dali_mix-{os.geteuid()}/mplconfigdir\n" and said.stderr == ""
    doctor = "from dali_mix.cli import installed; installed.check_packages(installed.Findings())"
    assert "matplotlib " in (said := python(doctor, tmp_path)).stdout and said.stderr == ""
    own = tmp_path / "own"
    assert python(code, tmp_path, MPLCONFIGDIR=str(own)).stdout == f"{own}\n"
    home = tmp_path / "home"
    assert python(code, tmp_path, HOME=str(home)).stdout == f"{home}/.cache/matplotlib\n"


def test_results_are_equal_without_compilation(tmp_path: Path) -> None:
    compiled, plain = (python(MIX, tmp_path, **env).stdout.split() for env in ({}, {"NUMBA_DISABLE_JIT": "1"}))
    assert compiled[-2:] == ["True", "True"] and plain[-2:] == ["False", "False"]
    assert compiled[:-2] == plain[:-2]


@pytest.mark.parametrize("folder", [NOWHERE, "/proc/self/no", "~no-such-user-here/cache"])
def test_writable_is_false_for_unwritable_folders(folder: str) -> None:
    assert not caches.writable(folder)


@pytest.mark.parametrize(("home", "own", "moved"), [(NOWHERE, None, True), (NOWHERE, "/x", False), (None, None, False)])
def test_triton_cache_moves_if_home_is_unwritable(tmp_path, monkeypatch, home, own, moved) -> None:
    monkeypatch.setattr(caches, "fallback", lambda: tmp_path / "safe")
    monkeypatch.setenv("HOME", home or str(tmp_path))
    monkeypatch.delenv("TRITON_HOME", raising=False)
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    if own is not None:
        monkeypatch.setenv("TRITON_CACHE_DIR", own)
    caches.for_triton()
    assert os.environ.get("TRITON_CACHE_DIR") == (str(tmp_path / "safe/triton_cache_dir") if moved else own)
