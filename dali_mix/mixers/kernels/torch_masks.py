"""Free-form masks in plain torch operations, on any device, with about the memory of a few images."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_masks(lines: Tensor, discs: Tensor, height: int, width: int) -> Tensor:
    """See `ops.masks.draw_masks`."""
    rows = torch.arange(height, device=lines.device)[:, None] + 0.5
    cols = torch.arange(width, device=lines.device) + 0.5
    removed = torch.zeros(len(lines), height, width, dtype=torch.bool, device=lines.device)
    for line in lines.unbind(1):
        y, x, along_y, along_x, length, radius = line[:, :, None, None].unbind(1)
        along = (rows - y) * along_y + (cols - x) * along_x
        across = (rows - y) * along_x - (cols - x) * along_y
        beyond = along - along.clamp_min(0).minimum(length)
        removed |= beyond.square() + across.square() < radius.square()
    for disc in discs.unbind(1):
        y, x, radius = disc[:, :, None, None].unbind(1)
        removed |= (rows - y).square() + (cols - x).square() < radius.square()
    return removed
