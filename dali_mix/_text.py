"""Format text for messages, tables and logs."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence

# Control characters, line separators, marks that change the text direction, and bytes that are not UTF-8.
_ESCAPED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_PERMISSIONS = "; change the permissions of it and of the folders above it, or choose another path"
_ADVICE = {
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EISDIR: "; a file is needed: remove the folder, or choose another path",
    errno.ENOTDIR: "; a file is where a folder is needed: choose another path",
    errno.EROFS: "; choose a path that can be written to",
}


def printable(text: str, keep: str = "") -> str:
    r"""Return `text` with control, direction and invalid characters as escapes such as \x1b, except those in `keep`."""

    def escape(found: re.Match[str]) -> str:
        return found[0] if found[0] in keep else found[0].encode("unicode_escape").decode("ascii")

    return _ESCAPED.sub(escape, text)


def composed(text: str) -> str:
    """Return `text` in Unicode's composed form (NFC). macOS and some tools write é as e plus an accent (NFD)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def differ_in_form(ours: str, others: str) -> str:
    """Return a note, beginning with "; ", if two names differ only in Unicode normalization; else ""."""
    if ours == others or composed(ours) != composed(others):
        return ""
    return f"; these differ in Unicode normalization (NFC, NFD) only: {ours!a} and {others!a}"


def counted(count: int, one: str, many: str) -> str:
    """Return "1 `one`" if `count` is 1, else `count` with thousands separators, followed by `many`."""
    return f"{count:,} {one if count == 1 else many}"


def first_of(names: Sequence[str]) -> str:
    """Return the first 6 names for a message, separated by commas, with "…" if there are more."""
    return ", ".join(names[:6]) + ", …" * (len(names) > 6)


def worded(error: Exception) -> str:
    """Return an error's message. For an OSError on a file, it begins with the file's name and may end with advice."""
    if not (isinstance(error, OSError) and isinstance(error.filename, (str, bytes, os.PathLike)) and error.strerror):
        return str(error)
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' to '.join(names)}: {error.strerror}{_ADVICE.get(error.errno or 0, '')}"


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return `rows` as CSV text with one line per row, each ended by a newline character."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
