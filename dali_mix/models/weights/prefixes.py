"""Find the prefix that training code added to the keys of a state dict, by matching keys rather than by known names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

_FITS = 0.5  # minimum share of the model's keys that a prefix must match: unrelated models share a few names
_RIVAL = 0.5  # the choice is ambiguous if another prefix fits at least this share of the tensors that the best one fits


def best_prefix(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return the prefix whose removal makes the tensors of a file fit the model best.

    Lightning adds the prefix `model.`, DDP adds `module.`, and a user's wrapper may add any name. Prefixes may be
    nested, and not all keys need to have one. Prefixes are compared by the number of tensors with the right shape, then
    by the number of keys.

    Args:
        found: state dict of the file.
        wanted: state dict of the model.

    Returns:
        a prefix that ends in a dot; or "" if none matches half of the model's keys, or none is better than no prefix.

    Raises:
        ValueError: another prefix fits at least half as many tensors as the best one, and the values differ, as those
            of a student and a teacher do.
    """
    shapes: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for key, value in found.items():
        prefix, rest = "", key
        while True:
            if rest in wanted:
                names[prefix] += 1
                shapes[prefix] += wanted[rest].shape == value.shape
            part, dot, tail = rest.partition(".")
            if not dot:
                break
            prefix, rest = f"{prefix}{part}.", tail
    if not names:
        return ""
    best = max(names, key=lambda prefix: (shapes[prefix], names[prefix], -len(prefix)))
    if (shapes[""], names[""]) >= (shapes[best], names[best]) or names[best] < _FITS * len(wanted):
        return ""
    for rival in names:
        if rival not in ("", best) and shapes[rival] >= _RIVAL * max(1, shapes[best]):
            shared = [key for key in wanted if f"{best}{key}" in found and f"{rival}{key}" in found]
            if not all(torch.equal(found[f"{best}{key}"], found[f"{rival}{key}"]) for key in shared):
                both = f"{best!r} ({shapes[best]} tensors) and different ones under {rival!r} ({shapes[rival]})"
                keep = f"k.removeprefix({best!r}): v for k, v in state.items() if k.startswith({best!r})"
                advice = f"Save those you want to a separate file with torch.save({{{keep}}}, PATH)"
                raise ValueError(f"it holds fitting weights under {both}. {advice}")
    return best


def without_prefix(found: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors whose keys start with `prefix`, without it, and the other tensors with unchanged keys."""
    inside = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    return inside, {key: value for key, value in found.items() if not key.startswith(prefix)}
