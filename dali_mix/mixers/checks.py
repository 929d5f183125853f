"""Validation of the `mean` and `std` arguments of mixers."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from dali_mix.options import number


def mean_and_std(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, float, float], tuple[float, float, float]] | tuple[None, None]:
    """Return `mean` and `std` as three numbers each in 0..1 units, or (None, None) if both are None.

    A sequence of one number, for grey images, is expanded to three equal numbers. Raise ValueError if a length is
    neither 1 nor 3, a mean is outside 0 … 1, a std is outside (0, 1], or only one of the two is None.
    """
    if (mean is None) != (std is None):
        raise ValueError(f"mean={mean}, std={std}: pass both, or neither")
    if mean is None or std is None:
        return None, None
    means, stds = _channels("mean", mean), _channels("std", std)
    if not all(0 <= value <= 1 for value in means) or not all(0 < value <= 1 for value in stds):
        raise ValueError(
            f"mean={means}, std={stds}: must be in 0..1 units, std above 0; for images of 0..255 divide both by 255"
        )
    return means, stds


def _channels(name: str, values: Any) -> tuple[float, float, float]:
    values = values.tolist() if hasattr(values, "tolist") else values  # an array or a tensor
    if not isinstance(values, (list, tuple)) or len(values) not in (1, 3):
        raise ValueError(
            f"{name}={values!r}: must be three numbers in 0..1 units, one per channel (red, green, blue), or [one] for"
            " grey images"
        )
    values = values * 3 if len(values) == 1 else values
    red, green, blue = (number(name, value, low=-inf) for value in values)
    return red, green, blue
