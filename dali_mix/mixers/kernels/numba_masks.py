"""Free-form masks on a CPU, drawn by loops compiled by numba: the pixels near each line or disc, no others."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dali_mix.mixers.kernels import numba_batch
from dali_mix.mixers.kernels.numba_loops import _compile
from dali_mix.mixers.kernels.threads import together


def draw(lines: Tensor, discs: Tensor, height: int, width: int) -> Tensor:
    """(B,H,W) bool: True nearer than its radius to a line or a disc's centre.

    Args:
        lines: (B,n,6) float32: y, x of the start, y, x of the direction, length, radius. discs: (B,m,3): y, x, radius.
    """
    # A disc is a line of no length. Its distance is rounded as with any direction of 0 and 1: there is no rounding.
    sideways = torch.tensor([0.0, 1.0, 0.0]).expand(*discs.shape[:2], 3)
    shapes = torch.cat([lines, torch.cat([discs[..., :2], sideways, discs[..., 2:]], dim=2)], dim=1).contiguous()
    removed = np.zeros((len(shapes), height, width), np.bool_)
    threads = numba_batch.threads_for(len(shapes), removed.size * shapes.shape[1])
    parts = np.array_split(np.arange(len(shapes)), threads)
    together([functools.partial(_draw, shapes.numpy(), removed, part) for part in parts])
    return torch.from_numpy(removed)


@_compile
def _draw(shapes: Any, removed: Any, order: Any) -> None:
    """The masks in `order`. The same float32 operations in the same order as by torch, so the same bits."""
    _, height, width = removed.shape
    rows = np.arange(height).astype(np.float32) + np.float32(0.5)
    cols = np.arange(width).astype(np.float32) + np.float32(0.5)
    for i in order:
        for n in range(shapes.shape[1]):
            y, x, along_y, along_x, length, radius = shapes[i, n]
            if radius == 0:
                continue
            end_y, end_x = y + along_y * length, x + along_x * length
            # A pixel more all around, and what float32 may be off by far outside the image.
            margin = abs(radius) + np.float32(1) + np.float32(1e-5) * (abs(y) + abs(x) + length + abs(radius))
            first, last = _reach(min(y, end_y) - margin, max(y, end_y) + margin, height)
            left, right = _reach(min(x, end_x) - margin, max(x, end_x) + margin, width)
            places, limit = cols[left:right], radius * radius
            for row in range(first, last):
                down, line = rows[row] - y, removed[i, row, left:right]
                for k in range(len(places)):
                    over = places[k] - x
                    along = down * along_y + over * along_x
                    across = down * along_x - over * along_y
                    beyond = along - min(max(along, np.float32(0)), length)
                    line[k] |= beyond * beyond + across * across < limit


@_compile
def _reach(low: float, high: float, size: int) -> Any:
    """The pixels from low to high, of 0 … size - 1; all of them where that is no number."""
    if not (low > -1e9 and high < 1e9):
        return 0, size
    return min(max(int(low), 0), size), max(min(int(high) + 1, size), 0)
