"""Names in messages, tables and logs: what would change a terminal, or is no text, is written as an escape."""

from __future__ import annotations

import re
import unicodedata

# Control characters, line separators, marks that turn the direction of writing, and bytes that are no UTF-8.
_ESCAPED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keep: str = "") -> str:
    r"""Return `text` with control characters as escapes such as \x1b, except those in `keep`."""
    return _ESCAPED.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def composed(text: str) -> str:
    """Return `text` in Unicode's composed form (NFC). Some tools and macOS write é as e and an accent (NFD)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
