"""Both ways of installing put `pipelines/` under `dali_mix.pipelines` and leave no top-level module of that name."""

import subprocess
import sys
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
    """Runs pip; dependencies are left out, the build fetches setuptools."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks or would track, so that building leaves nothing in the checkout."""
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


def test_wheel_holds_every_module_and_installs(source: Path, tmp_path: Path) -> None:
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
