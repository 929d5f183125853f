"""`normalize`: convert uint8 images to normalized float32, bit-identically on every device."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

from dali_mix import compiled


@functools.cache
def factors(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and shift (3,) float32 such that (x / 255 - mean) / std = x · scale + shift."""
    deviation = np.asarray(std, np.float64)
    return (1 / (255 * deviation)).astype(np.float32), (-np.asarray(mean, np.float64) / deviation).astype(np.float32)


@functools.cache
def _factors_on(
    device: torch.device, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    scale, shift = (torch.from_numpy(values)[:, None, None].to(device) for values in factors(mean, std))
    return scale, shift


def normalize(
    images: torch.Tensor, mean: Sequence[float], std: Sequence[float], sizes: np.ndarray | None = None
) -> torch.Tensor:
    """Return (x / 255 - mean) / std per channel, computed as one product and one sum, each rounded to float32.

    Args:
        images: (B, 3, H, W) uint8.
        mean, std: per channel, 0..1 units.
        sizes: (B, 2) height and width of each image, at the top left of the padded image; the padding becomes 0. By
            default there is no padding.

    Returns:
        (B, 3, H, W) float32 on the same device, newly allocated; channels_last on a GPU.
    """
    mean, std = tuple(mean), tuple(std)
    if images.is_cuda:
        out = images.to(torch.float32, memory_format=torch.channels_last)
        scale, shift = _factors_on(images.device, mean, std)
        out.mul_(scale).add_(shift)
        if sizes is not None:
            height, width = torch.from_numpy(sizes.astype(np.int64)).to(out.device, non_blocking=True).unbind(1)
            below = torch.arange(out.shape[2], device=out.device) >= height[:, None]
            right = torch.arange(out.shape[3], device=out.device) >= width[:, None]
            out.masked_fill_((below[:, :, None] | right[:, None, :])[:, None], 0.0)
        return out
    out = torch.empty(images.shape, dtype=torch.float32)
    normalize_into(out.numpy(), images.numpy(), mean, std)
    if sizes is not None:
        for image, (height, width) in zip(out.numpy(), sizes.tolist(), strict=True):
            image[:, height:] = 0.0
            image[:, :height, width:] = 0.0
    return out


def normalize_into(out: np.ndarray, levels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> None:
    """Normalize `levels`, images uint8 (B, 3, H, W), and write them to `out`, float32 of the same shape.

    This uses one thread. torch would use several, which synchronize at every operation and occupy cores that DALI
    needs.
    """
    scale, shift = factors(tuple(mean), tuple(std))
    if compiled.available():
        _scale_and_shift(levels, scale, shift, out)
        return
    np.multiply(levels, scale[:, None, None], out=out)
    out += shift[:, None, None]


@compiled.jit
def _scale_and_shift(levels: np.ndarray, scale: np.ndarray, shift: np.ndarray, out: np.ndarray) -> None:
    count, channels, height, width = levels.shape
    for i in range(count):
        for c in range(channels):
            factor, offset = scale[c], shift[c]
            for y in range(height):
                line, written = levels[i, c, y], out[i, c, y]
                for x in range(width):
                    written[x] = np.float32(line[x]) * factor + offset
