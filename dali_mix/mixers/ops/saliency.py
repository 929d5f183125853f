"""Fine-grained saliency of a batch of images, equal to OpenCV's `StaticSaliencyFineGrained` up to its 8-bit overflow.

A pixel is salient if it is brighter (on) or darker (off) than the mean of its surround, for six sizes of the surround
(Montabone and Soto, Image and Vision Computing 28, 2010). The computation, as in OpenCV:

1. grey = (9798·R + 19235·G + 3735·B + 2^14) >> 15;
2. twice the 3×3 Gaussian [1 2 1]ᵀ[1 2 1] / 16, rounded half up; the image is reflected at the border without repeating
   the border pixels;
3. for each radius r, surround = (sum of the pixels in columns x-r+1 … x+r and rows y-r+1 … y+r inside the image, less
   the pixel itself) / (number of pixels summed - 1), in float32, from an integral image in float32;
4. on = Σ_r ⌊max(grey - surround, 0)⌋, off = Σ_r ⌊max(surround - grey, 0)⌋;
5. on and off, each scaled by its largest value, ⌊255 · value / largest⌋, and added. (OpenCV divides in float32 and
   multiplies in float64, with the same result for every possible sum.)

OpenCV then divides by the larger of the two maxima and multiplies by 255. That maximum is 255, or 0 in an all-zero
map, so this step changes nothing. OpenCV stores the sum in 8 bits, where a sum above 255 wraps around, and the most
salient pixel could become the least salient. Here the sum is clipped to 255.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dali_mix.mixers import kernels
from dali_mix.mixers.layout import keep_format


def fine_grained_saliency(
    images: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Tensor:
    """Return the saliency of each pixel, 0 … 255: OpenCV's `StaticSaliencyFineGrained` times 255.

    The module docstring describes the computation. Except where OpenCV's 8-bit sum wraps around, the map equals
    OpenCV's for any image size, even above 2^24 / 255 pixels, where float32 sums are not exact.

    Floating-point images are first converted back to levels of 0 … 255, in float32: round(255 · (x · std + mean)), ties
    to even, clipped.

    Args:
        images: (B,3,H,W) RGB, uint8 or floating-point, any device and memory format; B ≥ 0, H and W ≥ 1.
        mean, std: normalization of floating-point images, three numbers each in 0..1 units.

    Returns:
        (B,H,W) uint8, contiguous, on the images' device; all zero for an image of uniform colour. Does not wait for a
        GPU.

    Raises:
        ValueError: a wrong shape or dtype, or floating-point images without three numbers each of mean and std.
    """
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"images have shape {tuple(images.shape)}: saliency takes (B,3,H,W), H and W at least 1")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}: saliency takes uint8, 0 … 255, or normalized floating-point")
    images = keep_format(images.detach(), images)
    compute = kernels.pick("saliency", images)
    if images.dtype == torch.uint8:
        return compute(images)
    if mean is None or std is None or not len(mean) == len(std) == 3:
        raise ValueError(
            f"saliency of {images.dtype} images needs the mean and std that they were normalized with, three numbers "
            "each in 0..1 units: pass them, or uint8 images"
        )
    return compute(images, [255 * value for value in std], [255 * value for value in mean])


def peaks(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return (rows, columns), (B,) int64 each: the position of the largest value of each map in `maps` (B,H,W).

    If a map has several largest values, this is the position of the first one in row-major order.
    """
    index = maps.flatten(1).argmax(1)  # torch returns the first maximum
    width = maps.shape[2]
    return index.div(width, rounding_mode="floor"), index % width
