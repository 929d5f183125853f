"""Resize, crop, flip, normalize and pad an image in one pass on the CPU: uint8 (H,W,3) → float32 (3,h,w), by numba.

Each output row is made in two steps. The input rows it needs are summed by weight into one row of 16-bit fixed-point
numbers, which the compiler turns into vector code by itself. That row is then resampled sideways, 16 pixels at a time,
by `_sixteen_pixels`, written in LLVM's own vector notation because no compiler finds it from a loop: a pixel's three
channels and two neighbouring pixels are read by one 16-byte load, and the products of a pair are added in one
instruction where the processor has one. Mean and deviation are folded into the factor that undoes the fixed point.

Weights are those of DALI's `fn.resize` with `INTERP_LINEAR`: a triangle of radius 1, or with antialias of radius
max(1, input / output); pixels beyond the border repeat the border. The result is within 0.01 of a grey level of the
real number (DALI rounds it to an integer first, so the two differ by up to half a grey level).

Everything compiled sits in this one file, so that numba's cache on disk notices every change of it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.core.cgutils import ir  # llvmlite's, numba's own dependency
from numba.extending import intrinsic

from dali_mix.compiled import compiled

ROW_BITS = 7  # fractional bits of the intermediate row: 255 << 7 is the most that an int16 takes
WEIGHT_BITS = 14, 16  # of weights that add up to 1: the largest must fit an int16, and the sum of products an int32
BLOCK = 16  # pixels that `_sixteen_pixels` makes

# What DALI's operator calls (see nvidia.dali.plugin.numba): addresses of the tables of data pointers, shapes, numbers
# of dimensions, and their counts, for outputs and inputs.
RUN_SIGNATURE = types.void(*(types.uint64, types.uint64, types.uint64, types.int32) * 2)
SETUP_SIGNATURE = types.void(*(types.uint64, types.uint64, types.int32) * 2, types.int32)


@intrinsic
def _pointer(typing_context: Any, address: Any) -> Any:
    """An address as a pointer that `carray` takes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@intrinsic
def _sixteen_pixels(
    typing_context: Any,
    row: Any,
    starts: Any,
    weights: Any,
    stride: Any,
    pairs: Any,
    factor: Any,
    bias: Any,
    out: Any,
    plane: Any,
) -> Any:
    """Resample a row sideways into 16 neighbouring pixels of three planes. All arguments are int64, addresses or sizes.

    row: int16 interleaved RGB, readable for 16 bytes from every tap. starts: 16 int64, byte offsets of the first taps
    in row. weights: for each pair of taps, `stride` bytes apart, int16 (16, 4, 2): pixel, channel (repeated), tap of
    the pair. factor, bias: 3 float32 each. out: where the red pixels go; green and blue are `plane` bytes further each.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row, starts, weights, stride, pairs, factor, bias, out, plane = arguments
        int16, int32, int64, float32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
        lanes16, lanes32 = ir.VectorType(int32, 16), ir.VectorType(int16, 32)
        floats16 = ir.VectorType(float32, 16)

        def constant(value: int) -> Any:
            return ir.Constant(int64, value)

        def load(address: Any, offset: int, kind: Any, align: int) -> Any:
            pointer = builder.inttoptr(builder.add(address, constant(offset)), kind.as_pointer())
            return builder.load(pointer, align=align)

        def pick(a: Any, b: Any, which: list[int]) -> Any:
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(int32, len(which)), which))

        def join(a: Any, b: Any) -> Any:
            return pick(a, b, list(range(2 * a.type.count)))

        def wide(a: Any) -> Any:
            return builder.sext(a, lanes16)

        # Four registers of four pixels (red, green, blue, unused). Eight int16 at a pixel are r g b R G B and two more:
        # lanes 0, 1, 2 belong to the first tap of a pair and 3, 4, 5 to the second.
        first_tap = [8 * pixel + lane for pixel in range(4) for lane in (0, 1, 2, 6)]
        second_tap = [8 * pixel + lane for pixel in range(4) for lane in (3, 4, 5, 7)]
        sums = []
        for group in range(4):
            total = cgutils.alloca_once(builder, lanes16)
            builder.store(ir.Constant(lanes16, [0] * 16), total)
            bases = [builder.add(row, load(starts, 8 * (4 * group + pixel), int64, 8)) for pixel in range(4)]
            with cgutils.for_range(builder, pairs) as loop:
                shift = builder.mul(loop.index, constant(12))
                taps = [load(builder.add(base, shift), 0, ir.VectorType(int16, 8), 2) for base in bases]
                values = join(join(taps[0], taps[1]), join(taps[2], taps[3]))
                factors = load(builder.add(weights, builder.mul(loop.index, stride)), 64 * group, lanes32, 2)
                for tap, lanes in enumerate((first_tap, second_tap)):
                    factor_lanes = list(range(tap, 32, 2))
                    product = builder.mul(wide(pick(values, values, lanes)), wide(pick(factors, factors, factor_lanes)))
                    builder.store(builder.add(builder.load(total), product), total)
            sums.append(builder.sitofp(builder.load(total), floats16))

        for channel in range(3):
            which = [4 * pixel + channel for pixel in range(8)]
            values = join(pick(sums[0], sums[1], which), pick(sums[2], sums[3], which))
            for operation, table in ((builder.fmul, factor), (builder.fadd, bias)):
                number = load(table, 4 * channel, float32, 4)
                lane = builder.insert_element(ir.Constant(floats16, ir.Undefined), number, ir.Constant(int32, 0))
                values = operation(values, pick(lane, lane, [0] * 16), flags=("contract",))
            address = builder.add(out, builder.mul(plane, constant(channel)))
            builder.store(values, builder.inttoptr(address, floats16.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 9), generate


@njit(nogil=True, error_model="numpy")
def axis_weights(n_in: int, n_out: int, antialias: bool) -> tuple[np.ndarray, np.ndarray]:
    """First taps int64 (n_out,) and weights float32 (n_out, taps) along an axis; all taps lie inside the image."""
    step = n_in / n_out
    radius = max(1.0, step) if antialias else 1.0
    slope = 1.0 / radius
    taps = min(max(2, int(np.ceil(2 * radius))), n_in)
    first = np.empty(n_out, np.int64)
    weights = np.zeros((n_out, taps), np.float32)
    for o in range(n_out):
        center = (o + 0.5) * step - 0.5
        low, high = int(np.ceil(center - radius)), int(np.floor(center + radius))
        total = 0.0
        for i in range(low, high + 1):
            total += max(0.0, 1.0 - abs(i - center) * slope)
        part = 1.0 / total
        start = min(max(low, 0), n_in - taps)
        first[o] = start
        for i in range(low, high + 1):
            weight = max(0.0, 1.0 - abs(i - center) * slope) * part
            if weight > 0.0:
                weights[o, min(max(i, 0), n_in - 1) - start] += np.float32(weight)
    return first, weights


@njit(nogil=True, error_model="numpy")
def _sideways_tables(
    n_in: int, n_resized: int, start: int, n_out: int, antialias: bool, flip: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """Byte offsets int64 (n_out,) and weights int16 (pairs, n_out, 4, 2) for `_sixteen_pixels`, and their unit.

    For `n_out` of the `n_resized` pixels, from `start` on.
    """
    first, weights = axis_weights(n_in, n_resized, antialias)
    first, weights = first[start : start + n_out], weights[start : start + n_out]
    taps = weights.shape[1]
    starts = np.empty(n_out, np.int64)
    table = np.zeros(((taps + 1) // 2, n_out, 4, 2), np.int16)
    bits, largest = WEIGHT_BITS[0], weights.max()
    while bits < WEIGHT_BITS[1] and largest * (2 << bits) < 32766.0:
        bits += 1
    for o in range(n_out):
        to = n_out - 1 - o if flip else o
        starts[to] = 6 * first[o]
        total, spent = np.float32(0.0), 0
        for k in range(taps):  # rounding the running total keeps the sum exact, so that a flat area stays flat
            total += weights[o, k]
            fixed = int(total * (1 << bits) + 0.5)
            table[k >> 1, to, :, k & 1] = fixed - spent
            spent = fixed
    return starts, table, 1 << bits


@njit(nogil=True, fastmath=True, error_model="numpy")
def _sum_rows(rows: np.ndarray, weights: np.ndarray, partial: np.ndarray, out: np.ndarray) -> None:
    """out int16 (n,) = the rows uint8 (taps, n), weighted, in fixed point. partial: float32 (n,), to work in."""
    taps, n = rows.shape
    unit = np.float32(1 << ROW_BITS)
    half = np.float32(0.5)
    for k in range(0, taps, 2):
        a, weight_a = rows[k], weights[k] * unit
        b, weight_b = rows[min(k + 1, taps - 1)], weights[k + 1] * unit if k + 1 < taps else np.float32(0.0)
        if k == 0 and taps <= 2:
            for i in range(n):
                out[i] = np.int16(np.int32(weight_a * np.float32(a[i]) + weight_b * np.float32(b[i]) + half))
        elif k == 0:
            for i in range(n):
                partial[i] = weight_a * np.float32(a[i]) + weight_b * np.float32(b[i]) + half
        elif k + 2 < taps:
            for i in range(n):
                partial[i] += weight_a * np.float32(a[i]) + weight_b * np.float32(b[i])
        else:
            for i in range(n):
                out[i] = np.int16(np.int32(partial[i] + weight_a * np.float32(a[i]) + weight_b * np.float32(b[i])))


@njit(nogil=True, error_model="numpy")
def resize_flip_normalize(
    image: np.ndarray,
    out: np.ndarray,
    crop: np.ndarray,
    flip: bool,
    antialias: bool,
    scale: np.ndarray,
    bias: np.ndarray,
) -> None:
    """Resize image uint8 (H,W,3), cut a window out of it, mirror it if `flip`, write it times `scale` plus `bias` to
    the top left of out float32 (3,h,w), and zeros to the rest of out.

    crop: int32 (6,), height and width to resize to; top and left, height and width of the window, which lies inside and
    fits into h × w; all zeros to resize to h × w. scale, bias: float32 (3,), per channel, for grey levels 0..255.
    Arrays are C-contiguous.
    """
    height, width, _ = image.shape
    _, canvas_height, canvas_width = out.shape
    tall, wide = (crop[0], crop[1]) if crop[0] else (canvas_height, canvas_width)
    out_height, out_width = (crop[4], crop[5]) if crop[4] else (canvas_height, canvas_width)
    first, weights = axis_weights(height, tall, antialias)
    first, weights = first[crop[2] : crop[2] + out_height], weights[crop[2] : crop[2] + out_height]
    starts, table, unit = _sideways_tables(width, wide, crop[3], out_width, antialias, flip)
    out[:, out_height:] = 0.0
    out[:, :out_height, out_width:] = 0.0
    factor = scale * np.float32(1.0 / (unit << ROW_BITS))
    rows = image.reshape(height, width * 3)
    row = np.zeros(width * 3 + 16, np.int16)  # the last loads reach up to five numbers and a zero-weight tap too far
    partial = np.empty(width * 3, np.float32)
    taps, pairs = weights.shape[1], table.shape[0]
    for y in range(out_height):
        _sum_rows(rows[first[y] : first[y] + taps], weights[y], partial, row[: width * 3])
        address = out.ctypes.data + 4 * canvas_width * y
        for x in range(0, out_width - BLOCK + 1, BLOCK):
            _sixteen_pixels(
                row.ctypes.data,
                starts.ctypes.data + 8 * x,
                table.ctypes.data + 16 * x,
                16 * out_width,
                pairs,
                factor.ctypes.data,
                bias.ctypes.data,
                address + 4 * x,
                4 * canvas_width * canvas_height,
            )
        for x in range(out_width // BLOCK * BLOCK, out_width):
            for c in range(3):
                total = np.int32(0)
                for k in range(2 * pairs):
                    total += np.int32(table[k >> 1, x, 0, k & 1]) * np.int32(row[starts[x] // 2 + 3 * k + c])
                out[c, y, x] = np.float32(total) * factor[c] + bias[c]


def _run(
    outs: int, out_shapes: int, out_dims: int, n_outs: int, inputs: int, in_shapes: int, in_dims: int, n_ins: int
) -> None:
    """Make one sample: out float32 (3,h,w) from image uint8 (H,W,3), flip int32 (), constants float32 (7,), crop int32
    (6,) and the canvas (h,w,0), of which only the shape is read.
    """
    out_at = carray(_pointer(outs), 1, np.int64)
    in_at = carray(_pointer(inputs), 4, np.int64)
    out_shape = carray(_pointer(carray(_pointer(out_shapes), 1, np.int64)[0]), 3, np.int64)
    in_shape = carray(_pointer(carray(_pointer(in_shapes), 1, np.int64)[0]), 3, np.int64)
    image = carray(_pointer(in_at[0]), (in_shape[0], in_shape[1], in_shape[2]), np.uint8)
    flip = carray(_pointer(in_at[1]), 1, np.int32)
    constants = carray(_pointer(in_at[2]), 7, np.float32)
    out = carray(_pointer(out_at[0]), (out_shape[0], out_shape[1], out_shape[2]), np.float32)
    crop = carray(_pointer(in_at[3]), 6, np.int32)
    resize_flip_normalize(image, out, crop, flip[0] != 0, constants[0] != 0, constants[1:4], constants[4:7])


def _setup(
    out_shapes: int, out_dims: int, n_outs: int, in_shapes: int, in_dims: int, n_ins: int, n_samples: int
) -> None:
    """Give each sample's output the shape (3,h,w) of its canvas, the last input: shapes are listed input by input."""
    outs = carray(_pointer(out_shapes), n_samples, np.int64)
    ins = carray(_pointer(in_shapes), n_ins * n_samples, np.int64)
    for i in range(n_samples):
        canvas = carray(_pointer(ins[(n_ins - 1) * n_samples + i]), 3, np.int64)
        shape = carray(_pointer(outs[i]), 3, np.int64)
        shape[0], shape[1], shape[2] = 3, canvas[0], canvas[1]


@functools.cache
def addresses() -> tuple[int, int]:
    """Return the addresses of the callbacks that make one sample, and that shape a batch.

    The first call compiles them (6 s), or loads them from numba's cache (0.2 s).
    """
    return compiled(cfunc, RUN_SIGNATURE)(_run).address, compiled(cfunc, SETUP_SIGNATURE)(_setup).address
