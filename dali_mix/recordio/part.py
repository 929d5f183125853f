"""A .rec file written by several threads."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dali_mix._files import new_descriptor


class Part:
    """A .rec file being written.

    `place` assigns each piece its offset and hashes it, in file order; `store` writes it, in any thread and order. The
    file is closed as soon as `end` has been called and all pieces are stored, since a set may have more files than a
    process may have open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.sha256 = ""
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        self._awaited = 1  # pieces placed but not stored yet, plus one until `end`
        with write_errors(path):
            self._descriptor = new_descriptor(path)

    def place(self, piece: memoryview) -> int:
        """Add `piece` to the hash of the file and return its offset.

        Call it in file order, one call at a time, and then `store` once for the same piece.
        """
        with self._lock:
            self._awaited += 1
        offset = self.size
        self.size += len(piece)
        self._digest.update(piece)
        return offset

    def store(self, piece: memoryview, offset: int) -> None:
        """Write `piece` at the offset assigned by `place`."""
        with write_errors(self.path):
            while len(piece):  # pwrite may write less: above 2 GiB, or on a full disk, where the next call raises
                written = os.pwrite(self._descriptor, piece, offset)
                piece, offset = piece[written:], offset + written
        self._leave()

    def end(self) -> None:
        """Signal that no more pieces follow, and set `sha256`."""
        self.sha256 = self._digest.hexdigest()
        self._leave()

    @property
    def closed(self) -> bool:
        return self._descriptor < 0

    def _leave(self) -> None:
        with self._lock:
            self._awaited -= 1
            if not self._awaited:
                self.close()

    def close(self) -> None:
        """Close the file, even if pieces are missing; no thread may be in `store`."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with write_errors(self.path):  # some file systems report a full disk only on close
                os.close(descriptor)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Replace an OSError of the block by an OSError whose message names `path` and says what to do.

    A FileExistsError is raised unchanged.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(
            f"{path}: cannot write: {error.strerror or error}; free disk space or lift the limit, then run again"
        ) from error
