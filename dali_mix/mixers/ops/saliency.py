"""Fine-grained saliency of a batch of images, equal to OpenCV's `StaticSaliencyFineGrained` on every pixel.

A pixel is salient where it differs from the mean of its surround, at six sizes of surround (on: brighter, off: darker;
Montabone and Soto, Image and Vision Computing 28, 2010). What OpenCV computes, and so do we:

1. grey = (9798·R + 19235·G + 3735·B + 2^14) >> 15;
2. twice the 3×3 Gaussian [1 2 1]ᵀ[1 2 1] / 16, rounded half up, reflecting at the border without repeating it;
3. for each radius r, surround = (sum over columns x-r+1 … x+r and rows y-r+1 … y+r inside the image, less the pixel) /
   (their number - 1), in float32, from an integral image in float32;
4. on = Σ_r ⌊max(grey - surround, 0)⌋, off = Σ_r ⌊max(surround - grey, 0)⌋;
5. each scaled by its own largest value, ⌊255 · value / largest⌋, and added. (OpenCV divides in float32 and multiplies
   in float64: the same for every sum there can be.)

OpenCV then divides by the larger of the two maxima and multiplies by 255; that maximum is 255, or all is 0, so nothing
changes. It stores the sum in 8 bits, where a sum above 255 wraps to a small number, and the most salient pixel could
become the least: ours stays at 255.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from dali_mix.mixers.kernels import triton_batch
from dali_mix.mixers.kernels.layout import per_channel

RADII = (12, 24, 48, 28, 56, 112)
GREY_WEIGHTS, GREY_BITS = (9798, 19235, 3735), 15  # of red, green and blue
EXACT = 1 << 24  # float32 holds every integer up to here


def fine_grained_saliency(images: Tensor) -> Tensor:
    """How salient each pixel is, 0 … 255, as OpenCV's `StaticSaliencyFineGrained` times 255 (see the module's text).

    Any size of image gives OpenCV's map, also beyond 2^24 / 255 pixels, where its float32 sums are no longer exact.

    Args:
        images: (B,3,H,W) uint8 RGB, any device and memory format; B ≥ 0, H and W ≥ 1.

    Returns:
        (B,H,W) uint8, contiguous, on the images' device, without waiting for a GPU. All zero where an image is of one
        colour.

    Raises:
        ValueError: another shape or dtype.
    """
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"images have shape {tuple(images.shape)}: saliency takes (B,3,H,W), H and W at least 1")
    if images.dtype != torch.uint8:
        raise ValueError(f"images are {images.dtype}: saliency takes uint8, 0 … 255")
    compiled, fused = _compiled_for(images), _fused_for(images)
    if compiled is not None:
        return torch.from_numpy(compiled.maps(images.numpy(), torch.get_num_threads()))
    return _saliency_torch(images) if fused is None else fused.maps(images)


def normalized_saliency(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """`fine_grained_saliency(to_uint8(images, mean, std))`; on CUDA the grey levels need no batch of their own.

    Args, returns and raises: as those two; also ValueError where images are not floating-point.
    """
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}, not normalized: take fine_grained_saliency")
    images = images.detach()
    fused = _fused_for(images)
    if fused is None:
        return fine_grained_saliency(to_uint8(images, mean, std))
    return fused.maps(images, [255 * value for value in std], [255 * value for value in mean])


def to_uint8(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalized images back on grey levels: round(255 · (x · std + mean)), ties to even, clipped to 0 … 255.

    Computed in float32, whatever the dtype.

    Args:
        images: (B,3,H,W) floating-point.
        mean, std: three numbers each, 0..1 units.

    Returns:
        (B,3,H,W) uint8, contiguous, on the images' device, without waiting for a GPU.
    """
    compiled = _compiled_for(images)
    scale, shift = (per_channel([255 * value for value in values], images.device) for values in (std, mean))
    images = images.detach().float()
    if compiled is None:
        return _to_uint8_torch(images, scale, shift)
    return torch.from_numpy(
        compiled.levels(images.numpy(), scale.flatten().numpy(), shift.flatten().numpy(), torch.get_num_threads())
    )


def peaks(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each map's largest value, (B,) int64 each; of several, the first in reading order.

    Args:
        maps: (B,H,W), H and W ≥ 1.
    """
    place = maps.flatten(1).argmax(1)  # torch promises the first of equals
    width = maps.shape[2]
    return place.div(width, rounding_mode="floor"), place % width


def _compiled_for(images: Tensor) -> ModuleType | None:
    return None if images.device.type != "cpu" or torch.compiler.is_compiling() else _compiled()


@functools.cache
def _compiled() -> ModuleType | None:
    """The versions for CPUs, some ten times faster there; None where numba does not import."""
    try:
        from dali_mix.mixers.kernels import numba_saliency
    except ImportError:
        return None
    return numba_saliency


def _fused_for(images: Tensor) -> ModuleType | None:
    """The Triton version, for batches that it takes."""
    if not triton_batch.takes(images, triton_batch.BLENDED):
        return None
    from dali_mix.mixers.kernels import triton_saliency  # which needs Triton

    return triton_saliency if triton_saliency.suits(images) else None


def _to_uint8_torch(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return (images * scale).add_(shift).round_().clamp_(0, 255).to(torch.uint8, memory_format=torch.contiguous_format)


def _saliency_torch(images: Tensor) -> Tensor:
    return _sums(images).clamp_max_(255).to(torch.uint8)


def _sums(images: Tensor) -> Tensor:
    """(B,3,H,W) uint8 → (B,H,W) int32 0 … 510, of which OpenCV keeps the lower 8 bits."""
    grey = _blurred(_blurred(_grey(images)))
    difference, magnitude = _over_radii(grey)
    # Σ(on - off) and Σ(on + off) are known; on and off follow, all integers.
    on, off = (magnitude + difference) / 2, (magnitude - difference) / 2
    return _to_byte(on) + _to_byte(off)


def _grey(images: Tensor) -> Tensor:
    """(B,3,H,W) uint8 → (B,H,W) int32."""
    red, green, blue = (weight * plane for weight, plane in zip(GREY_WEIGHTS, images.int().unbind(1), strict=True))
    return (red + green + blue + (1 << GREY_BITS - 1)) >> GREY_BITS


def _blurred(grey: Tensor) -> Tensor:
    for dim in (1, 2):
        size = grey.shape[dim]
        place = torch.arange(size, device=grey.device)
        before = (place - 1).abs().clamp_max(size - 1)
        after = (size - 1 - (place + 2 - size).abs()).clamp_min(0)
        grey = grey.index_select(dim, before) + 2 * grey + grey.index_select(dim, after)
    return (grey + 8) >> 4


def _over_radii(grey: Tensor) -> tuple[Tensor, Tensor]:
    """(B,H,W) int32 → Σ(on - off) and Σ(on + off) over the radii, (B,H,W) float32, whole numbers."""
    height, width = grey.shape[1:]
    table = _integral(grey)
    grey = grey.float()
    difference, magnitude = torch.zeros_like(grey), torch.zeros_like(grey)
    if height * width == 1:  # no surround at all
        return difference, magnitude
    for radius in RADII:
        top, bottom = _reach(height, radius, grey.device)
        left, right = _reach(width, radius, grey.device)
        above, below = table.index_select(1, top), table.index_select(1, bottom)
        # The order of the additions is OpenCV's: beyond 2^24 each rounds.
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
    """First and one past the last row (or column) of every pixel's surround, (size,) int64."""
    place = torch.arange(size, device=device)
    return (place - radius + 1).clamp_min(0), (place + radius + 1).clamp_max(size)


def _integral(grey: Tensor) -> Tensor:
    """(B,H,W) int32 → (B, H+1, W+1) float32: sums of everything above and to the left."""
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
    """(B,H,W) whole numbers → int32 0 … 255, by each map's own maximum, truncated."""
    sums = sums.int()
    return (255 * sums).div_(sums.amax((1, 2), keepdim=True).clamp_min_(1), rounding_mode="floor")
