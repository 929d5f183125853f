"""Files written under a temporary name before they get their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new, empty file in the folder of `path` to write to; the end of the block renames it to `path`.

    If the block fails, the file is removed and what was under `path` stays. OSErrors then name `path`.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        open_new(aside).close()
        yield aside
        sync(aside)
        aside.replace(path)
    except OSError as error:
        raise type(error)(f"could not write {path}: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the system write the content of a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_new(path: str | os.PathLike[str], mode: str = "wb", encoding: str | None = None) -> IO[Any]:
    """Open a new file for writing. What has its name is removed, and a symbolic link there is never followed.

    Raises OSError when it cannot be made, FileExistsError when another process makes it at the same time.
    """
    return os.fdopen(new_descriptor(path), mode, encoding=encoding)


def new_descriptor(path: str | os.PathLike[str]) -> int:
    """As `open_new`, for `os.write`."""
    Path(path).unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
