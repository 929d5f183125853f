"""Virtual environments under build/, for reference packages that conflict with our dependencies."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Callable
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "build"


def environment(name: str, requirements: tuple[str, ...], find_base: Callable[[], str | None]) -> Path | None:
    """Return the Python interpreter of the environment build/NAME. Create the environment if it is missing.

    Return None if `find_base` finds no Python to create it with. Raise RuntimeError, with pip's output, if the packages
    cannot be installed.
    """
    folder = BUILD / name
    python = folder / "bin" / "python"
    BUILD.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = folder / "ready"
        if ready.exists():
            return python
        base = find_base()
        if base is None:
            return None
        subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"cannot install {' '.join(requirements)}: {done.stderr[-2000:]}")
        ready.touch()
    return python
