"""Pasting and blending in plain torch operations, for any device, dtype and memory format, and for torch.compile.

See `ops.paste` and `ops.blend` for arguments and results.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dali_mix.mixers.kernels.torch_per_image import inside
from dali_mix.mixers.layout import keep_format


def paste(images: Tensor, permutation: Tensor, boxes: Tensor, inplace: bool = False) -> Tensor:
    height, width = images.shape[2:]
    mask = inside(boxes, height, width)[:, None]
    return _result(torch.where(mask, images[permutation], images), images, inplace)


def paste_nearest(images: Tensor, permutation: Tensor, boxes: Tensor, inplace: bool = False) -> Tensor:
    """Paste with one gather that reads from the partner inside the box and from the image itself outside."""
    batch_size, _, height, width = images.shape
    itself = torch.arange(batch_size, device=images.device)
    rows = torch.arange(height, device=images.device)
    cols = torch.arange(width, device=images.device)
    top, left, box_h, box_w = boxes[:, :, None].unbind(1)
    pasted = inside(boxes, height, width)
    from_image = torch.where(pasted, permutation[:, None, None], itself[:, None, None])
    from_row = torch.where(pasted, nearest_source(rows - top, box_h, height)[:, :, None], rows[:, None])
    from_col = torch.where(pasted, nearest_source(cols - left, box_w, width)[:, None, :], cols)
    mixed_bhwc = images.permute(0, 2, 3, 1)[from_image, from_row, from_col]
    return _result(mixed_bhwc.permute(0, 3, 1, 2), images, inplace)


def nearest_source(pixel: Tensor, size: Tensor, full: int) -> Tensor:
    """Return the source pixel of each pixel, (B,n) int64, when `full` pixels are resized to `size` (nearest neighbour).

    pixel: (B,n) integers, indices along one side of each box. For indices outside 0 … size - 1, results are not valid.
    size: (B,1) integers, the number of pixels along this side.
    """
    # In float32, like torch's interpolate; the result is sometimes one below the integer quotient pixel * full // size.
    # The ratio is computed in float64 and rounds to the float32 quotient; a float32 division under torch.compile could
    # be off by 1 ulp.
    ratio = (full / size.double()).float()
    return (pixel.float() * ratio).floor().long()


def paste_bilinear(images: Tensor, permutation: Tensor, boxes: Tensor, inplace: bool = False) -> Tensor:
    """Paste resized partners with two matrix products per image, one for rows and one for columns.

    Computed in float64, which TF32 and autocast do not affect. In float32, a GPU may round factors to mantissas of 10
    bits or fewer.
    """
    height, width = images.shape[2:]
    top, left, box_h, box_w = boxes.unbind(1)
    rows = triangle_weights(top, box_h, height)
    cols = triangle_weights(left, box_w, width)
    partners = images[permutation].double()
    resized = rows[:, None] @ partners @ cols[:, None].mT
    if not images.is_floating_point():
        # Convert to float32 first, as in the compiled loops: ties must not depend on the last bits of a float64.
        resized = resized.float().round()
    mask = inside(boxes, height, width)[:, None]
    return _result(torch.where(mask, resized.to(images.dtype), images), images, inplace)


def triangle_weights(start: Tensor, size: Tensor, full: int) -> Tensor:
    """Return the weights of an antialiased bilinear resize of `full` pixels to each image's box, along one side.

    start, size: (B,) int64, first pixel and number of pixels of the boxes.

    Returns:
        (B, full, full) float64. Row start + d contains the weights of all source pixels for pixel d of the box. Rows
        outside the box are not used.
    """
    position = torch.arange(full, device=start.device)
    # A weight is proportional to 1 - |distance| of pixel centres, in pixels of the resized image. Numerators are
    # integers, so only the division rounds.
    centre = (2 * (position - start[:, None]) + 1) * full
    distance = (2 * position + 1) * size[:, None, None] - centre[:, :, None]
    weights = (2 * full - distance.abs()).clamp_min(0).double()
    # Weights of rows outside the box may sum to 0; those rows are not used.
    return weights / weights.sum(-1, keepdim=True).clamp_min(1)


def erase(images: Tensor, boxes: Tensor, inplace: bool = False) -> Tensor:
    mask = inside(boxes, *images.shape[2:])[:, None]
    return _result(images.masked_fill(mask, 0), images, inplace)


def blend(images: Tensor, permutation: Tensor, lam: Tensor, inplace: bool = False) -> Tensor:
    """See `ops.blend.blend`. The gathered partners are overwritten with the result, to save memory."""
    wide = torch.float64 if images.dtype == torch.float64 else torch.float32
    partners = images[permutation].to(wide)
    # Reuse the memory of the gathered partners instead of allocating a third batch.
    mixed = partners.lerp_(images.to(wide), lam[:, None, None, None].to(wide))
    if not images.is_floating_point():
        mixed = mixed.round()
    return _result(mixed.to(images.dtype), images, inplace)


def _result(mixed: Tensor, images: Tensor, inplace: bool) -> Tensor:
    return images.copy_(mixed) if inplace else keep_format(mixed, images)
