"""Normalized pixels whose grey level depends on how x · std + mean is rounded."""

from __future__ import annotations

import numpy as np
import torch

from dali_mix.mixers.kernels import numba_saliency, torch_saliency

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def near_ties() -> torch.Tensor:
    """Return (1,3,51,85) float32 values around each boundary between two levels, 8 steps to each side."""
    planes = []
    for mean, std in zip(MEAN, STD, strict=True):
        scale, shift = np.float32(255 * std), np.float32(255 * mean)
        values = ((np.arange(255) + 0.5 - float(shift)) / float(scale)).astype(np.float32)
        steps = np.arange(-8, 9, dtype=np.int32)
        planes.append((values.view(np.int32)[:, None] + steps).view(np.float32).reshape(51, 85))
    return torch.from_numpy(np.stack(planes)[None])


def grey_levels(images: torch.Tensor, mean: tuple = MEAN, std: tuple = STD) -> torch.Tensor:
    """Return the grey levels of normalized images; check that compiled loops and torch agree."""
    scale, shift = ([255 * value for value in values] for values in (std, mean))
    levels = torch_saliency.to_uint8(images.float(), scale, shift)
    assert torch.equal(numba_saliency.to_uint8(images.float(), scale, shift), levels)
    return levels


def fused_levels(images: torch.Tensor) -> torch.Tensor:
    """Compute `grey_levels` with a single rounding, like a fused multiply-add (in float64, nearly exact)."""
    scale, shift = (
        torch.tensor([np.float32(255 * value) for value in values], dtype=torch.float64)[:, None, None]
        for values in (STD, MEAN)
    )
    return (images.double() * scale + shift).float().round().clamp(0, 255).to(torch.uint8)
