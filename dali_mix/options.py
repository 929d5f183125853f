"""Helpers for checking values typed by users: options, commands and names. Error messages name the option."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

_LONGEST = (1 << 63) - 1


def did_you_mean(word: str, known: Iterable[str], most: int = 3, cutoff: float = 0.6) -> str:
    """Return " (did you mean A or B?)" with the names in `known` closest to `word`, or "" if none is close.

    Case, outer dashes and the difference between "-" and "_" are ignored. The text has at most `most` names, the
    closest first. `cutoff` (0 to 1) is the minimum similarity in `difflib`.
    """
    by_spelling: dict[str, str] = {}
    for name in known:
        by_spelling.setdefault(_plain(name), name)
    close = difflib.get_close_matches(_plain(word), by_spelling, n=most, cutoff=cutoff)
    return f" (did you mean {' or '.join(by_spelling[name] for name in close)}?)" if close else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").strip("-")


def is_finite(value: Any) -> bool:
    """Return True if `value` is a finite real number, not a bool, that fits in a float64 (10**400 does not)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def number(name: str, value: Any, low: float | None = None, high: float = math.inf) -> float:
    """Return `value` as a float. Raise ValueError unless it is a real number other than a bool.

    With `low`, also raise ValueError unless the number is finite and in [low, high].
    """
    real: Any = value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name}={value!r:.40}: must be a number")
    if low is not None and not (is_finite(real) and low <= real <= high):
        least = f" of at least {low:g}" if low > -math.inf else ""
        wanted = f" from {low:g} to {high:g}" if math.isfinite(high) else least
        raise ValueError(f"{name}={real!r:.40}: must be a finite number{wanted}")
    return float(real)


def whole(name: str, value: Any, low: int, high: int = _LONGEST) -> int:
    """Return `value` as an int. Raise ValueError if it is a bool, or not an integer from `low` to `high`."""
    integer: Any = value
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= integer <= high:
        wanted = f"from {low} to {high}" if high != _LONGEST else f"of at least {low}"
        beyond = " and below 2^63" if high == _LONGEST and isinstance(value, int) and value > high else ""
        raise ValueError(f"{name}={integer!r:.40}: must be an integer {wanted}{beyond}")
    return int(integer)


def set_whole(options: Any, name: str, low: int, high: int = _LONGEST, *, optional: bool = False) -> None:
    """Check field `name` of `options` with `whole` and store the result in place, even in a frozen dataclass.

    If `optional`, None is left unchanged.
    """
    value = getattr(options, name)
    if not (optional and value is None):
        object.__setattr__(options, name, whole(name, value, low, high))


def flag(name: str, value: Any) -> bool:
    """Return `value`. Raise ValueError unless it is True or False (the string "False" would be truthy)."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r:.40}: must be True or False")
    return value


def as_path(name: str, value: Any) -> Path:
    """Return `value` as a Path. Raise ValueError unless it is a string or a path."""
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{name}={value!r:.40}: must be a path, as a string or pathlib.Path")
    return Path(value)


def choice(name: str, value: Any, known: Iterable[Any]) -> Any:
    """Return `value`. Raise ValueError, listing the known values, unless it is one of them."""
    if value not in (known := list(known)):
        hint = did_you_mean(value, known) if isinstance(value, str) else ""
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(map(str, known))}{hint}")
    return value


def check_keys(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError for the first key in `given` that is not in `known`. The message begins with `name`."""
    known = sorted(known)
    for key in given:
        if key not in known:
            others = f"{did_you_mean(key, known)}; known: {', '.join(known) or 'none'}"
            raise ValueError(f"{name}: unknown key {key!r}{others}")
