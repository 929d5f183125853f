"""Per-image arithmetic in plain torch: boxes, range checks, class targets.

Boxes are (B,4) int64, (top, left, height, width) in pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def clipped_boxes(side: Tensor, centre_y: Tensor, centre_x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return boxes centred on (centre_y, centre_x) and clipped at the border, and their `kept_share`.

    side: (B,) float64, height and width of the boxes relative to those of the image.
    """
    boxes = clipped(centre_y, centre_x, (side * height).long(), (side * width).long(), height, width)
    return boxes, kept_share(boxes, height, width)


def shifted_boxes(side: Tensor, centre_y: Tensor, centre_x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return boxes of ⌊side · height⌋ × ⌊side · width⌋ pixels, each side at least 1, and their `kept_share`.

    They are centred on (centre_y, centre_x), then shifted to lie inside the image. side: (B,) float64, at most 1.
    """
    box_h, box_w = (side * height).long().clamp_min(1), (side * width).long().clamp_min(1)
    top = (centre_y - box_h // 2).clamp_min(0).minimum(height - box_h)
    left = (centre_x - box_w // 2).clamp_min(0).minimum(width - box_w)
    boxes = torch.stack([top, left, box_h, box_w], dim=1)
    return boxes, kept_share(boxes, height, width)


def clipped(centre_y: Tensor, centre_x: Tensor, box_h: Tensor, box_w: Tensor, height: int, width: int) -> Tensor:
    """Return boxes centred on (centre_y, centre_x), clipped at the border of a `height` × `width` image.

    An even side reaches one pixel further up (left) from its centre than down (right).

    Args:
        centre_y, centre_x, box_h, box_w: (B,) int64, centres inside the image, sides ≥ 0.

    Returns:
        (B,4) int64; a side may be 0.
    """
    top, left = centre_y - box_h // 2, centre_x - box_w // 2
    bottom, right = (top + box_h).clamp_max(height), (left + box_w).clamp_max(width)
    top, left = top.clamp_min(0), left.clamp_min(0)
    return torch.stack([top, left, bottom - top, right - left], dim=1)


def kept_share(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return (B,) float32, the share of a `height` × `width` image that lies outside its box (the λ of a paste)."""
    area = boxes[:, 2] * boxes[:, 3]
    return (1.0 - area.double() / (height * width)).float()


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return (B, height, width) bool, True for the pixels of image i inside box i of `boxes` (B,4)."""
    rows = torch.arange(height, device=boxes.device)
    cols = torch.arange(width, device=boxes.device)
    top, left, box_h, box_w = boxes[:, :, None].unbind(1)
    in_rows = (rows >= top) & (rows < top + box_h)
    in_cols = (cols >= left) & (cols < left + box_w)
    return in_rows[:, :, None] & in_cols[:, None, :]


def boxes_inside(boxes: Tensor, height: int, width: int) -> bool:
    """Return True if boxes (B,4) lie inside `height` × `width`.

    Always True on a GPU, where a check would synchronize, and under torch.compile.
    """
    if boxes.device.type != "cpu" or torch.compiler.is_compiling() or not len(boxes):
        return True
    numbers = boxes.numpy()
    # A sum of corner and side would overflow near 2^63.
    return bool(numbers.min() >= 0 and (numbers[:, 2:] <= np.array([height, width]) - numbers[:, :2]).all())


def in_range(indices: Tensor, count: int) -> bool:
    """Return True if all indices (B,) are in 0 … count - 1.

    Always True on a GPU, where a check would synchronize, and under torch.compile.
    """
    if indices.device.type != "cpu" or torch.compiler.is_compiling() or not len(indices):
        return True
    low, high = indices.aminmax()
    return bool(low >= 0) and bool(high < count)


def mix_classes(targets: Tensor, permutation: Tensor, lam: Tensor, num_classes: int) -> Tensor:
    """Return targets with lam at each image's class and 1 - lam at its partner's; exactly 1 if both are equal.

    Args:
        targets: (B,) integers, 0 … num_classes - 1.
        permutation: (B,) int64.
        lam: (B,).

    Returns:
        (B, num_classes) float32.
    """
    own = targets.long()
    other, share = own[permutation], lam.float()
    mixed = zeros(targets, len(targets), num_classes).scatter_(1, other[:, None], (1 - share)[:, None])
    return mixed.scatter_(1, own[:, None], share.masked_fill(own == other, 1.0)[:, None])


def zeros(like: Tensor, rows: int, columns: int) -> Tensor:
    """Return zeros (rows, columns) float32 on the device of `like`."""
    if like.device.type == "cpu" and not torch.compiler.is_compiling():
        # torch.zeros would start all its threads, which then spin for a while on the cores that the mixing loops need.
        return torch.from_numpy(np.zeros((rows, columns), np.float32))
    return torch.zeros(rows, columns, device=like.device)
