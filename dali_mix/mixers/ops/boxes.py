"""Boxes as (B,4) int64 rows of top, left, height, width, in pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from dali_mix.mixers.kernels import numba_batch
from dali_mix.mixers.ops import draws


def cut(kept: Tensor, centre_y: Tensor, centre_x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Boxes with the image's ratio of sides, clipped at its border, and what is left of the image.

    Args:
        kept: (B,) float64 in [0,1], the share of the image that a box not clipped leaves; its sides are
            ⌊√(1 - kept) · height⌋ and ⌊√(1 - kept) · width⌋.
        centre_y, centre_x: (B,) int64, inside the image.

    Returns:
        boxes (B,4) int64, a side may be 0; and `kept_share` of them, (B,) float32.
    """
    found = numba_batch.drawn_boxes(kept, centre_y, centre_x, height, width, whole=False)
    if found is None:
        side = draws.square_root(1.0 - kept)
        boxes = clipped(centre_y, centre_x, (side * height).long(), (side * width).long(), height, width)
        found = boxes, kept_share(boxes, height, width)
    return found


def shrunk(scale: Tensor, centre_y: Tensor, centre_x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Boxes for whole images that are shrunk, moved to lie fully inside the image, and what is left of that.

    Args:
        scale: (B,) float64 in (0,1]; the sides are ⌊scale · height⌋ and ⌊scale · width⌋, at least 1.
        centre_y, centre_x: (B,) int64, inside the image.

    Returns:
        boxes (B,4) int64; and `kept_share` of them, (B,) float32.
    """
    found = numba_batch.drawn_boxes(scale, centre_y, centre_x, height, width, whole=True)
    if found is None:
        box_h, box_w = (scale * height).long().clamp_min(1), (scale * width).long().clamp_min(1)
        boxes = shifted_inside(centre_y, centre_x, box_h, box_w, height, width)
        found = boxes, kept_share(boxes, height, width)
    return found


def clipped(centre_y: Tensor, centre_x: Tensor, box_h: Tensor, box_w: Tensor, height: int, width: int) -> Tensor:
    """Boxes around centres, cut off at the border of a `height` × `width` image.

    An even side reaches one pixel further up (left) of its centre than down (right).

    Args:
        centre_y, centre_x, box_h, box_w: (B,) int64, centres inside the image, sides ≥ 0.

    Returns:
        (B,4) int64; a side may be 0.
    """
    top, left = centre_y - box_h // 2, centre_x - box_w // 2
    bottom, right = (top + box_h).clamp_max(height), (left + box_w).clamp_max(width)
    top, left = top.clamp_min(0), left.clamp_min(0)
    return torch.stack([top, left, bottom - top, right - left], dim=1)


def shifted_inside(centre_y: Tensor, centre_x: Tensor, box_h: Tensor, box_w: Tensor, height: int, width: int) -> Tensor:
    """Boxes around centres, moved to lie fully inside a `height` × `width` image; never cut.

    Args:
        centre_y, centre_x, box_h, box_w: (B,) int64, sides in 1 … height and 1 … width.

    Returns:
        (B,4) int64.
    """
    top = (centre_y - box_h // 2).clamp_min(0).minimum(height - box_h)
    left = (centre_x - box_w // 2).clamp_min(0).minimum(width - box_w)
    return torch.stack([top, left, box_h, box_w], dim=1)


def kept_share(boxes: Tensor, height: int, width: int) -> Tensor:
    """(B,) float32: the share of a `height` × `width` image that lies outside its box (the λ of a paste)."""
    area = boxes[:, 2] * boxes[:, 3]
    return (1.0 - area.double() / (height * width)).float()


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """(B, height, width) bool: True inside the box."""
    rows = torch.arange(height, device=boxes.device)
    cols = torch.arange(width, device=boxes.device)
    top, left, box_h, box_w = boxes[:, :, None].unbind(1)
    in_rows = (rows >= top) & (rows < top + box_h)
    in_cols = (cols >= left) & (cols < left + box_w)
    return in_rows[:, :, None] & in_cols[:, None, :]
