"""A .rec file that is written by several threads."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

from dali_mix._files import new_descriptor


class Part:
    """A .rec file being written: hashed piece after piece, stored by any thread in any order; closed with the last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.sha256 = ""
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        self._awaited = 1  # pieces placed and not stored yet, and one more until `end`
        with write_errors(path):
            self._descriptor = new_descriptor(path)

    def place(self, piece: memoryview) -> int:
        """Counts `piece` in as the next one; where it is to be stored."""
        with self._lock:
            self._awaited += 1
        at = self.size
        self.size += len(piece)
        self._digest.update(piece)
        return at

    def store(self, piece: memoryview, at: int) -> None:
        """Writes `piece` where it was placed."""
        with write_errors(self.path):
            while len(piece):  # a full disk, or more than 2 GiB at once: the second write says which
                written = os.pwrite(self._descriptor, piece, at)
                piece, at = piece[written:], at + written
        self._leave()

    def end(self) -> None:
        """No piece follows."""
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
        """Gives the file up, whatever is awaited; no thread may be storing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with write_errors(self.path):  # some file systems tell only now that the disk is full
                os.close(descriptor)


class write_errors:
    """A context that turns an OSError into one that names `path` and says what to do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileExistsError):
            raise OSError(
                f"{self.path}: cannot write: {error.strerror or error}; free disk space or lift the limit, then"
                " run again"
            ) from error
