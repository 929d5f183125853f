"""The loops of `numba_paste`, which calls them on several threads.

Batches are passed as flat arrays in memory order. `shape` is (planes, height, width, pixel): a contiguous batch has C
planes and 1 value per pixel, and a channels_last batch has 1 plane and C values per pixel. An image is
`planes · height` rows of `width · pixel` values.

Every page of the output is touched once, since page faults on fresh memory are the main cost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dali_mix.compiled import jit, memcpy

# What a kernel does with each image: WHOLE writes the full image to a new batch. BOX writes only its box, from the
# partner, or from the stage if the partner may already be modified. STAGE writes its box to the stage.
WHOLE, BOX, STAGE = 0, 1, 2
# The content of a box: the partner's pixels at the same position, the full partner resized (nearest or bilinear), or
# zeros.
SAME_POSITION, NEAREST, BILINEAR, ZEROS = 0, 1, 2, 3

CACHE_LINE = 64  # bytes


@jit
def chain(partners, forwards):
    """Return the order in which images are written, and a `staged_at` for `paste` that stages no box.

    Args:
        partners: (B,) int64.
        forwards: True for the order image, its partner, its partner's partner, …; False for the reverse order, in which
            an image's partner has just been read and is in the cache.

    Returns:
        the image indices in this order, (B,) int64, and `staged_at`, (B,) int64, which is -1 for each image.
    """
    order, seen, count = np.empty(len(partners), np.int64), np.zeros(len(partners), np.bool_), 0
    for start in range(len(partners)):
        image = start
        while not seen[image]:
            seen[image] = True
            order[count if forwards else len(partners) - 1 - count] = image
            count += 1
            image = partners[image]
    return order, np.full(len(partners), -1, np.int64)


@jit
def _copy(source, start, out, to, count):
    """Copy `count` values from offset `start` of `source` to offset `to` of `out`, which has the same dtype."""
    size = source.itemsize
    memcpy(out.ctypes.data + to * size, source.ctypes.data + start * size, count * size)


@jit
def _target(stage, out, i, box, staged_at, shape, task):
    """Return where to write box i for `task`. For task BOX, copy a staged box from the stage to `out`.

    Returns:
        (array, corner, row stride, plane stride, copied). The array is `stage` for task STAGE, else `out`; `corner` is
        the offset of the box in it. If `copied` is True, the box was copied from the stage and must not be written
        again.
    """
    planes, height, width, pixel = shape
    top, left, box_h, box_w = box
    row, plane, count, staged = width * pixel, height * width * pixel, box_w * pixel, staged_at[i]
    if task == STAGE:
        return stage, staged, count, box_h * count, False
    corner = i * planes * plane + top * row + left * pixel
    if task == BOX and staged >= 0:
        for p in range(planes):
            for y in range(box_h):
                _copy(stage, staged + (p * box_h + y) * count, out, corner + p * plane + y * row, count)
        return out, corner, row, plane, True
    return out, corner, row, plane, False


@intrinsic
def _prefetch(typing: Any, address: Any) -> Any:
    """Prefetch an address for reading."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, number = context.get_value_type(types.voidptr), ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer], ir.FunctionType(ir.VoidType(), [pointer] + 3 * [number])
        )
        read, keep, data = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(function, [builder.inttoptr(args[0], pointer), read, keep, data])
        return context.get_dummy_value()

    return types.void(types.uintp), code


@jit
def _fetch(source, start, count):
    """Prefetch `count` values from offset `start` of `source` into the cache, while other values are processed."""
    size = source.itemsize
    first = source.ctypes.data + start * size
    for address in range(first, first + count * size, CACHE_LINE):
        _prefetch(address)


@jit
def _nearest(images, partner, out, to, out_row, out_plane, box_h, box_w, shape):
    """Write the image at offset `partner` of `images` to `out`, resized to a box at offset `to` (nearest neighbour).

    The box has box_h × box_w pixels. Its rows are `out_row` values apart, and its planes `out_plane` values. Pixel d of
    n comes from source pixel ⌊d · (N / n)⌋ of N, computed in float32 like torch's `interpolate`.
    """
    planes, height, width, pixel = shape
    down = np.float32(height) / np.float32(max(box_h, 1))
    across = np.float32(width) / np.float32(max(box_w, 1))
    columns = np.empty(box_w, np.uint32)
    for x in range(box_w):
        columns[x] = np.uint32(min(np.int64(np.float32(x) * across), width - 1) * pixel)
    row, plane = width * pixel, height * width * pixel
    following = partner
    for y in range(box_h):
        start = following
        following = partner + min(np.int64(np.float32(y + 1) * down), height - 1) * row
        for p in range(planes):
            _fetch(images, following + p * plane, row)
        # Indices are unsigned, so that numba does not check for negative ones.
        source, dest = np.uint64(start), np.uint64(to + y * out_row)
        one, two = np.uint64(1), np.uint64(2)
        if planes == 3 and pixel == 1:  # one column lookup serves three values
            apart, out_apart = np.uint64(plane), np.uint64(out_plane)
            for x in range(box_w):
                first, at = source + columns[x], dest + np.uint64(x)
                out[at] = images[first]
                out[at + out_apart] = images[first + apart]
                out[at + two * out_apart] = images[first + two * apart]
        elif planes == 1 and pixel == 3:
            for x in range(box_w):
                first, at = source + columns[x], dest + np.uint64(3 * x)
                out[at] = images[first]
                out[at + one] = images[first + one]
                out[at + two] = images[first + two]
        else:
            for p in range(planes):
                for x in range(box_w):
                    first = source + np.uint64(p * plane) + columns[x]
                    at = dest + np.uint64(p * out_plane + x * pixel)
                    for c in range(np.uint64(pixel)):
                        out[at + c] = images[first + c]


@jit
def _weights(size, full):
    """Return the weights with which `full` pixels are resized to `size` by an antialiased bilinear filter.

    The weight of source pixel s for resized pixel d is proportional to 2 · full - |(2s + 1) · size - (2d + 1) · full|.
    Weights are integers until they are divided by their sum.

    Returns:
        for each resized pixel: the index of its first source pixel, (size,) int64; the number of its source pixels,
        (size,) int64; and their weights, (size, 2 · full // size + 2) float32.
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


@jit
def _bilinear(images, partner, out, to, out_row, out_plane, box_h, box_w, shape, rounded):
    """Write the image at offset `partner` of `images` to `out`, resized to a box at offset `to` (antialiased bilinear).

    The weighted source rows are summed first, then the weighted columns of that sum, in float32. `rounded` is True to
    round to the nearest integer. The other arguments are those of `_nearest`.
    """
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


@jit
def paste(images, stage, out, partners, boxes, order, staged_at, shape, task, mode):
    """Write the images in `order`, or only their boxes: `task` selects which, and `mode` the content of the boxes.

    Args:
        images, out: flat batches; in place, the same one.
        stage: flat array of the staged boxes.
        partners: (B,) int64.
        boxes: (B,4) int64, top, left, height, width.
        order: (n,) int64, image indices.
        staged_at: (B,) int64, offset of an image's box in the stage; -1 if it is not staged.
        shape: see the module docstring.
        task: WHOLE, BOX or STAGE.
        mode: SAME_POSITION, NEAREST or ZEROS.
    """
    planes, height, width, pixel = shape
    row, plane = width * pixel, height * width * pixel
    for i in order:
        top, left, box_h, box_w = boxes[i]
        image, other_image, count = i * planes * plane, partners[i] * planes * plane, box_w * pixel
        target, to, out_row, out_plane, filled = _target(stage, out, i, boxes[i], staged_at, shape, task)
        if filled:
            continue
        if mode == NEAREST:
            if task == WHOLE:
                _copy(images, image, out, image, planes * plane)
            _nearest(images, other_image, target, to, out_row, out_plane, box_h, box_w, shape)
            continue
        for p in range(planes):
            own, other = image + p * plane, other_image + p * plane
            if task == WHOLE:  # the box is overwritten while in the cache: faster than copying around it
                _copy(images, own, out, own, plane)
            for y in range(box_h):
                at = to + p * out_plane + y * out_row
                if mode == SAME_POSITION:
                    _copy(images, other + (top + y) * row + left * pixel, target, at, count)
                else:
                    target[at : at + count] = 0


@jit
def paste_bilinear(images, stage, out, partners, boxes, order, staged_at, shape, task, rounded):
    """Do the work of `paste` for mode BILINEAR: boxes contain the full partner, resized with antialiasing.

    rounded: True to round to the nearest integer, for uint8 pixels.
    """
    planes, height, width, pixel = shape
    size = planes * height * width * pixel
    for i in order:
        box_h, box_w = boxes[i, 2], boxes[i, 3]
        if task == WHOLE:
            _copy(images, i * size, out, i * size, size)
        target, to, out_row, out_plane, filled = _target(stage, out, i, boxes[i], staged_at, shape, task)
        if not filled and box_h and box_w:
            _bilinear(images, partners[i] * size, target, to, out_row, out_plane, box_h, box_w, shape, rounded)


@jit
def blend(images, stage, out, partners, lam, order, staged_at, size, task):
    """Write lam · image + (1 - lam) · partner to `out` for the images in `order`, in float32.

    With task STAGE, copy the complete partners of the images in `order` to the stage instead. With task BOX, a staged
    partner is read from the stage. lam: (B,) float32. size: number of values per image. The other arguments are those
    of `paste`.
    """
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
            # Exact for lam 0 and 1, like torch.lerp.
            apart = other[k] - own[k]
            mixed[k] = own[k] + rest * apart if rest < share else other[k] - share * apart
