"""The prefix that training code put before the keys of a state dict: found by what fits, not by a list of names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

_FITS = 0.5  # of the model's keys at least must be found behind a prefix; blocks that are alike share a few names
_RIVAL = 0.5  # another prefix that fits at least this share of what the best one fits makes the choice ambiguous


def best_prefix(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return the prefix whose removal from the keys of `found`, a file, makes most of them keys of `wanted`, a model.

    Lightning saves `model.…`, DDP `module.…`, a wrapper of the user's own whatever it called the model, and one may be
    inside the other; not all keys need to have the prefix. Tensors of the right shape count first, then keys. It ends
    in a dot, or is "" if none fits half of the model, or none better than no prefix does.

    Raises:
        ValueError: weights that differ stand under two prefixes (student and teacher, two encoders).
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
                both = f"{best!r} ({shapes[best]} tensors) and other ones under {rival!r} ({shapes[rival]})"
                keep = f"k.removeprefix({best!r}): v for k, v in state.items() if k.startswith({best!r})"
                advice = f"Save those you want in a file of their own, with torch.save({{{keep}}}, PATH)"
                raise ValueError(f"it holds fitting weights under {both}. {advice}")
    return best


def without_prefix(found: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors whose keys have `prefix`, without it, and the others under their own keys."""
    inside = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    return inside, {key: value for key, value in found.items() if not key.startswith(prefix)}
