"""SpliceMix on a CPU: numba loops fill the new batch in one pass.

An image is copied to the output along with the first cell that shows it, so that it is read from memory once. Images
that appear in no cell are copied separately.

Cells are resized directly into the appended image. If the tiling does not fill that image, they are resized into a
float32 buffer for one tiling, which fits into the cache, and the buffer is then resized.

Batches are flat arrays in memory order, and `shape` is (planes, height, width, pixel), as in `numba_paste_loops`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dali_mix.compiled import jit, memcpy
from dali_mix.mixers.kernels.threads import cut, threads_for, together
from dali_mix.mixers.layout import empty_on_huge_pages, flat, image_shape, int64


def splice(images: Tensor, grids: Sequence[tuple[int, int, Tensor, Tensor]]) -> Tensor:
    """See `ops.splice.splice`."""
    tilings = [(rows, cols, int64(sources), dropped.numpy()) for rows, cols, sources, dropped in grids]
    shown = np.concatenate([np.empty(0, np.int64), *(sources.reshape(-1) for _, _, sources, _ in tilings)])
    _, first_shown = np.unique(shown, return_index=True)
    copies = np.zeros(len(shown), np.bool_)
    copies[first_shown] = True
    not_shown = np.setdiff1d(np.arange(len(images)), shown)
    out = empty_on_huge_pages(images, len(images) + sum(len(sources) for _, _, sources, _ in tilings))
    batch, result, shape = flat(images, images.dtype), flat(out, images.dtype), image_shape(images)
    rounded = images.dtype == torch.uint8
    threads = threads_for(len(out), out.nbytes)

    def work(thread: int) -> None:
        _copy_images(batch, result, not_shown[cut(len(not_shown), threads)[thread]], images[:1].numel())
        first, cell = len(images), 0
        for rows, cols, sources, dropped in tilings:
            part = cut(len(sources), threads)[thread]
            copied = copies[cell : cell + sources.size].reshape(sources.shape)
            at = first + part.start
            _tile(batch, result, at, sources[part], dropped[part], copied[part], rows, cols, shape, rounded)
            first, cell = first + len(sources), cell + sources.size

    together([functools.partial(work, thread) for thread in range(threads)])
    return out


@jit
def _copy_images(images, out, numbers, size):
    for i in numbers:
        _copy_image(images, out, i * size, size)


@jit
def _copy_image(images, out, start, size):
    memcpy(out.ctypes.data + start * out.itemsize, images.ctypes.data + start * images.itemsize, size * out.itemsize)


@jit
def _tile(images, out, first, sources, dropped, copied, rows, cols, shape, rounded):
    """Write the tiled images of a grid to `out`, starting at image `first`.

    sources, dropped, copied: (n, rows · cols). copied: True for cells whose source image is copied to `out` as well.
    """
    planes, height, width, pixel = shape
    cell_h, cell_w = height // rows, width // cols
    tiled = (planes, rows * cell_h, cols * cell_w, pixel)
    row, size = width * pixel, planes * height * width * pixel
    exact = tiled == shape
    tiling = np.empty(0 if exact else planes * tiled[1] * tiled[2] * pixel, np.float32)
    for t in range(len(sources)):
        image = (first + t) * size
        for cell in range(rows * cols):
            source = sources[t, cell] * size
            top, left = cell // cols * cell_h, cell % cols * cell_w
            if exact:
                corner = image + top * row + left * pixel
                _fill(images, source, shape, dropped[t, cell], out, corner, row, height, cell_h, cell_w, rounded)
            else:
                tiled_row = tiled[2] * pixel
                corner = top * tiled_row + left * pixel
                _fill(
                    images, source, shape, dropped[t, cell], tiling, corner, tiled_row, tiled[1], cell_h, cell_w, False
                )
            if copied[t, cell]:
                _copy_image(images, out, source, size)
        if not exact:
            _fill(tiling, 0, tiled, False, out, image, row, height, height, width, rounded)


@jit
def _fill(source, start, shape, dropped, out, to, out_row, out_height, box_h, box_w, rounded):
    """Write the image at offset `start` of `source` to `out`, resized to `box_h` × `box_w`; zeros if `dropped`.

    `shape` is the shape of the source image. The resized image begins at offset `to` of `out`, whose rows have
    `out_row` values and whose planes have `out_height` rows. `rounded` is True to round to the nearest integer.

    Bilinear with aligned corners, like torch's `interpolate`: pixel d of n is at source coordinate
    d · ((N - 1) / (n - 1)) of N, in float32.
    """
    planes, height, width, pixel = shape
    row, count = width * pixel, box_w * pixel
    down = np.float32(height - 1) / np.float32(max(box_h - 1, 1))
    across = np.float32(width - 1) / np.float32(max(box_w - 1, 1))
    # For each value of an output row: the index of its left source value, and the weights of its right and left source
    # values. Indices are unsigned, so that numba does not check for negative ones.
    near = np.empty(count, np.uint32)
    share, rest = np.empty(count, np.float32), np.empty(count, np.float32)
    for x in range(box_w):
        at = np.float32(x) * across
        left = min(np.int64(at), width - 1)
        for c in range(pixel):
            near[x * pixel + c] = left * pixel + c
            share[x * pixel + c] = min(at - np.float32(left), np.float32(1)) if left < width - 1 else np.float32(0)
            rest[x * pixel + c] = np.float32(1) - share[x * pixel + c]
    mixed = np.zeros(row + pixel, np.float32)  # the pixel after the last has weight 0
    step = np.uint32(pixel)
    for p in range(planes):
        for y in range(box_h):
            begin = to + (p * out_height + y) * out_row
            made = out[begin : begin + count]
            if dropped:
                made[:] = 0
                continue
            at = np.float32(y) * down
            top = min(np.int64(at), height - 1)
            lower = min(at - np.float32(top), np.float32(1))
            upper = np.float32(1) - lower
            above, below = start + (p * height + top) * row, start + (p * height + min(top + 1, height - 1)) * row
            over, under = source[above : above + row], source[below : below + row]
            for k in range(row):
                mixed[k] = upper * np.float32(over[k]) + lower * np.float32(under[k])
            for k in range(count):
                value = rest[k] * mixed[near[k]] + share[k] * mixed[near[k] + step]
                made[k] = np.rint(value) if rounded else value
