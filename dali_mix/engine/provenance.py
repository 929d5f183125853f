"""What a run was made by: versions, the commit of the code, and the command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import dali_mix

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "nvidia-dali-cuda120", "nvidia-dali-cuda130")


def provenance() -> dict[str, Any]:
    """Return the versions of dali_mix, Python and the packages that decide a result, the commit and the command.

    The commit is of dali_mix's own checkout, with "-dirty" where files differ from it; None if it is installed.
    """
    versions = {"dali_mix": dali_mix.__version__, "python": platform.python_version()}
    found = {package: _version(package) for package in _PACKAGES}
    versions |= {package: version for package, version in found.items() if version is not None}
    return {"versions": versions, "commit": _commit(), "command": shlex.join(sys.argv)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    root = Path(dali_mix.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    reading = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # the checkout is left alone: no refreshed index, no lock
    try:
        done = subprocess.run(command, env=reading, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
