"""Virtual environments of their own under build/, for judges that cannot be imported beside what we depend on."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Callable
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "build"


def environment(name: str, requirements: tuple[str, ...], find_base: Callable[[], str | None]) -> Path | None:
    """The interpreter of the environment build/NAME, which is made when it is missing; None where `find_base` finds no
    Python to make it with.

    Raises RuntimeError, with pip's words, when the packages cannot be installed.
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
