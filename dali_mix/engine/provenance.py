"""Provenance of a run: versions, code commit and command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dali_mix._version import __version__

_PACKAGES = ("torchvision", "timm", "numpy", "nvidia-dali-cuda120", "nvidia-dali-cuda130")


def provenance() -> dict[str, Any]:
    """Return a dict of "versions", "commit" and "command" of this process, for config.json.

    "versions" is a dict from dali_mix, Python and the packages that affect results to their versions. "commit" is that
    of dali_mix's checkout, with "-dirty" if files were modified; None for an installed package, or without git.
    "command" is the command line as text.
    """
    found = {"dali_mix": __version__, "python": platform.python_version(), **versions()}
    return {"versions": found, "commit": _commit(), "command": shlex.join(sys.argv)}


def versions() -> dict[str, str]:
    """Return name → version of the installed packages that affect results."""
    found = {"torch": str(torch.__version__)}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    reading = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # do not modify the checkout: no index refresh, no lock
    try:
        done = subprocess.run(command, env=reading, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
