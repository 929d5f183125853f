"""Tile images from images of the batch, in plain torch operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from dali_mix.mixers.layout import empty_like_batch


def splice(images: Tensor, grids: Sequence[tuple[int, int, Tensor, Tensor]]) -> Tensor:
    """See `ops.splice.splice`."""
    filled = len(images)
    mixed = empty_like_batch(images, filled + sum(len(sources) for _, _, sources, _ in grids))
    mixed[:filled] = images
    for rows, cols, sources, dropped in grids:
        if len(sources):
            _tile(images, rows, cols, sources, dropped, mixed[filled : filled + len(sources)])
        filled += len(sources)
    return mixed


def _tile(images: Tensor, rows: int, cols: int, sources: Tensor, dropped: Tensor, out: Tensor) -> None:
    """Write the tiled images of a grid to `out`, (n,C,H,W). See `ops.splice.splice`."""
    count, channels, height, width = out.shape
    cell_h, cell_w = height // rows, width // cols
    exact = (rows * cell_h, cols * cell_w) == (height, width)
    cells = _cells(images, sources.flatten(), (cell_h, cell_w))
    tiling = out if exact else cells.new_empty(count, channels, rows * cell_h, cols * cell_w)
    # Dimensions before `permute`: image, channel, row of cells, row of pixels in a cell, column of cells, column of
    # pixels in a cell.
    view = tiling.view(count, channels, rows, cell_h, cols, cell_w).permute(0, 2, 4, 1, 3, 5)
    view.copy_((cells if tiling.dtype == cells.dtype else cells.round()).view(view.shape))
    if dropped.device.type != "cpu" or dropped.any():
        view.masked_fill_(dropped.view(count, rows, cols, 1, 1, 1), 0)
    if not exact:
        resized = _resize(tiling, (height, width))
        out.copy_(resized if out.dtype == resized.dtype else resized.round())


def _cells(images: Tensor, sources: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the images at `sources`, resized to `size`: (len(sources), C, *size).

    If `sources` has at most half as many entries as the batch has images, each entry is resized. Otherwise, every image
    of the batch is resized once.
    """
    if 2 * len(sources) <= len(images):
        return _resize(images[sources], size)
    return _resize(images, size)[sources]


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N,C,H,W) to (N,C,*size), bilinear with aligned corners, in the images' dtype; integers become float32."""
    images = images if images.is_floating_point() else images.float()
    return F.interpolate(images, size, mode="bilinear", align_corners=True)
