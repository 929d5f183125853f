"""`dali-mix doctor` reports every dependency of setup.py, and its hints are commands from docs/install.md."""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

import dali_mix
from dali_mix.cli import installed
from dali_mix.cli.commands import doctor

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALL = (ROOT / "docs/install.md").read_text(encoding="utf-8")
DALI_NEEDS = {
    "nvidia-dali-cuda120": ["six<=1.17", "nvidia-nvimgcodec-cu12[all]<0.10.0,>=0.9.0", "nvidia-libnvcomp-cu12==5.3.0"],
    "nvidia-dali-cuda130": ["six<=1.17", "nvidia-nvimgcodec-cu13[all]<0.10.0,>=0.9.0", "nvidia-libnvcomp-cu13==5.3.0"],
}
CUDA12 = {"nvidia-dali-cuda120": "2.4.0", "nvidia-nvimgcodec-cu12": "0.9.0.20", "nvidia-libnvcomp-cu12": "5.3.0"}
CUDA13 = {"nvidia-dali-cuda130": "2.4.0", "nvidia-nvimgcodec-cu13": "0.9.0.20", "nvidia-libnvcomp-cu13": "5.3.0"}


def floors():
    spec = importlib.util.spec_from_file_location("floors", ROOT / ".ci/floors.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NEEDED = [Requirement(line) for line in floors().requirements((ROOT / "setup.py").read_text(encoding="utf-8"))]
OPTIONAL = {"tensorboard": "vis", "transformers": "bert", "pycocotools": "detection", "ray": "service"}
DOCS = {"mkdocs-material", "mkdocstrings-python", "scikit-image"}
DEV = {"hypothesis", "import-linter", "mypy", "pytest", "pytest-timeout", "ruff"} | DOCS
REQUIRED = [need for need in NEEDED if need.name not in OPTIONAL and need.name not in DEV]


@pytest.fixture
def environment(monkeypatch):
    """Simulate an installation; return its versions by name, for tests to change. Every module can be imported."""
    versions = (
        {need.name: str(need.specifier).removeprefix(">=") for need in NEEDED}
        | {"dali_mix": dali_mix.__version__}
        | CUDA12
    )

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    def requires(name):
        if name != "dali_mix":
            return DALI_NEEDS[name]
        marked = {**OPTIONAL, **dict.fromkeys(DEV, "dev"), **dict.fromkeys(DOCS, "docs")}
        return [f'{need}; extra == "{marked[need.name]}"' if need.name in marked else str(need) for need in NEEDED]

    monkeypatch.setattr(installed.metadata, "version", version)
    monkeypatch.setattr(installed.metadata, "requires", requires)
    monkeypatch.setattr(installed, "failed_import", lambda module: "")
    return versions


def count_broken(check):
    findings = installed.Findings()
    findings.guard("check", check)
    return findings.broken


def test_every_dependency_is_listed_with_version_and_floor(environment, capsys):
    assert count_broken(installed.check_packages) == 0
    said = capsys.readouterr().out
    for need in NEEDED:
        if need.name not in DEV and not need.name.startswith(installed.DALI):
            assert re.search(rf"^  ok      {need.name} +{environment[need.name]} \({need.specifier}\)$", said, re.M), (
                need
            )
    assert count_broken(installed.check_dali) == 0
    assert "ok      DALI           nvidia-dali-cuda120 2.4.0 (>=2.4.0)" in capsys.readouterr().out


@pytest.mark.parametrize("need", REQUIRED, ids=lambda need: need.name)
@pytest.mark.parametrize("version", [None, "0.0.1"])
def test_missing_or_old_dependency_is_broken_with_pip_command(environment, capsys, need, version):
    environment.pop(need.name)
    if version is not None:
        environment[need.name] = version
    broken = count_broken(installed.check_packages) + count_broken(installed.check_dali)
    said = capsys.readouterr().out
    assert broken == 1 and f'pip install "{need.name}{need.specifier}"' in said


def test_extras_are_optional(environment, capsys):
    environment.pop("transformers")
    assert count_broken(installed.check_packages) == 0
    assert 'transformers not installed, optional: pip install -e ".[bert]"' in capsys.readouterr().out


@pytest.mark.parametrize("build", ["opencv-python-headless", "opencv-contrib-python-headless"])
def test_other_opencv_builds_are_accepted(environment, capsys, build):
    environment[build] = environment.pop("opencv-python")
    assert count_broken(installed.check_packages) == 0
    environment[build] = "4.1.0"
    assert count_broken(installed.check_packages) == 1


@pytest.mark.parametrize("version", ["2.9.0+cpu", "2.14.1+cu130", "3.0.0rc1", "2.10.0.dev20260101", "2.15.0a0+git123"])
def test_local_and_pre_release_versions_satisfy_floor(environment, version):
    environment["torch"] = version
    assert count_broken(installed.check_packages) == 0


def test_package_that_fails_to_import_is_broken(environment, monkeypatch, capsys):
    monkeypatch.setattr(installed, "failed_import", lambda module: "libGL.so.1: missing" if module == "cv2" else "")
    assert count_broken(installed.check_packages) == 1
    assert "cannot be imported: libGL.so.1: missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("there", "message", "command"),
    [
        ({**CUDA12, **CUDA13}, "nvidia-dali-cuda120 and nvidia-dali-cuda130 share one folder", "120"),
        ({**CUDA12, "nvidia-dali-cuda130": "2.4.0"}, "share one folder", "120"),
        ({**CUDA12, "nvidia-dali-cuda130": "2.4.0", "nvidia-dali-cuda120": None}, "nvimgcodec-cu13 is not", "130"),
        ({**CUDA13, "nvidia-nvimgcodec-cu12": "0.9.0.20"}, "nvidia-nvimgcodec-cu12 is for another CUDA", "130"),
        ({**CUDA12, "nvidia-nvtiff-cu13": "0.8"}, "nvidia-nvtiff-cu13 is for another CUDA", "120"),
        ({**CUDA12, "nvidia-libnvcomp-cu12": "5.2"}, "nvidia-libnvcomp-cu12 5.2 does not satisfy ==5.3.0", "120"),
        ({**CUDA12, "nvidia-dali-cuda120": "2.3.0"}, "2.3.0 does not satisfy >=2.4.0", "120"),
        ({}, "not installed", "120"),
    ],
)
def test_missing_old_or_mixed_dali_builds_are_broken(environment, capsys, there, message, command):
    for name in CUDA12:
        environment.pop(name)
    environment.update({name: version for name, version in there.items() if version is not None})
    assert count_broken(installed.check_dali) == 1
    said = capsys.readouterr().out
    assert message in said and said.rstrip().endswith(installed.switch_dali(command))


def test_cuda_13_dali_build_is_accepted(environment, capsys):
    for name in CUDA12:
        environment.pop(name)
    environment.update(CUDA13)
    assert count_broken(installed.check_dali) == 0
    assert "nvidia-dali-cuda130 2.4.0" in capsys.readouterr().out


def test_hints_match_commands_in_docs(environment):
    lines = re.sub(r"\s*\\\n\s*", " ", INSTALL).splitlines()
    for cuda in ("120", "130"):
        assert installed.switch_dali(cuda) in lines
    assert all('pip install -e ".[vis]"' in text for text in (README, INSTALL))


def test_compile_cache_is_reported(capsys):
    assert count_broken(installed.check_compiling) == 0
    assert "compiled functions are kept in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ray", "free", "noted"), [(True, 64 << 20, True), (True, 4 << 30, False), (None, 64 << 20, False)]
)
def test_small_shared_memory_is_noted_if_ray_is_installed(capsys, monkeypatch, ray, free, noted):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: ray)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert count_broken(doctor.check_shared_memory) == 0
    assert ("64 MB free in /dev/shm: little for `dali-mix serve`" in capsys.readouterr().out) == noted


def test_floors_are_read_from_setup_py():
    lines = [floors().floor(str(need)) for need in NEEDED]
    assert "torch==2.9.0" in lines and "nvidia-dali-cuda120==2.4.0" in lines and len(lines) == len(set(lines))


@pytest.mark.parametrize("wrong", ["torch", "torch==2.9", "torch>=2.9,<3", "torch>=2.9rc1", "torch~=2.9"])
def test_requirement_without_plain_floor_is_refused(wrong):
    with pytest.raises(ValueError, match="NAME>=VERSION"):
        floors().floor(wrong)
