"""Helpers for values that a user types: options, commands and names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], most: int = 3, cutoff: float = 0.6) -> str:
    """Return " (did you mean A or B?)" with the names in `known` closest to `word`, or "" if none is close.

    Case, leading dashes and the difference between "-" and "_" are ignored. At most `most` names, the closest first;
    `cutoff` (0 to 1) is the least similarity by `difflib`.
    """
    by_spelling: dict[str, str] = {}
    for name in known:
        by_spelling.setdefault(_plain(name), name)
    close = difflib.get_close_matches(_plain(word), by_spelling, n=most, cutoff=cutoff)
    return f" (did you mean {' or '.join(by_spelling[name] for name in close)}?)" if close else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").strip("-")
