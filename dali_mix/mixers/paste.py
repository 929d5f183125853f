"""Pasting a box of each image's partner into it: at the same place, or the whole partner resized to the box."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dali_mix.mixers import boxes as box_ops
from dali_mix.mixers.base import keep_format

Interpolation = Literal["nearest", "bilinear"]


def paste_boxes(images: Tensor, permutation: Tensor, boxes: Tensor) -> Tensor:
    """Image i with the pixels of image permutation[i] inside box i.

    Args:
        images: (B,C,H,W), any dtype.
        permutation: (B,) int64.
        boxes: (B,4) int64, top, left, height, width, inside the image.

    Returns:
        new images (B,C,H,W), in the memory format of `images`.
    """
    paste = _paste_slices if images.device.type == "cpu" else _paste_where
    return paste(images, permutation, boxes)


def paste_resized(images: Tensor, permutation: Tensor, boxes: Tensor, interpolation: Interpolation) -> Tensor:
    """Image i with the whole image permutation[i], resized to box i, inside box i.

    Args:
        images: (B,C,H,W), any dtype.
        permutation: (B,) int64.
        boxes: (B,4) int64, top, left, height, width, inside the image, sides ≥ 1.
        interpolation: "nearest" or "bilinear" (antialiased), as torch's `interpolate`.

    Returns:
        new images (B,C,H,W), in the memory format of `images`.
    """
    if images.device.type == "cpu":
        return _paste_resized_slices(images, permutation, boxes, interpolation)
    paste = _paste_nearest if interpolation == "nearest" else _paste_bilinear
    return paste(images, permutation, boxes)


def _paste_slices(images: Tensor, permutation: Tensor, boxes: Tensor) -> Tensor:
    # On a CPU copying only the boxes costs less than a second pass over all pixels.
    mixed = images.clone()
    for i, (source, (top, left, height, width)) in enumerate(zip(permutation.tolist(), boxes.tolist(), strict=True)):
        window = (slice(None), slice(top, top + height), slice(left, left + width))
        mixed[i][window] = images[source][window]
    return mixed


def _paste_where(images: Tensor, permutation: Tensor, boxes: Tensor) -> Tensor:
    height, width = images.shape[2:]
    mask = box_ops.inside(boxes, height, width)[:, None]
    return keep_format(torch.where(mask, images[permutation], images), images)


def _paste_resized_slices(images: Tensor, permutation: Tensor, boxes: Tensor, interpolation: Interpolation) -> Tensor:
    mixed = images.clone()
    for i, (source, (top, left, height, width)) in enumerate(zip(permutation.tolist(), boxes.tolist(), strict=True)):
        whole = images[source : source + 1]
        if interpolation == "nearest":
            small = F.interpolate(whole, (height, width), mode="nearest")
        else:
            small = F.interpolate(whole.float(), (height, width), mode="bilinear", antialias=True)
        mixed[i, :, top : top + height, left : left + width] = _as_pixels(small[0], images.dtype)
    return mixed


def _as_pixels(values: Tensor, dtype: torch.dtype) -> Tensor:
    if values.dtype == dtype:
        return values
    return values.to(dtype) if dtype.is_floating_point else values.round().to(dtype)


def _paste_nearest(images: Tensor, permutation: Tensor, boxes: Tensor) -> Tensor:
    """As `_paste_resized_slices`, in one gather for all images and without a look at the boxes from the host."""
    batch_size, _, height, width = images.shape
    itself = torch.arange(batch_size, device=images.device)
    rows = torch.arange(height, device=images.device)
    cols = torch.arange(width, device=images.device)
    top, left, box_h, box_w = boxes[:, :, None].unbind(1)
    pasted = box_ops.inside(boxes, height, width)
    from_image = torch.where(pasted, permutation[:, None, None], itself[:, None, None])
    from_row = torch.where(pasted, _nearest(rows - top, box_h, height)[:, :, None], rows[:, None])
    from_col = torch.where(pasted, _nearest(cols - left, box_w, width)[:, None, :], cols)
    mixed_bhwc = images.permute(0, 2, 3, 1)[from_image, from_row, from_col]
    return keep_format(mixed_bhwc.permute(0, 3, 1, 2), images)


def _nearest(pixel: Tensor, size: Tensor, full: int) -> Tensor:
    # In float32, as torch's interpolate does: now and then that is one below the integer quotient pixel * full // size.
    return (pixel.float() * (torch.full_like(size, full).float() / size.float())).floor().long()


def _paste_bilinear(images: Tensor, permutation: Tensor, boxes: Tensor) -> Tensor:
    """The antialiased resize as two matrix products an image: rows, then columns, each with its own weights."""
    height, width = images.shape[2:]
    top, left, box_h, box_w = boxes.unbind(1)
    rows = _triangle_weights(top, box_h, height)
    cols = _triangle_weights(left, box_w, width)
    whole = images[permutation].float()
    resized = _as_pixels(rows[:, None] @ whole @ cols[:, None].mT, images.dtype)
    return keep_format(torch.where(box_ops.inside(boxes, height, width)[:, None], resized, images), images)


def _triangle_weights(start: Tensor, size: Tensor, full: int) -> Tensor:
    """(B, full, full) float32: row start + d holds the weights that make pixel d of `size` from `full` pixels."""
    position = torch.arange(full, device=start.device)
    scale = (full / size.double())[:, None, None]
    centre = (position[None, :, None] - start[:, None, None] + 0.5) * scale
    weights = (1 - ((position + 0.5 - centre) / scale).abs()).clamp_min(0)
    # Rows outside the box may weigh nothing at all; they are not used.
    return (weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)).float()
