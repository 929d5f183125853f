"""Helpers for values that a user types: options, commands and names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


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


def number(name: str, value: Any) -> float:
    """Return `value` as a float. Raise ValueError naming it unless it is a number; callers check the range, and NaN."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name}={value!r}: must be a number")
    return float(value)


def whole(name: str, value: Any, least: int) -> int:
    """Return `value` as an int. Raise ValueError naming it unless it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r}: must be a whole number of at least {least}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """Return `value`. Raise ValueError naming it unless it is True or False: the text "False" would count as True."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: must be True or False")
    return value
