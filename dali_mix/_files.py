"""Files written under a temporary name before they get their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any


def open_new(path: str | os.PathLike[str], mode: str = "wb", encoding: str | None = None) -> IO[Any]:
    """Open a new file for writing. What has its name is removed, and a symbolic link there is never followed.

    Raises OSError when it cannot be made, FileExistsError when another process makes it at the same time.
    """
    descriptor = new_descriptor(path)
    try:
        return os.fdopen(descriptor, mode, encoding=encoding)
    except BaseException:
        os.close(descriptor)
        raise


def new_descriptor(path: str | os.PathLike[str]) -> int:
    """As `open_new`, for `os.write`."""
    Path(path).unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
