"""Resize, crop, flip and pad an image in one pass on the CPU, compiled by numba.

The input is uint8 (H,W,3), the output uint8 (3,h,w), or float32 (3,h,w) if it is normalized. Each output row is
computed in two steps: `_sum_rows` computes the weighted sum of input rows as one row of 16-bit fixed-point numbers, and
`_sixteen_pixels` resamples that row horizontally. Both are written as LLVM vector code, which compilers do not generate
from a loop. Sums stay in registers, and one 16-byte load reads the three channels of two neighbouring pixels. The
products of such a pair are added in one instruction if the processor has one.

Weights are those of DALI's `fn.resize` with `INTERP_LINEAR`: a triangle of radius 1 or, with antialias, of radius
max(1, input / output). Pixels beyond the border repeat the border. The result is the exact value rounded to a grey
level, except for values near a half, since weights have 14 to 16 bits. Measured on black and white noise, such values
are within 0.01 of a half for images shrunk up to 10 times, 0.03 up to 100 times and 0.13 up to 2,000 times. At 2,000
times, an image constructed so that the rounding errors of a pixel's weights add up is off by 2 levels.

The result is the same on every CPU: weights are computed with operations that IEEE 754 defines exactly, and everything
else is integer arithmetic. Normalizing multiplies and adds, rounding after each, so it is bit-identical to
`dali_mix.pipelines.normalize`.

More than 300 lines: all compiled code is in this one file, so that numba's disk cache detects every change.
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

ROW_BITS = 7  # fractional bits of the intermediate row: 255 << 7 still fits an int16
WEIGHT_BITS = 14, 16  # fractional bits of weights: the largest weight must fit an int16, a sum of products an int32
ROW_BLOCK = 64  # numbers per call of `_sum_rows`
BLOCK = 16  # pixels per call of `_sixteen_pixels`

# Arguments that DALI's operator passes (see nvidia.dali.plugin.numba), first for outputs, then for inputs: addresses of
# the tables of data pointers, shapes and numbers of dimensions, and the number of outputs or inputs. The setup function
# gets no data pointers; its last argument is the number of samples.
RUN_SIGNATURE = types.void(*(types.uint64, types.uint64, types.uint64, types.int32) * 2)
SETUP_SIGNATURE = types.void(*(types.uint64, types.uint64, types.int32) * 2, types.int32)


@intrinsic
def _pointer(typing_context: Any, address: Any) -> Any:
    """Convert an address to a pointer for `carray`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@intrinsic
def _sum_rows(
    typing_context: Any, rows: Any, stride: Any, weights: Any, taps: Any, half: Any, shift: Any, out: Any
) -> Any:
    """Compute the weighted sum of `ROW_BLOCK` numbers of several rows. All arguments are int64: addresses or numbers.

    Args:
        rows: address of `taps` rows of uint8, `stride` bytes apart.
        weights: address of the weight of each row, int16 (taps,).
        half, shift: the rounding: a result is (sum + half) >> shift.
        out: address to which `ROW_BLOCK` results are written, int16.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, stride, weights, taps, half, shift, out = arguments
        int8, int16, int32 = ir.IntType(8), ir.IntType(16), ir.IntType(32)
        bytes16, shorts16, lanes16 = (ir.VectorType(kind, 16) for kind in (int8, int16, int32))

        halves = _everywhere(builder, builder.trunc(half, int32))
        totals = [cgutils.alloca_once(builder, lanes16) for _ in range(ROW_BLOCK // 16)]
        for total in totals:
            builder.store(halves, total)
        with cgutils.for_range(builder, taps) as loop:
            number = _load(
                builder, builder.add(weights, builder.mul(loop.index, ir.Constant(taps.type, 2))), 0, int16, 2
            )
            weight = _everywhere(builder, builder.sext(number, int32))
            row = builder.add(rows, builder.mul(loop.index, stride))
            for at, total in enumerate(totals):
                values = builder.zext(_load(builder, row, 16 * at, bytes16, 1), lanes16)
                builder.store(builder.add(builder.load(total), builder.mul(values, weight)), total)
        shifts = _everywhere(builder, builder.trunc(shift, int32))
        for at, total in enumerate(totals):
            values = builder.trunc(builder.ashr(builder.load(total), shifts), shorts16)
            _store(builder, values, out, 32 * at)
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 7), generate


@intrinsic
def _sixteen_pixels(
    typing_context: Any,
    row: Any,
    starts: Any,
    weights: Any,
    stride: Any,
    pairs: Any,
    half: Any,
    shift: Any,
    out: Any,
    plane: Any,
) -> Any:
    """Resample a row into 16 adjacent pixels of three planes. All arguments are int64: addresses or numbers.

    Args:
        row: int16 interleaved RGB, readable for 16 bytes from every tap.
        starts: 16 int64, the byte offset in `row` of each pixel's first tap.
        weights: `pairs` tables, `stride` bytes apart, one for each pair of taps. Each is int16 (16, 4, 2): pixel,
            channel (the same weight repeated), tap of the pair.
        out: receives the red pixels, (sum + half) >> shift, uint8. Green and blue follow at `plane` and 2 · `plane`
            bytes.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row, starts, weights, stride, pairs, half, shift, out, plane = arguments
        int8, int16, int32, int64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
        lanes16, lanes32, bytes16 = ir.VectorType(int32, 16), ir.VectorType(int16, 32), ir.VectorType(int8, 16)
        shorts8 = ir.VectorType(int16, 8)

        def join(a: Any, b: Any) -> Any:
            return _pick(builder, a, b, list(range(2 * a.type.count)))

        def wide(a: Any) -> Any:
            return builder.sext(a, ir.VectorType(int32, 32))

        # Four registers of four pixels (red, green, blue, unused). The eight int16 loaded at a pixel are r g b R G B
        # and two more: lanes 0, 1, 2 belong to the first tap of a pair and 3, 4, 5 to the second.
        order = [8 * pixel + lane for pixel in range(4) for lane in (0, 3, 1, 4, 2, 5, 6, 7)]
        halves, shifts = (_everywhere(builder, builder.trunc(number, int32)) for number in (half, shift))

        def bases(group: int) -> list[Any]:
            return [builder.add(row, _load(builder, starts, 8 * (4 * group + pixel), int64, 8)) for pixel in range(4)]

        def summed(group: int, bases: list[Any], weights: Any) -> Any:
            taps = [_load(builder, base, 0, shorts8, 2) for base in bases]
            values = join(join(taps[0], taps[1]), join(taps[2], taps[3]))
            values = _pick(builder, values, values, order)
            products = builder.mul(wide(values), wide(_load(builder, weights, 64 * group, lanes32, 2)))
            even, odd = (_pick(builder, products, products, list(range(tap, 32, 2))) for tap in range(2))
            return builder.add(even, odd)

        totals = [cgutils.alloca_once(builder, lanes16) for _ in range(4)]
        with builder.if_else(builder.icmp_signed("==", pairs, ir.Constant(pairs.type, 1))) as (one_pair, more):
            with one_pair:  # enlarging: a loop would take longer to start than to run
                for group, total in enumerate(totals):
                    builder.store(builder.add(halves, summed(group, bases(group), weights)), total)
            with more:
                for group, total in enumerate(totals):
                    builder.store(halves, total)
                    first = bases(group)
                    with cgutils.for_range(builder, pairs) as loop:
                        further = builder.mul(loop.index, ir.Constant(int64, 12))
                        address = builder.add(weights, builder.mul(loop.index, stride))
                        products = summed(group, [builder.add(base, further) for base in first], address)
                        builder.store(builder.add(builder.load(total), products), total)
        levels = [builder.trunc(builder.ashr(builder.load(total), shifts), bytes16) for total in totals]

        low, high = join(levels[0], levels[1]), join(levels[2], levels[3])
        for channel in range(3):
            values = _pick(builder, low, high, [4 * pixel + channel for pixel in range(16)])
            _store(builder, values, builder.add(out, builder.mul(plane, ir.Constant(int64, channel))), 0)
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 9), generate


@intrinsic
def _normalize_sixteen(typing_context: Any, levels: Any, factor: Any, shift: Any, out: Any) -> Any:
    """Normalize 16 grey levels (uint8 at address `levels`) to float32: level · factor + shift.

    Non-temporal stores write the results to the address `out`, a multiple of 64. A batch is larger than the caches, and
    ordinary stores would first read its cache lines, which would take as long as resampling.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        levels, factor, shift, out = arguments
        bytes16, floats16 = ir.VectorType(ir.IntType(8), 16), ir.VectorType(ir.FloatType(), 16)
        values = builder.uitofp(_load(builder, levels, 0, bytes16, 1), floats16)
        values = builder.fadd(builder.fmul(values, _everywhere(builder, factor)), _everywhere(builder, shift))
        store = builder.store(values, builder.inttoptr(out, floats16.as_pointer()), align=64)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(types.intp, types.float32, types.float32, types.intp), generate


@intrinsic
def _fence(typing_context: Any) -> Any:
    """Make the non-temporal stores that this thread has issued so far visible to other threads."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _load(builder: Any, address: Any, offset: int, kind: Any, align: int) -> Any:
    pointer = builder.inttoptr(builder.add(address, ir.Constant(address.type, offset)), kind.as_pointer())
    return builder.load(pointer, align=align)


def _store(builder: Any, values: Any, address: Any, offset: int) -> None:
    pointer = builder.inttoptr(builder.add(address, ir.Constant(address.type, offset)), values.type.as_pointer())
    builder.store(values, pointer, align=1)


def _pick(builder: Any, a: Any, b: Any, which: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(which)), which))


def _everywhere(builder: Any, number: Any) -> Any:
    """Broadcast a number to 16 lanes."""
    undefined = ir.Constant(ir.VectorType(number.type, 16), ir.Undefined)
    lane = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return _pick(builder, lane, lane, [0] * 16)


@njit(nogil=True, error_model="numpy")
def axis_weights(n_in: int, n_out: int, antialias: bool) -> tuple[np.ndarray, np.ndarray]:
    """Compute the input pixels (taps) and weights of each output pixel for an axis resized from `n_in` to `n_out`.

    Return the index of the first tap, int64 (n_out,), and the weights of this and the following pixels, float32
    (n_out, taps). All taps lie in the image: weights of pixels beyond the border are added to those at the border.
    """
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
def _fixed_point(weights: np.ndarray) -> tuple[np.ndarray, int]:
    """Convert weights float32 (n, taps) to fixed point.

    Return them as int16 (n, taps), and `bits`, their number of fractional bits. Each row sums to 1 << bits.
    """
    n, taps = weights.shape
    table = np.empty((n, taps), np.int16)
    bits, largest = WEIGHT_BITS[0], weights.max()
    while bits < WEIGHT_BITS[1] and largest * (2 << bits) < 32766.0:
        bits += 1
    for o in range(n):
        total, spent = np.float32(0.0), 0
        for k in range(taps):  # round the running total, so that the sum is exact and flat areas stay flat
            total += weights[o, k]
            fixed = int(total * (1 << bits) + 0.5)
            table[o, k] = fixed - spent
            spent = fixed
    return table, bits


@njit(nogil=True, error_model="numpy")
def _sideways_tables(
    n_in: int, n_resized: int, start: int, n_out: int, antialias: bool, flip: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the tables with which `_sixteen_pixels` computes `n_out` of `n_resized` pixels, starting at pixel `start`.

    They are byte offsets int64 (n_out,), weights int16 (pairs, n_out, 4, 2) and the number of fractional bits of the
    weights. With `flip`, the pixels are in reverse order.
    """
    first, exact = axis_weights(n_in, n_resized, antialias)
    weights, bits = _fixed_point(exact[start : start + n_out])
    taps = weights.shape[1]
    starts = np.empty(n_out, np.int64)
    table = np.zeros(((taps + 1) // 2, n_out, 4, 2), np.int16)
    for o in range(n_out):
        to = n_out - 1 - o if flip else o
        starts[to] = 6 * first[start + o]
        for k in range(taps):
            table[k >> 1, to, :, k & 1] = weights[o, k]
    return starts, table, bits


@njit(nogil=True, error_model="numpy")
def resize_flip(
    image: np.ndarray,
    out: np.ndarray,
    window: np.ndarray,
    crop: np.ndarray,
    flip: bool,
    antialias: bool,
    scale: np.ndarray,
    bias: np.ndarray,
) -> None:
    """Resize a window of an image, crop and mirror the result, and write it to the top left of `out`.

    The rest of `out` is filled with zeros. Arrays are C-contiguous.

    Args:
        image: uint8 (H,W,3).
        out: uint8 or float32 (3,h,w).
        window: int32 (4,), top, left, height and width of the region to resize, inside the image; zeros for the full
            image.
        crop: int32 (6,), height and width to resize to, then top, left, height and width of the window to keep. The
            window lies inside the resized image and fits into h × w. All zeros: resize to h × w.
        flip: mirror left to right.
        antialias: widen the filter by the scale factor when shrinking.
        scale, bias: float32 (3,), per channel. A float32 `out` receives level · scale + bias for grey levels 0..255; a
            uint8 `out` requires 1 and 0.
    """
    height, width = (window[2], window[3]) if window[2] else image.shape[:2]
    _, canvas_height, canvas_width = out.shape
    tall, wide = (crop[0], crop[1]) if crop[0] else (canvas_height, canvas_width)
    out_height, out_width = (crop[4], crop[5]) if crop[4] else (canvas_height, canvas_width)
    first, exact = axis_weights(height, tall, antialias)
    first, exact = first[crop[2] : crop[2] + out_height], exact[crop[2] : crop[2] + out_height]
    weights, row_bits = _fixed_point(exact)
    starts, table, bits = _sideways_tables(width, wide, crop[3], out_width, antialias, flip)
    out[:, out_height:] = 0
    out[:, :out_height, out_width:] = 0
    n, taps, pairs = 3 * width, weights.shape[1], table.shape[0]
    stride, levels = 3 * image.shape[1], image.reshape(-1)
    origin = window[0] * stride + 3 * window[1]
    row_shift, shift = row_bits - ROW_BITS, bits + ROW_BITS
    row_half, half = 1 << (row_shift - 1), 1 << (shift - 1)
    row = np.zeros(n + 16, np.int16)  # the last loads read five numbers, and a tap of weight zero, beyond the end
    line = np.empty((3, out_width), np.uint8)
    streams = out.itemsize == 4 and out.ctypes.data % 64 == 0 and canvas_width % BLOCK == 0 and out_width % BLOCK == 0
    for y in range(out_height):
        top = origin + stride * first[y]
        top_at = image.ctypes.data + top
        weights_at = weights.ctypes.data + 2 * taps * y
        for x in range(0, n if n >= ROW_BLOCK else 0, ROW_BLOCK):
            x = min(x, n - ROW_BLOCK)  # the last block overlaps, so that it ends with the row
            _sum_rows(top_at + x, stride, weights_at, taps, row_half, row_shift, row.ctypes.data + 2 * x)
        for i in range(n if n < ROW_BLOCK else 0):
            total = np.int32(row_half)
            for k in range(taps):
                total += np.int32(weights[y, k]) * np.int32(levels[top + stride * k + i])
            row[i] = total >> row_shift
        for x in range(0, out_width - BLOCK + 1, BLOCK):
            _sixteen_pixels(
                row.ctypes.data,
                starts.ctypes.data + 8 * x,
                table.ctypes.data + 16 * x,
                16 * out_width,
                pairs,
                half,
                shift,
                line.ctypes.data + x,
                out_width,
            )
        for x in range(out_width // BLOCK * BLOCK, out_width):
            for c in range(3):
                total = np.int32(half)
                for k in range(2 * pairs):
                    total += np.int32(table[k >> 1, x, 0, k & 1]) * np.int32(row[starts[x] // 2 + 3 * k + c])
                line[c, x] = total >> shift
        for c in range(3):
            made, written, factor, shift_by = line[c], out[c, y], scale[c], bias[c]
            for x in range(0, out_width if streams else 0, BLOCK):
                _normalize_sixteen(made.ctypes.data + x, factor, shift_by, written.ctypes.data + 4 * x)
            for x in range(0 if streams else out_width):
                written[x] = np.float32(made[x]) * factor + shift_by
    if streams:
        _fence()


@njit(nogil=True, error_model="numpy")
def _sample(outs: int, out_shapes: int, inputs: int, in_shapes: int, kind: Any) -> None:
    """Compute one sample: `resize_flip` for the arrays at the addresses that DALI passes.

    The output is (3,h,w) of dtype `kind`. Inputs are image uint8 (H,W,3), flip int32 (), constants float32 (7,)
    (antialias, scale, shift), window int32 (4,), crop int32 (6,), and the canvas (h,w,0), which is not read.
    """
    out_at = carray(_pointer(outs), 1, np.int64)
    in_at = carray(_pointer(inputs), 5, np.int64)
    out_shape = carray(_pointer(carray(_pointer(out_shapes), 1, np.int64)[0]), 3, np.int64)
    in_shape = carray(_pointer(carray(_pointer(in_shapes), 1, np.int64)[0]), 3, np.int64)
    image = carray(_pointer(in_at[0]), (in_shape[0], in_shape[1], in_shape[2]), np.uint8)
    flip = carray(_pointer(in_at[1]), 1, np.int32)
    constants = carray(_pointer(in_at[2]), 7, np.float32)
    out = carray(_pointer(out_at[0]), (out_shape[0], out_shape[1], out_shape[2]), kind)
    window, crop = carray(_pointer(in_at[3]), 4, np.int32), carray(_pointer(in_at[4]), 6, np.int32)
    resize_flip(image, out, window, crop, flip[0] != 0, constants[0] != 0, constants[1:4], constants[4:7])


def _run_uint8(
    outs: int, out_shapes: int, out_dims: int, n_outs: int, inputs: int, in_shapes: int, in_dims: int, n_ins: int
) -> None:
    _sample(outs, out_shapes, inputs, in_shapes, np.uint8)


def _run_float32(
    outs: int, out_shapes: int, out_dims: int, n_outs: int, inputs: int, in_shapes: int, in_dims: int, n_ins: int
) -> None:
    _sample(outs, out_shapes, inputs, in_shapes, np.float32)


def _setup(
    out_shapes: int, out_dims: int, n_outs: int, in_shapes: int, in_dims: int, n_ins: int, n_samples: int
) -> None:
    """Set the output shape of each sample to (3,h,w) for its canvas (h,w,0), the last input.

    Input shapes are ordered by input, then by sample.
    """
    outs = carray(_pointer(out_shapes), n_samples, np.int64)
    ins = carray(_pointer(in_shapes), n_ins * n_samples, np.int64)
    for i in range(n_samples):
        canvas = carray(_pointer(ins[(n_ins - 1) * n_samples + i]), 3, np.int64)
        shape = carray(_pointer(outs[i]), 3, np.int64)
        shape[0], shape[1], shape[2] = 3, canvas[0], canvas[1]


@functools.cache
def addresses(normalized: bool) -> tuple[int, int]:
    """Return the addresses of two callbacks: one computes a sample (float32 if `normalized`), one sets output shapes.

    The first call compiles them (6 s), or loads them from numba's cache (0.2 s).
    """
    run = _run_float32 if normalized else _run_uint8
    return compiled(cfunc, RUN_SIGNATURE)(run).address, compiled(cfunc, SETUP_SIGNATURE)(_setup).address
