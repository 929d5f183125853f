"""Fallback cache folders for other libraries, used if the user's own folders are not writable.

numba keeps compiled functions, Triton its kernels and matplotlib a font list below the home directory. In a container
without a home, or with a read-only one, they would compile again in every process, warn, or fail.
"""

from __future__ import annotations

import functools
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path


@functools.cache
def fallback() -> Path | None:
    """Return a per-user folder below the temporary folder, or None if no safe one can be created.

    Cached code is executed when loaded, so the folder must belong to this user, and other users must have no access
    to it.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"dali_mix-{os.geteuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return folder if private and writable(folder) else None


def writable(folder: str | Path) -> bool:
    """Return True if files can be written to `folder`, which is created if it is missing."""
    try:
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, RuntimeError):  # RuntimeError: this user has no home directory
        return False


def for_matplotlib() -> None:
    """Set MPLCONFIGDIR to a folder in `fallback()` if one of matplotlib's usual folders is not writable.

    Call it before matplotlib is imported. Otherwise, matplotlib warns and lists the fonts again in every process.
    """
    bases = (("XDG_CONFIG_HOME", "~/.config"), ("XDG_CACHE_HOME", "~/.cache"))
    _divert("MPLCONFIGDIR", [Path(os.environ.get(variable) or base, "matplotlib") for variable, base in bases])


def for_triton() -> None:
    """Set TRITON_CACHE_DIR to a folder in `fallback()` if Triton's usual folder is not writable.

    Call it before a kernel is launched.
    """
    _divert("TRITON_CACHE_DIR", [Path(os.environ.get("TRITON_HOME") or "~", ".triton/cache")])


def _divert(variable: str, usual: Iterable[Path]) -> None:
    """Set the environment variable `variable` to a folder in `fallback()`.

    Do nothing if the variable is already set, if all `usual` folders are writable, or if there is no fallback. Missing
    `usual` folders are created.
    """
    if variable not in os.environ and not all(map(writable, usual)) and (folder := fallback()) is not None:
        os.environ[variable] = str(folder / variable.lower())
