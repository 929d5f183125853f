"""Loops over the pixels of a batch on a CPU, compiled by numba; `mixers.cpu` calls them, on several threads.

Batches arrive as flat arrays in the order of memory. `shape` is (planes, height, width, pixel): a contiguous batch has
C planes of pixels of 1 value, a channels_last one has 1 plane of pixels of C values. An image is `planes · height`
rows of `width · pixel` values. Pixels that only move are handed over as integers of their size, so that few kernels
serve all dtypes. Every page of the output is touched once: its memory is often fresh, and that is what costs.

Everything compiled sits in this one file, so that numba's cache on disk notices every change of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types

# What a kernel does with each image: write all of it into a new batch; write its box only, from the partner or, where
# the partner may be changed by then, from the stage; write its box into the stage.
WHOLE, BOX, STAGE = 0, 1, 2
# What goes into a box: the partner's pixels of the same place, the whole partner shrunk, zeros.
SAME_PLACE, NEAREST, BILINEAR, ZEROS = 0, 1, 2, 3


def _compile(function: Callable[..., Any]) -> Any:
    """Compiled at its first call for each dtype, without holding the interpreter, and kept on disk where numba can."""
    with contextlib.suppress(RuntimeError):  # "cannot cache function": no place to write
        return njit(nogil=True, cache=True)(function)
    return njit(nogil=True)(function)


@_compile
def chain(partners: Any) -> Any:
    """(B,) int64, the images in the order image, its partner, its partner's partner, … until one comes again."""
    order, seen, count = np.empty(len(partners), np.int64), np.zeros(len(partners), np.bool_), 0
    for start in range(len(partners)):
        image = start
        while not seen[image]:
            seen[image] = True
            order[count] = image
            count += 1
            image = partners[image]
    return order


@_compile
def inside(partners: Any, boxes: Any, count: int, height: int, width: int) -> bool:
    """Whether partners, (n,) int64, are among `count` images, and boxes, (n,4) int64, inside `height` × `width`."""
    for i in range(len(partners)):
        if partners[i] < 0 or partners[i] >= count:
            return False
    for i in range(len(boxes)):
        top, left, box_h, box_w = boxes[i]
        if min(top, left, box_h, box_w) < 0 or max(top, box_h) > height or max(left, box_w) > width:
            return False
        if top + box_h > height or left + box_w > width:
            return False
    return True


# The C library's: a fifth faster than a loop compiled here, where a whole plane is copied.
_memcpy = types.ExternalFunction("memcpy", types.uintp(types.uintp, types.uintp, types.uintp))


@_compile
def _copy(source: Any, start: int, out: Any, to: int, count: int) -> None:
    """`count` values of `source`, from `start` on, to `out`, which has the same dtype, from `to` on."""
    size = source.itemsize
    _memcpy(out.ctypes.data + to * size, source.ctypes.data + start * size, count * size)


@_compile
def _copy_block(
    source: Any, start: int, row: int, plane: int, out: Any, to: int, out_row: int, out_plane: int, block: Any
) -> None:
    """A block of `block` = (planes, rows, values a row); a row and a plane further on are `row` and `plane` values."""
    planes, rows, count = block
    for p in range(planes):
        for y in range(rows):
            _copy(source, start + p * plane + y * row, out, to + p * out_plane + y * out_row, count)


@_compile
def _pick(source: Any, start: int, out: Any, to: int, columns: Any, pixel: int) -> None:
    """A row's pixels that begin at `columns`."""
    values, picked = source[start:], out[to : to + len(columns) * pixel]
    if pixel == 1:
        for x in range(len(columns)):
            picked[x] = values[columns[x]]
    else:
        for x in range(len(columns)):
            for c in range(pixel):
                picked[x * pixel + c] = values[columns[x] + np.uint32(c)]


@_compile
def _weights(size: int, full: int) -> Any:
    """For each pixel of `size` made from `full`: first pixel read, how many, and their weights (antialiased bilinear).

    Source s weighs 1 - |(2s + 1) · size - (2d + 1) · full| / (2 · full) for pixel d: whole numbers up to the division.
    """
    first, count = np.empty(size, np.int64), np.empty(size, np.int64)
    weights = np.empty((size, 2 * full // size + 2), np.float32)
    for d in range(size):
        centre = (2 * d + 1) * full
        low = max(0, (centre - 2 * full) // (2 * size))
        taps, total = 0, 0
        for s in range(low, full):
            weight = 2 * full - abs((2 * s + 1) * size - centre)
            if weight <= 0:
                if taps:
                    break
                continue
            if not taps:
                first[d] = s
            weights[d, taps] = weight
            total += weight
            taps += 1
        count[d] = taps
        for k in range(taps):
            weights[d, k] /= np.float32(total)
    return first, count, weights


@_compile
def _bilinear(
    images: Any,
    partner: int,
    out: Any,
    to: int,
    out_row: int,
    out_plane: int,
    box_h: int,
    box_w: int,
    shape: Any,
    rounded: bool,
) -> None:
    """Rows summed by weight into one row, which is then summed across; in float32."""
    planes, height, width, pixel = shape
    top, tall, down = _weights(box_h, height)
    left, wide, across = _weights(box_w, width)
    row = width * pixel
    summed = np.empty(row, np.float32)
    for p in range(planes):
        for y in range(box_h):
            summed[:] = 0
            for k in range(tall[y]):
                start, weight = partner + (p * height + top[y] + k) * row, down[y, k]
                values = images[start : start + row]
                for x in range(row):
                    summed[x] += weight * np.float32(values[x])
            at = to + p * out_plane + y * out_row
            shrunk = out[at : at + box_w * pixel]
            for x in range(box_w):
                for c in range(pixel):
                    value = np.float32(0)
                    for k in range(wide[x]):
                        value += across[x, k] * summed[(left[x] + k) * pixel + c]
                    shrunk[x * pixel + c] = np.rint(value) if rounded else value


@_compile
def paste(
    images: Any,
    stage: Any,
    out: Any,
    partners: Any,
    boxes: Any,
    order: Any,
    staged_at: Any,
    shape: Any,
    task: int,
    way: int,
) -> None:
    """Fills the boxes of the images in `order`.

    images, out: flat batches (the same one in place). stage: flat. partners: (B,) int64. boxes: (B,4) int64.
    order: (n,) int64, image numbers. staged_at: (B,) int64, where in the stage an image's box lies, -1 for not there.
    """
    planes, height, width, pixel = shape
    row, plane = width * pixel, height * width * pixel
    for i in order:
        top, left, box_h, box_w = boxes[i]
        image, count = i * planes * plane, box_w * pixel
        target, to, out_row, out_plane = out, image + top * row + left * pixel, row, plane
        if task == STAGE:
            target, to, out_row, out_plane = stage, staged_at[i], count, box_h * count
        elif task == BOX and staged_at[i] >= 0:
            _copy_block(stage, staged_at[i], count, box_h * count, out, to, row, plane, (planes, box_h, count))
            continue
        # Shrunk to nearest, pixel d of n is pixel ⌊d · (N / n)⌋ of N, in float32 as torch's `interpolate` has it.
        down = np.float32(height) / np.float32(max(box_h, 1))
        across = np.float32(width) / np.float32(max(box_w, 1))
        columns = np.empty(box_w if way == NEAREST else 0, np.uint32)  # unsigned: no check for counting from the end
        for x in range(len(columns)):
            columns[x] = np.uint32(min(np.int64(np.float32(x) * across), width - 1) * pixel)
        for p in range(planes):
            own, other = image + p * plane, partners[i] * planes * plane + p * plane
            if task == WHOLE:  # its box again while in the cache: faster than going around it, or row by row
                _copy(images, own, out, own, plane)
            for y in range(box_h):
                at = to + p * out_plane + y * out_row
                if way == SAME_PLACE:
                    _copy(images, other + (top + y) * row + left * pixel, target, at, count)
                elif way == NEAREST:
                    start = other + min(np.int64(np.float32(y) * down), height - 1) * row
                    _pick(images, start, target, at, columns, pixel)
                else:
                    target[at : at + count] = 0


@_compile
def paste_bilinear(
    images: Any,
    stage: Any,
    out: Any,
    partners: Any,
    boxes: Any,
    order: Any,
    staged_at: Any,
    shape: Any,
    task: int,
    rounded: bool,
) -> None:
    """As `paste`, the whole partner shrunk by an antialiased bilinear filter; `rounded` for whole-number pixels."""
    planes, height, width, pixel = shape
    row, plane = width * pixel, height * width * pixel
    for i in order:
        top, left, box_h, box_w = boxes[i]
        if task == WHOLE:
            _copy(images, i * planes * plane, out, i * planes * plane, planes * plane)
        if box_h == 0 or box_w == 0:
            continue
        stage_row, stage_plane = box_w * pixel, box_h * box_w * pixel
        target, to, out_row, out_plane = out, i * planes * plane + top * row + left * pixel, row, plane
        if task == STAGE:
            target, to, out_row, out_plane = stage, staged_at[i], stage_row, stage_plane
        elif task == BOX and staged_at[i] >= 0:
            block = (planes, box_h, box_w * pixel)
            _copy_block(stage, staged_at[i], stage_row, stage_plane, out, to, row, plane, block)
            continue
        _bilinear(images, partners[i] * planes * plane, target, to, out_row, out_plane, box_h, box_w, shape, rounded)


@_compile
def blend(
    images: Any, stage: Any, out: Any, partners: Any, lam: Any, order: Any, staged_at: Any, size: int, task: int
) -> None:
    """lam · image + (1 - lam) · partner, float32; an image is `size` values, the stage holds whole partners."""
    for i in order:
        if task == STAGE:
            _copy(images, partners[i] * size, stage, staged_at[i], size)
            continue
        source, start = images, partners[i] * size
        if task == BOX and staged_at[i] >= 0:
            source, start = stage, staged_at[i]
        share, rest = lam[i], np.float32(1) - lam[i]
        own, other = images[i * size : (i + 1) * size], source[start : start + size]
        mixed = out[i * size : (i + 1) * size]
        for k in range(size):
            # Both ends to the bit, as by torch.lerp.
            apart = other[k] - own[k]
            mixed[k] = own[k] + rest * apart if rest < share else other[k] - share * apart
