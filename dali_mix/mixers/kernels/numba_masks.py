"""Free-form masks on a CPU, drawn by numba loops that visit only pixels near each line or disc."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from dali_mix.compiled import jit
from dali_mix.mixers.kernels.threads import cut, threads_for, together


def draw_masks(lines: Tensor, discs: Tensor, height: int, width: int) -> Tensor:
    """See `ops.masks.draw_masks`."""
    # A disc is drawn as a line of length 0. Its direction, (0, 1), adds no rounding error to the distance.
    sideways = torch.tensor([0.0, 1.0, 0.0]).expand(*discs.shape[:2], 3)
    shapes = torch.cat([lines, torch.cat([discs[..., :2], sideways, discs[..., 2:]], dim=2)], dim=1).contiguous()
    removed = np.zeros((len(shapes), height, width), np.bool_)
    parts = cut(len(shapes), threads_for(len(shapes), removed.size * shapes.shape[1]))
    together([functools.partial(_draw, shapes[part].numpy(), removed[part]) for part in parts])
    return torch.from_numpy(removed)


@jit
def _draw(shapes, removed):
    """Set the pixels that `shapes` cover to True in `removed`, (B,H,W) bool.

    shapes: (B,n,6) float32, in the format of `lines` of `ops.masks.draw_masks`. The float32 operations and their order
    are those of `torch_masks`, so results are bit-identical.
    """
    _, height, width = removed.shape
    rows = np.arange(height).astype(np.float32) + np.float32(0.5)
    cols = np.arange(width).astype(np.float32) + np.float32(0.5)
    for i in range(len(shapes)):
        for n in range(shapes.shape[1]):
            y, x, along_y, along_x, length, radius = shapes[i, n]
            if radius == 0:
                continue
            end_y, end_x = y + along_y * length, x + along_x * length
            # One more pixel on every side, plus the rounding error of float32 coordinates far outside the image.
            margin = abs(radius) + np.float32(1) + np.float32(1e-5) * (abs(y) + abs(x) + length + abs(radius))
            first, last = _reach(min(y, end_y) - margin, max(y, end_y) + margin, height)
            left, right = _reach(min(x, end_x) - margin, max(x, end_x) + margin, width)
            columns, limit = cols[left:right], radius * radius
            for row in range(first, last):
                down, line = rows[row] - y, removed[i, row, left:right]
                for k in range(len(columns)):
                    over = columns[k] - x
                    along = down * along_y + over * along_x
                    across = down * along_x - over * along_y
                    beyond = along - min(max(along, np.float32(0)), length)
                    line[k] |= beyond * beyond + across * across < limit


@jit
def _reach(low, high, size):
    """Return (start, stop), the index range of the pixels from `low` to `high`, clipped to 0 … size.

    Return (0, size) if `low` or `high` is NaN, or if `low` ≤ -1e9 or `high` ≥ 1e9.
    """
    if not (low > -1e9 and high < 1e9):
        return 0, size
    return min(max(int(low), 0), size), max(min(int(high) + 1, size), 0)
