"""Fine-grained saliency on a CPU by numba loops, one image at a time, so that intermediate results fit into the cache.

Bit-identical to `torch_saliency`; `ops.saliency` defines the computation. A row of the integral image is

    REACH zeros │ 0 │ sums of the W columns │ the last sum, REACH times

so that columns x - radius + 1 and x + radius + 1 exist for every pixel and radius, and the inner loop needs no bounds
check.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dali_mix.compiled import jit
from dali_mix.mixers.kernels.threads import cut, threads_for, together

_COST = 16  # per pixel, in bytes that could be copied in the same time

RADII = np.array((12, 24, 48, 28, 56, 112))
REACH = 112  # the largest radius


def saliency(images: Tensor, scale: Sequence[float] = (), shift: Sequence[float] = ()) -> Tensor:
    """Return saliency maps (B,H,W) uint8 of images (B,3,H,W).

    Floating-point images are first converted by `to_uint8`.
    """
    if images.is_floating_point():
        images = to_uint8(images.float(), scale, shift)
    out = np.empty((len(images), *images.shape[2:]), np.uint8)
    _share(_maps, images, out)
    return torch.from_numpy(out)


def to_uint8(images: Tensor, scale: Sequence[float], shift: Sequence[float]) -> Tensor:
    """Return round(x · scale + shift) of (B,3,H,W) float32 as uint8, clipped.

    scale, shift: one number per channel.
    """
    out = np.empty(images.shape, np.uint8)
    _share(_levels, images, out, np.array(scale, np.float32), np.array(shift, np.float32))
    return torch.from_numpy(out)


def _share(kernel: Any, images: Tensor, out: Any, *constants: Any) -> None:
    batch = images.numpy()
    parts = cut(len(out), threads_for(len(out), out.size * _COST))
    together([functools.partial(kernel, batch[part], out[part], *constants) for part in parts])


@jit
def _levels(images, out, scale, shift):
    for i in range(len(images)):
        for c in range(3):
            plane = images[i, c]
            for y in range(images.shape[2]):
                for x in range(images.shape[3]):
                    level = np.rint(plane[y, x] * scale[c] + shift[c])
                    out[i, c, y, x] = np.uint8(min(max(level, np.float32(0)), np.float32(255)))


@jit
def _blur(source, out):
    height, width = source.shape
    column = np.empty(width + 2, np.int32)
    for y in range(height):
        row, above = source[y], source[min(abs(y - 1), height - 1)]
        below = source[max(0, height - 1 - abs(y + 2 - height))]
        for x in range(width):
            column[x + 1] = np.int32(above[x]) + 2 * np.int32(row[x]) + np.int32(below[x])
        column[0], column[width + 1] = column[1 + min(1, width - 1)], column[1 + max(0, width - 2)]
        for x in range(width):
            out[y, x] = (column[x] + 2 * column[x + 1] + column[x + 2] + 8) >> 4


@jit
def _add_row(above, below, grey, radius, rows, columns, difference, magnitude):
    """Add ⌊on⌋ - ⌊off⌋ of one radius to `difference` and ⌊on⌋ + ⌊off⌋ to `magnitude`, in one row of an image.

    difference, magnitude: (W,) int32, sums over the radii, changed in place. grey: (W,) the row's grey levels. above,
    below: the rows of the padded integral image (see the module docstring) at the first row of the surround and at the
    row after its last. rows: height of the surround. columns: (W,) its width at each pixel.
    """
    width = len(grey)
    top_left, bottom_left = above[REACH - radius + 1 :], below[REACH - radius + 1 :]
    top_right, bottom_right = above[REACH + radius + 1 :], below[REACH + radius + 1 :]
    for x in range(width):
        total = ((bottom_right[x] + top_left[x]) - bottom_left[x]) - top_right[x]
        pixel = np.float32(grey[x])
        others = np.float32(rows * columns[x] - np.int32(1))
        step = np.int32(pixel - (total - pixel) / others)
        difference[x] += step
        magnitude[x] += abs(step)


@jit
def _maps(images, out):
    count, _, height, width = images.shape
    out[:] = 0
    if height * width == 1:  # a single pixel has no surround
        return
    first, second = np.empty((height, width), np.uint8), np.empty((height, width), np.uint8)
    table = np.zeros((height + 1, width + 1 + 2 * REACH), np.float32)
    columns = np.empty((len(RADII), width), np.int32)
    for k in range(len(RADII)):
        for x in range(width):
            columns[k, x] = min(x + RADII[k] + 1, width) - max(x - RADII[k] + 1, 0)
    on, off = np.empty((height, width), np.int32), np.empty((height, width), np.int32)
    byte = np.empty((2, 6 * 255 + 1), np.uint8)
    for i in range(count):
        red, green, blue = images[i, 0], images[i, 1], images[i, 2]
        for y in range(height):
            for x in range(width):
                grey = 9798 * np.int32(red[y, x]) + 19235 * np.int32(green[y, x]) + 3735 * np.int32(blue[y, x])
                first[y, x] = (grey + 16384) >> 15
        _blur(first, second)
        _blur(second, first)
        for y in range(height):
            row, total = table[y + 1], np.int32(0)
            for x in range(width):
                total += first[y, x]
                row[REACH + 1 + x] = table[y, REACH + 1 + x] + np.float32(total)
            row[REACH + 1 + width :] = row[REACH + width]
        most_on, most_off = np.int32(0), np.int32(0)
        for y in range(height):
            difference, magnitude = on[y], off[y]
            difference[:] = 0
            magnitude[:] = 0
            for k in range(len(RADII)):
                top, bottom = max(y - RADII[k] + 1, 0), min(y + RADII[k] + 1, height)
                rows = np.int32(bottom - top)
                _add_row(table[top], table[bottom], first[y], RADII[k], rows, columns[k], difference, magnitude)
            for x in range(width):
                both, apart = magnitude[x], difference[x]
                on[y, x], off[y, x] = (both + apart) >> 1, (both - apart) >> 1
                most_on, most_off = max(most_on, on[y, x]), max(most_off, off[y, x])
        for value in range(most_on + 1):
            byte[0, value] = 255 * value // max(most_on, np.int32(1))
        for value in range(most_off + 1):
            byte[1, value] = 255 * value // max(most_off, np.int32(1))
        for y in range(height):
            for x in range(width):
                out[i, y, x] = min(np.int32(byte[0, on[y, x]]) + np.int32(byte[1, off[y, x]]), 255)
