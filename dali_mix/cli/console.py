"""Console streams that never fail: output that cannot be printed is dropped, and the command continues."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TextIO


class _Sink(io.FileIO):
    """A stream on the file descriptor `number`, which is redirected to /dev/null at the first failed write.

    The descriptor itself is replaced, so later writes by C libraries, child processes and Python's flush at exit
    succeed as well. The error is printed to stderr, unless a closed pipe caused it, or the stream is stderr itself.
    """

    def __init__(self, number: int, name: str) -> None:
        super().__init__(number, "wb", closefd=False)
        self._label = name

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # any buffer
        try:
            while (written := super().write(data)) is None:  # a full non-blocking pipe
                select.select([], [self], [])
            return written
        except OSError as error:
            _to_null(self.fileno())
            if error.errno != errno.EPIPE and self.fileno() != 2:  # a closed pipe is normal; a full disk is not
                print(f"dali-mix: {self._label}: {error.strerror}; the rest is not printed", file=sys.stderr)
            return memoryview(data).nbytes


def install() -> None:
    """Replace the process's own `sys.stdout` and `sys.stderr` with streams whose writes never raise OSError.

    Standard descriptors (0, 1, 2) that are closed (`2>&-`) are opened on /dev/null, so that no file opened later gets
    their number. Characters missing from the console's encoding are written as backslash escapes. Streams that other
    code has replaced are kept.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _to_null(number)
    sys.stdout = _replaced(sys.stdout, sys.__stdout__, 1, "standard output")
    sys.stderr = _replaced(sys.stderr, sys.__stderr__, 2, "standard error")


def _replaced(stream: TextIO | None, original: TextIO | None, number: int, name: str) -> TextIO:
    if stream is not original:
        assert stream is not None
        return stream
    if original is not None:
        try:
            original.flush()
        except OSError:
            _to_null(number)
    return io.TextIOWrapper(
        io.BufferedWriter(_Sink(number, name)),
        encoding=getattr(original, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=original is None or bool(original.line_buffering) or getattr(original, "write_through", False),
    )


def _to_null(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(null, number)
        os.close(null)
