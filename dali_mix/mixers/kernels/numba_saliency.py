"""`fine_grained_saliency` and `to_uint8` on a CPU: image by image, small enough for the cache, compiled by numba.

The same numbers as the torch versions in `saliency.py`, to the bit; see there for what is computed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types

from dali_mix.compiled import compiled
from dali_mix.mixers.kernels.threads import together

RADII = np.array((12, 24, 48, 28, 56, 112))
REACH = 112  # the largest radius: rows of the integral image go on that far, so that no column needs a test

# One signature each, whatever the strides of the images, which may be channels_last.
MAPS = types.void(types.Array(types.uint8, 4, "A", readonly=True), types.uint8[:, :, ::1])
LEVELS = types.void(
    types.Array(types.float32, 4, "A", readonly=True),
    *(types.Array(types.float32, 1, "C", readonly=True),) * 2,
    types.uint8[:, :, :, ::1],
)


def maps(images: np.ndarray, threads: int) -> np.ndarray:
    """(B,3,H,W) uint8 → (B,H,W) uint8."""
    out = np.empty((len(images), *images.shape[2:]), np.uint8)
    kernel = _compiled(_maps, MAPS)
    _share(lambda part: kernel(images[part], out[part]), len(images), out.size, threads)
    return out


def levels(images: np.ndarray, scale: np.ndarray, shift: np.ndarray, threads: int) -> np.ndarray:
    """(B,3,H,W) float32 → uint8, round(x · scale + shift) clipped; scale, shift: (3,) float32."""
    out = np.empty(images.shape, np.uint8)
    kernel = _compiled(_levels, LEVELS)
    _share(lambda part: kernel(images[part], scale, shift, out[part]), len(images), out.size, threads)
    return out


def _share(work: Callable[[slice], None], count: int, pixels: int, threads: int) -> None:
    """`work` on slices of `count` images, side by side; numba's own threads do not survive a fork, and must not be
    entered by two of our caller's threads at once.
    """
    threads = min(threads, count)
    if threads < 2 or pixels < 65536:  # waking a thread takes as long as a few small images
        work(slice(0, count))
        return
    ends = [count * k // threads for k in range(threads + 1)]
    together([functools.partial(work, slice(start, end)) for start, end in itertools.pairwise(ends)])


@functools.cache
def _compiled(function: Callable[..., None], signature: Any) -> Callable[..., None]:
    """Return the kernel, compiled on the first call."""
    return compiled(njit, signature, nogil=True, error_model="numpy")(function)


def _levels(images: np.ndarray, scale: np.ndarray, shift: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(images)):
        for c in range(3):
            plane = images[i, c]
            for y in range(images.shape[2]):
                for x in range(images.shape[3]):
                    level = np.rint(plane[y, x] * scale[c] + shift[c])
                    out[i, c, y, x] = np.uint8(min(max(level, np.float32(0)), np.float32(255)))


@njit(nogil=True, error_model="numpy")
def _blur(source: np.ndarray, out: np.ndarray) -> None:
    height, width = source.shape
    column = np.empty(width + 2, np.int32)
    for y in range(height):
        above, row, below = (
            source[min(abs(y - 1), height - 1)],
            source[y],
            source[max(0, height - 1 - abs(y + 2 - height))],
        )
        for x in range(width):
            column[x + 1] = np.int32(above[x]) + 2 * np.int32(row[x]) + np.int32(below[x])
        column[0], column[width + 1] = column[1 + min(1, width - 1)], column[1 + max(0, width - 2)]
        for x in range(width):
            out[y, x] = (column[x] + 2 * column[x + 1] + column[x + 2] + 8) >> 4


@njit(nogil=True, error_model="numpy")
def _add_row(
    above: np.ndarray,
    below: np.ndarray,
    grey: np.ndarray,
    radius: int,
    rows: int,
    columns: np.ndarray,
    difference: np.ndarray,
    magnitude: np.ndarray,
) -> None:
    """Adds one radius to one row of sums; `above` and `below` are rows of the padded integral image."""
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


def _maps(images: np.ndarray, out: np.ndarray) -> None:
    count, _, height, width = images.shape
    out[:] = 0
    if height * width == 1:  # no surround at all
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
                _add_row(
                    table[top],
                    table[bottom],
                    first[y],
                    RADII[k],
                    np.int32(bottom - top),
                    columns[k],
                    difference,
                    magnitude,
                )
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
