"""Convert between maps and tokens, the inputs of heads, and compute position embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def as_tokens(features: Tensor, channels: int) -> Tensor:
    """Return `features` as tokens (B,N,C). Maps (B,C,H,W) are read row by row. Raise ValueError for any other shape."""
    if features.ndim == 4 and features.shape[1] == channels:
        return features.flatten(2).transpose(1, 2)
    if features.ndim == 3 and features.shape[2] == channels:
        return features
    needed = f"maps (B,{channels},H,W) or tokens (B,N,{channels})"
    raise ValueError(f"features {tuple(features.shape)}: this head needs {needed}")


def as_maps(values: Tensor, features: Tensor) -> Tensor:
    """Return `values` (B,K,N) as (B,K,H,W) if `features` are maps (B,C,H,W), else unchanged."""
    return values.unflatten(2, features.shape[2:]) if features.ndim == 4 else values


def grid_of(features: Tensor) -> tuple[int, int]:
    """Return (rows, columns) of the positions in maps (B,C,H,W) or tokens (B,N,C).

    Tokens are assumed to form a square grid. Raise ValueError if N is not a square number.
    """
    if features.ndim == 4:
        return features.shape[2], features.shape[3]
    count = features.shape[1]
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"{count} tokens do not form a square grid: pass maps (B,C,H,W), whose shape is known")
    return side, side


def sine_positions(dim: int, rows: int, columns: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the sine embedding of a grid (arXiv 2005.12872, normalized): (rows · columns, dim) float32.

    The first half of the channels encodes the row, the second the column. Wavelengths grow from 2π to less than
    10000 · 2π, and each side of the grid spans 2π. `dim` must be a multiple of 4.
    """
    steps = torch.arange(dim // 4, device=device, dtype=torch.float32)
    waves = 10000 ** (steps / (dim // 4))
    sides = []
    for count in (rows, columns):
        # 1e-6 as published: another value would change the outputs of a trained head.
        phases = torch.arange(1, count + 1, device=device, dtype=torch.float32) / (count + 1e-6) * (2 * math.pi)
        angles = phases[:, None] / waves
        sides.append(torch.stack([angles.sin(), angles.cos()], 2).flatten(1))
    down, across = sides
    grid = (rows, columns, dim // 2)
    return torch.cat([down[:, None].expand(grid), across[None].expand(grid)], 2).flatten(0, 1)
