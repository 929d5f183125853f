"""`fine_grained_saliency` on a CUDA device: five launches a batch, straight from normalized images where need be.

Host code only; the Triton kernels are in `triton_saliency_kernels`. The same numbers as the torch versions in
`mixers.ops.saliency`, to the bit; see there for what is computed. Images whose sums float32 does not hold are left to
those.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dali_mix.mixers.kernels import triton_batch
from dali_mix.mixers.kernels import triton_saliency_kernels as kernels
from dali_mix.mixers.ops.saliency import EXACT, RADII

WIDEST = 2048  # a program takes rows whole
STRIP = 32  # rows that are blurred and summed together
BLOCK, TILE = 512, 1024  # four pixels a thread


def suits(images: Tensor) -> bool:
    """Whether the kernels take a batch of this kind and size; `gpu.takes` says whether it is where they run."""
    if images.ndim != 4 or images.shape[1] != 3 or not triton_batch.suits(images, triton_batch.BLENDED):
        return False
    height, width = images.shape[2:]
    return 1 <= height * width <= EXACT // 255 and width <= WIDEST


def maps(images: Tensor, scale: Sequence[float] = (1, 1, 1), shift: Sequence[float] = (0, 0, 0)) -> Tensor:
    """(B,3,H,W), as `suits` allows, → (B,H,W) uint8. Floating-point images are brought to grey levels, 0 … 255, by
    round(x · scale + shift), three numbers each; they go to the kernel by value, so that a CUDA graph keeps them.
    """
    images = images.detach()
    count, _, height, width = images.shape
    size = height * width
    out = torch.empty(count, height, width, dtype=torch.uint8, device=images.device)
    if size == 1:  # no surround at all
        return out.zero_()
    if not count:
        return out
    grey, blurred = torch.empty_like(out), torch.empty_like(out)
    columns, sums = torch.empty_like(out, dtype=torch.int16), torch.empty_like(out, dtype=torch.int32)
    table = torch.empty(count, height + 1, width + 1, dtype=torch.int32, device=images.device)
    most = torch.empty(count, 2, dtype=torch.int32, device=images.device)
    channel, pixel = (size, 1) if images.is_contiguous() else (1, 3)
    flat = (-(-size // BLOCK), count)
    whole = max(32, 1 << (width - 1).bit_length())
    rows, narrow, cols = min(STRIP, 4096 // whole), min(128, whole), min(256, whole)
    with triton_batch.device_of(images):
        kernels.grey_levels[flat](
            triton_batch.in_order(images), grey, size, channel, pixel, *map(float, (*scale, *shift)),
            FLOATS=images.is_floating_point(), BLOCK=BLOCK, **kernels.UNFUSED,
        )  # fmt: skip
        kernels.blur[-(-height // STRIP), -(-width // narrow), count](
            grey, blurred, columns, height, width, STRIP=STRIP, COLS=narrow, num_warps=max(1, narrow // 64)
        )
        kernels.integral[-(-height // rows), count](
            columns, table, most, height, width, STRIP=STRIP, ROWS=rows, COLS=whole, num_warps=8
        )
        kernels.on_and_off[-(-height // (TILE // cols)), -(-width // cols), count](
            blurred, table, sums, most, height, width, RADII=RADII, ROWS=TILE // cols, COLS=cols, num_warps=8
        )
        kernels.to_bytes[flat](sums, most, out, size, BLOCK=BLOCK)
    return out
