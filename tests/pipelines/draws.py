"""Draws of a pipeline's steps by class name."""

from __future__ import annotations

import numpy as np
from dali_mix.pipelines import Pipeline, SampleRandom


def drawn_by(pipeline: Pipeline, rows: np.ndarray, random: SampleRandom) -> dict[str, dict[str, np.ndarray]]:
    """Return the draws of each step by class name; RandomResizedCrop and MultiScaleCrop count as "Crop"."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, values in pipeline.draw(rows, random).items():
        index, _, name = name.partition(".")
        kind = type(pipeline.steps[int(index)]).__name__
        found.setdefault("Crop" if kind in ("RandomResizedCrop", "MultiScaleCrop") else kind, {})[name] = values
    return found
