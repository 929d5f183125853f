"""Replace files atomically, and create files without following symbolic links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a new, empty file next to `path`, and rename that file to `path` when the block ends.

    If the block fails, the new file is removed and an existing `path` is left unchanged. An OSError, also one raised in
    the block, is replaced by an error of the same type whose message names `path`.
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
    """Flush a file or folder to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_new(path: str | os.PathLike[str], mode: str = "wb", encoding: str | None = None) -> IO[Any]:
    """Open a new file for writing. An existing file of that name is removed, and a symbolic link is never followed.

    Raise OSError if it cannot be created, FileExistsError if another process creates it at the same time.
    """
    return os.fdopen(new_descriptor(path), mode, encoding=encoding)


def new_descriptor(path: str | os.PathLike[str]) -> int:
    """Create a file and return a descriptor for reading and writing it, which the caller must close.

    Existing files, symbolic links and errors are treated as in `open_new`.
    """
    Path(path).unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
