"""Fine-grained saliency in plain torch operations; `ops.saliency` defines the computation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dali_mix.mixers.layout import per_channel

RADII = (12, 24, 48, 28, 56, 112)
GREY_WEIGHTS, GREY_BITS = (9798, 19235, 3735), 15  # of red, green and blue
EXACT = 1 << 24  # float32 represents every integer up to this


def saliency(images: Tensor, scale: Sequence[float] = (), shift: Sequence[float] = ()) -> Tensor:
    """Return saliency maps (B,H,W) uint8 of images (B,3,H,W).

    Floating-point images are first converted by `to_uint8`.
    """
    if images.is_floating_point():
        images = to_uint8(images.float(), scale, shift)
    return _sums(images).clamp_max_(255).to(torch.uint8)


def to_uint8(images: Tensor, scale: Sequence[float], shift: Sequence[float]) -> Tensor:
    """Return round(x · scale + shift) of (B,3,H,W) float32 as contiguous uint8, clipped.

    scale, shift: one number per channel.
    """
    levels = images * per_channel(scale, images.device)
    levels = levels.add_(per_channel(shift, images.device)).round_().clamp_(0, 255)
    return levels.to(torch.uint8, memory_format=torch.contiguous_format)


def _sums(images: Tensor) -> Tensor:
    """Return the sum of the scaled on and off maps, (B,H,W) int32 in 0 … 510, of images (B,3,H,W) uint8.

    OpenCV keeps only the lower 8 bits of this sum.
    """
    grey = _blurred(_blurred(_grey(images)))
    difference, magnitude = _over_radii(grey)
    # Σ on and Σ off follow from Σ(on - off) and Σ(on + off); all are integers.
    on, off = (magnitude + difference) / 2, (magnitude - difference) / 2
    return _to_byte(on) + _to_byte(off)


def _grey(images: Tensor) -> Tensor:
    """Convert (B,3,H,W) uint8 to grey levels (B,H,W) int32."""
    red, green, blue = (weight * plane for weight, plane in zip(GREY_WEIGHTS, images.int().unbind(1), strict=True))
    return (red + green + blue + (1 << GREY_BITS - 1)) >> GREY_BITS


def _blurred(grey: Tensor) -> Tensor:
    for dim in (1, 2):
        size = grey.shape[dim]
        index = torch.arange(size, device=grey.device)
        before = (index - 1).abs().clamp_max(size - 1)
        after = (size - 1 - (index + 2 - size).abs()).clamp_min(0)
        grey = grey.index_select(dim, before) + 2 * grey + grey.index_select(dim, after)
    return (grey + 8) >> 4


def _over_radii(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ_r (⌊on⌋ - ⌊off⌋) and Σ_r (⌊on⌋ + ⌊off⌋) of blurred grey levels (B,H,W) int32.

    Both are (B,H,W) float32 with integer values.
    """
    height, width = grey.shape[1:]
    table = _integral(grey)
    grey = grey.float()
    difference, magnitude = torch.zeros_like(grey), torch.zeros_like(grey)
    if height * width == 1:  # a single pixel has no surround
        return difference, magnitude
    for radius in RADII:
        top, bottom = _reach(height, radius, grey.device)
        left, right = _reach(width, radius, grey.device)
        above, below = table.index_select(1, top), table.index_select(1, bottom)
        # Add in OpenCV's order, since each addition beyond 2^24 rounds.
        surround = below.index_select(2, right)
        surround += above.index_select(2, left)
        surround -= below.index_select(2, left)
        surround -= above.index_select(2, right)
        others = (bottom - top)[:, None] * (right - left) - 1
        surround = surround.sub_(grey).div_(others.float())
        step = torch.sub(grey, surround, out=surround).trunc_()
        difference += step
        magnitude += step.abs_()
    return difference, magnitude


def _reach(size: int, radius: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (first, end), (size,) int64 each: the rows of the surround of row y are first[y] … end[y] - 1.

    This holds for columns too. `size` is the number of rows or columns of the image.
    """
    index = torch.arange(size, device=device)
    return (index - radius + 1).clamp_min(0), (index + radius + 1).clamp_max(size)


def _integral(grey: Tensor) -> Tensor:
    """Return the integral image of (B,H,W) int32, (B, H+1, W+1) float32."""
    batch_size, height, width = grey.shape
    table = torch.zeros(batch_size, height + 1, width + 1, device=grey.device)
    rows = grey.cumsum(2, dtype=torch.int32)
    if height * width * 255 <= EXACT:
        table[:, 1:, 1:] = rows.cumsum(1, dtype=torch.int32)
    else:  # sums are rounded row by row, as OpenCV's are
        for y in range(height):
            torch.add(table[:, y, 1:], rows[:, y], out=table[:, y + 1, 1:])
    return table


def _to_byte(sums: Tensor) -> Tensor:
    """Return ⌊255 · sums / m⌋ as int32 in 0 … 255; m is the maximum of each map (B,H,W), at least 1."""
    sums = sums.int()
    return (255 * sums).div_(sums.amax((1, 2), keepdim=True).clamp_min_(1), rounding_mode="floor")
