"""Both ways of installing provide `pipelines/` as `dali_mix.pipelines` and no top-level module `pipelines`."""

import os
import runpy
import subprocess
import sys
import tarfile
import threading
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROBE = """
import importlib.util
from pathlib import Path
assert importlib.util.find_spec("pipelines") is None, "a top-level module `pipelines` is importable"
import dali_mix
print(Path(dali_mix.__file__).resolve())
print(Path(importlib.util.find_spec("dali_mix.pipelines").origin).resolve())
"""


def pip(*arguments: str) -> None:
    """Run pip, which must succeed. No call installs dependencies, but builds download setuptools."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the files that git tracks or would track. Builds then leave no files in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy


def probe(python: Path, cwd: Path) -> list[str]:
    done = subprocess.run([python, "-c", PROBE], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_editable_install_uses_the_checkout(source: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", system_site_packages=False, with_pip=False)
    python = tmp_path / "env/bin/python"
    pip("--python", str(python), "install", "-q", "--no-deps", "-e", str(source))
    package, pipelines = probe(python, tmp_path)
    assert package == str(source.resolve() / "dali_mix/__init__.py")
    assert pipelines == str(source.resolve() / "pipelines/__init__.py")


def test_wheel_contains_every_module_and_installs(source: Path, tmp_path: Path) -> None:
    pip("wheel", "-q", "--no-deps", "-w", str(tmp_path / "wheels"), str(source))
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, prefix in (("dali_mix", "dali_mix"), ("pipelines", "dali_mix/pipelines")):
        for module in (source / folder).rglob("*.py"):
            assert f"{prefix}/{module.relative_to(source / folder).as_posix()}" in names
    assert not [
        name for name in names if name.split("/")[0] not in ("dali_mix", wheel.name.split("-py3")[0] + ".dist-info")
    ]

    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    pip("--python", str(python), "install", "-q", "--no-deps", str(wheel))
    package, pipelines = probe(python, tmp_path)
    assert package.startswith(str((tmp_path / "env").resolve()))
    assert pipelines == package.replace("__init__.py", "pipelines/__init__.py")


def test_sdist_contains_all_files_and_metadata(source: Path, tmp_path: Path) -> None:
    pip("install", "-q", "--target", str(tmp_path / "setuptools"), "setuptools")
    command = [sys.executable, "setup.py", "-q", "sdist", "-d", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "setuptools")}
    done = subprocess.run(command, cwd=source, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
        info = packed.extractfile(next(name for name in packed.getnames() if name.count("/") == 1 and "PKG" in name))
        assert info is not None
        metadata = info.read().decode()
    for folder in ("dali_mix", "pipelines", "tests", "docs", "examples", "scripts", "tools", "benchmarks", ".ci"):
        files = {file.relative_to(source).as_posix() for file in (source / folder).rglob("*") if file.is_file()}
        assert {file for file in files if "__pycache__" not in file} <= names, folder
    assert {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "pyproject.toml"} <= names
    assert "Author: The dali_mix authors" in metadata and "Apache-2.0" in metadata
    for minor in (11, 12, 13, 14):
        assert f"Classifier: Programming Language :: Python :: 3.{minor}" in metadata


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  Downloading torch-2.14.1-cp311-cp311-manylinux_2_28_x86_64.whl (554.6 MB)\n", "  torch-2.14.1  554.6 MB"),
        ("Downloading nvidia_cudnn_cu13-9.24-py3-none-any.whl (1.2 GB)\n", "  nvidia_cudnn_cu13-9.24  1.2 GB"),
        ("  Using cached https://x/y/scipy-1.17.1-cp311-cp311-linux.whl (35.2 MB)\n", "  scipy-1.17.1  35.2 MB"),
        ("  Downloading tqdm-4.70.1-py3-none-any.whl (78 kB)\n", ""),
        ("  Downloading six-1.17-py3-none-any.whl (9.9 MB)\n", ""),
        ("Installing collected packages: a, b, c\n", "  unpacking 3 packages"),
        ("Collecting torch\n", ""),
    ],
)
def test_install_progress_names_large_downloads(line: str, shown: str) -> None:
    assert runpy.run_path(str(ROOT / "scripts/pip_install.py"))["progress"](line) == shown


def test_failed_install_shows_pip_output_from_error_on(capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(ROOT / "scripts/pip_install.py"))
    said = ["Collecting torch", "ERROR: Cannot install a", "", "The conflict is caused by:", "    a needs b==2"]
    script["show"]([f"{line}\n" for line in said], 0)
    assert capsys.readouterr().out == "ERROR: Cannot install a\nThe conflict is caused by:\n    a needs b==2\n"


def test_install_reports_disk_use_while_pip_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(ROOT / "scripts/pip_install.py"))
    script["show"].__globals__["QUIET_FOR"] = 0.01

    def lines():
        yield "Installing collected packages: a, b\n"
        released.wait(60)

    released = threading.Event()
    threading.Timer(0.3, released.set).start()
    script["show"](lines(), 0)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "  unpacking 2 packages" and len(said) > 2 and said[1].endswith("GB on disk")
