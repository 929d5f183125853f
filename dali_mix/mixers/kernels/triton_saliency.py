"""Fine-grained saliency on a CUDA device: five launches per batch, directly from normalized images if needed.

    images ─grey_levels─▶ grey ─blur─▶ blurred, columns ─integral─▶ table ─on_and_off─▶ sums, most ─to_bytes─▶ maps

Bit-identical to `torch_saliency`; `ops.saliency` defines the computation. All sums are integers up to 2^24, so float32
is exact and the order of additions does not matter. A program reads only results of earlier launches and writes only
its own values, except for the maxima, which are shared and updated with atomics.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from dali_mix.mixers.kernels import triton_paste
from dali_mix.mixers.kernels.torch_saliency import EXACT, RADII

WIDEST = 2048  # largest image width: a program reads complete rows
STRIP = 32  # rows that are blurred and summed together
BLOCK, TILE = 512, 1024  # four pixels per thread


# Products must be rounded before they are added, as on a CPU, so Triton's compiler and ptxas must not fuse them.
UNFUSED = {"enable_fp_fusion": False}


def fits(images: Tensor) -> bool:
    """Return True if `triton_paste` supports the images, a program can hold a row, and float32 sums are exact."""
    height, width = images.shape[2:]
    return triton_paste.fits(images) and height * width * 255 <= EXACT and width <= WIDEST


def saliency(images: Tensor, scale: Sequence[float] = (1, 1, 1), shift: Sequence[float] = (0, 0, 0)) -> Tensor:
    """Return saliency maps (B,H,W) uint8 of images (B,3,H,W).

    Floating-point images are first converted to round(x · scale + shift), clipped to 0 … 255. scale, shift: three
    numbers each. They are passed to the kernel by value, so a CUDA graph stores them.
    """
    count, _, height, width = images.shape
    size = height * width
    out = torch.empty(count, height, width, dtype=torch.uint8, device=images.device)
    if size == 1:  # a single pixel has no surround
        return out.zero_()
    if not count:
        return out
    grey, blurred = torch.empty_like(out), torch.empty_like(out)
    columns, sums = torch.empty_like(out, dtype=torch.int16), torch.empty_like(out, dtype=torch.int32)
    table = torch.empty(count, height + 1, width + 1, dtype=torch.int32, device=images.device)
    most = torch.empty(count, 2, dtype=torch.int32, device=images.device)
    channel, pixel = (size, 1) if images.is_contiguous() else (1, 3)
    flat = (-(-size // BLOCK), count)
    padded = max(32, 1 << (width - 1).bit_length())
    rows, narrow, cols = min(STRIP, 4096 // padded), min(128, padded), min(256, padded)
    with triton_paste.device_of(images):
        grey_levels[flat](
            triton_paste.in_order(images), grey, size, channel, pixel, *map(float, (*scale, *shift)),
            FLOATS=images.is_floating_point(), BLOCK=BLOCK, **UNFUSED,
        )  # fmt: skip
        blur[-(-height // STRIP), -(-width // narrow), count](
            grey, blurred, columns, height, width, STRIP=STRIP, COLS=narrow, num_warps=max(1, narrow // 64)
        )
        integral[-(-height // rows), count](
            columns, table, most, height, width, STRIP=STRIP, ROWS=rows, COLS=padded, num_warps=8
        )
        on_and_off[-(-height // (TILE // cols)), -(-width // cols), count](
            blurred, table, sums, most, height, width, RADII=RADII, ROWS=TILE // cols, COLS=cols, num_warps=8
        )
        to_bytes[flat](sums, most, out, size, BLOCK=BLOCK)
    return out


@triton.jit
def grey_levels(
    images, grey, size, channel, pixel, s0, s1, s2, m0, m1, m2, FLOATS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Convert BLOCK of an image's `size` pixels, in either memory format, to grey (B,H,W) uint8.

    channel, pixel: memory strides of channels and pixels. s0 … m2: with FLOATS, levels are x · s + m, rounded to the
    nearest integer and clipped to 0 … 255. Launches must pass `UNFUSED`, so x · s is rounded before m is added.
    """
    i = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    start = images + i * 3 * size
    red = tl.load(start + at * pixel, mask=inside, other=0)
    green = tl.load(start + channel + at * pixel, mask=inside, other=0)
    blue = tl.load(start + 2 * channel + at * pixel, mask=inside, other=0)
    if FLOATS:
        red, green, blue = _level(red, s0, m0), _level(green, s1, m1), _level(blue, s2, m2)
    total = 9798 * red.to(tl.int32) + 19235 * green.to(tl.int32) + 3735 * blue.to(tl.int32)
    tl.store(grey + i * size + at, ((total + 16384) >> 15).to(tl.uint8), mask=inside)


@triton.jit
def _level(x, scale, shift):
    level = tl.minimum(tl.maximum(x.to(tl.float32) * scale + shift, 0.0), 255.0)
    # From 2^23 on a float32 has no fractional bits, so the sum is rounded, ties to even.
    return (level + 8388608.0) - 8388608.0


@triton.jit
def blur(grey, blurred, columns, height, width, STRIP: tl.constexpr, COLS: tl.constexpr):
    """Blur a tile of STRIP rows and COLS columns of one image twice, and sum its columns.

    grey, blurred: (B,H,W) uint8. columns: (B,H,W) int16, for each pixel the sum of the blurred pixels in its column,
    from the first row of the strip to the pixel's own.
    """
    strip = tl.program_id(0)
    i = tl.program_id(2).to(tl.int64)
    x = tl.program_id(1) * COLS + tl.arange(0, COLS)
    grey += i * height * width
    blurred += i * height * width
    columns += i * height * width
    # Five columns of grey give three of the first blur, which give one of the second. Rows are read one by one, and the
    # last two are kept. The blur of a mirrored image is the mirrored blur, so only indices into `grey` are mirrored.
    x0, x1, x2 = _mirrored(x - 2, width), _mirrored(x - 1, width), tl.minimum(x, width - 1)
    x3, x4 = _mirrored(x + 1, width), _mirrored(x + 2, width)
    nothing = tl.zeros((COLS,), dtype=tl.int32)
    old0, old1, old2, last0, last1, last2 = nothing, nothing, nothing, nothing, nothing, nothing
    old, last, total = nothing, nothing, nothing
    for step in range(STRIP + 4):
        row = grey + _mirrored(strip * STRIP + (step - 2), height) * width
        g0, g1, g2 = tl.load(row + x0).to(tl.int32), tl.load(row + x1).to(tl.int32), tl.load(row + x2).to(tl.int32)
        g3, g4 = tl.load(row + x3).to(tl.int32), tl.load(row + x4).to(tl.int32)
        now0, now1, now2 = g0 + 2 * g1 + g2, g1 + 2 * g2 + g3, g2 + 2 * g3 + g4
        now = (old0 + 2 * last0 + now0 + 8) >> 4
        now += 2 * ((old1 + 2 * last1 + now1 + 8) >> 4)
        now += (old2 + 2 * last2 + now2 + 8) >> 4
        y = strip * STRIP + (step - 4)  # the row that is complete
        if (step >= 4) & (y < height):
            level = (old + 2 * last + now + 8) >> 4
            total += level
            tl.store(blurred + y * width + x, level.to(tl.uint8), mask=x < width)
            tl.store(columns + y * width + x, total.to(tl.int16), mask=x < width)
        old0, old1, old2, last0, last1, last2 = last0, last1, last2, now0, now1, now2
        old, last = last, now


@triton.jit
def _mirrored(index, size):
    """Return `index` reflected at the border, without repeating the border pixel.

    If `index` is more than two pixels outside, return an arbitrary valid index.
    """
    last = size - 1
    return tl.minimum(tl.abs(last - tl.abs(last - tl.abs(index))), last)


@triton.jit
def integral(columns, table, most, height, width, STRIP: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Write the integral image of the blurred images to `table`, and set `most` to zero for `on_and_off`.

    A program computes ROWS rows of one image. It adds the last sums of all strips above to the column sums of its rows,
    then sums along each row. ROWS must divide STRIP, and COLS must be at least W.

    columns: column sums within strips, from `blur`. table: (B, H+1, W+1) int32, with a first row and column of zeros.
    most: (B,2) int32.
    """
    i = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * ROWS
    x, line = tl.arange(0, COLS), tl.arange(0, ROWS)
    columns += i * height * width
    table += i * (height + 1) * (width + 1)
    if first == 0:
        tl.store(most + 2 * i + tl.arange(0, 2), tl.zeros((2,), dtype=tl.int32))
        tl.store(table + x, tl.zeros((COLS,), dtype=tl.int32), mask=x < width)
        tl.store(table + width, 0)
    above = tl.zeros((COLS,), dtype=tl.int32)
    for last in range(STRIP - 1, first, STRIP * ROWS):  # the last rows of ROWS strips at a time
        y = last + line * STRIP
        inside = (y < first)[:, None] & (x < width)[None, :]
        above += tl.sum(tl.load(columns + (y * width)[:, None] + x[None, :], mask=inside, other=0).to(tl.int32), 0)
    y = first + line
    inside = (y < height)[:, None] & (x < width)[None, :]
    own = tl.load(columns + (y * width)[:, None] + x[None, :], mask=inside, other=0).to(tl.int32)
    below = table + (y + 1) * (width + 1)
    tl.store(below, tl.zeros((ROWS,), dtype=tl.int32), mask=y < height)
    tl.store(below[:, None] + (x + 1)[None, :], tl.cumsum(own + above[None, :], 1), mask=inside)


@triton.jit
def on_and_off(
    blurred, table, sums, most, height, width, RADII: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    """Write Σ_r ⌊on⌋ + 2^16 · Σ_r ⌊off⌋ to `sums` for a tile of one image, and raise `most` to the tile's maxima.

    blurred: (B,H,W) uint8. table: the integral image of `blurred`. sums: (B,H,W) int32. most: (B,2) int32, the largest
    Σ_r ⌊on⌋ and Σ_r ⌊off⌋ of each image, initially 0. Images must have at least two pixels.
    """
    i = tl.program_id(2).to(tl.int64)
    tile_y = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tile_x = tl.program_id(1) * COLS + tl.arange(0, COLS)
    # Outside the image a tile recomputes the last pixel, so that only the store needs a mask.
    y, x = tl.minimum(tile_y, height - 1), tl.minimum(tile_x, width - 1)
    table += i * (height + 1) * (width + 1)
    level = tl.load(blurred + i * height * width + (y * width)[:, None] + x[None, :]).to(tl.int32)
    on, off = tl.zeros((ROWS, COLS), dtype=tl.int32), tl.zeros((ROWS, COLS), dtype=tl.int32)
    for k in tl.static_range(len(RADII)):
        top, bottom = tl.maximum(y - (RADII[k] - 1), 0), tl.minimum(y + (RADII[k] + 1), height)
        left, right = tl.maximum(x - (RADII[k] - 1), 0), tl.minimum(x + (RADII[k] + 1), width)
        above, below = table + top * (width + 1), table + bottom * (width + 1)
        total = tl.load(below[:, None] + right[None, :]) - tl.load(below[:, None] + left[None, :])
        total += tl.load(above[:, None] + left[None, :]) - tl.load(above[:, None] + right[None, :])
        others = (bottom - top).to(tl.float32)[:, None] * (right - left).to(tl.float32)[None, :] - 1.0
        step = (level.to(tl.float32) - tl.div_rn((total - level).to(tl.float32), others)).to(tl.int32)
        on += tl.maximum(step, 0)
        off += tl.maximum(-step, 0)
    inside = (tile_y < height)[:, None] & (tile_x < width)[None, :]
    tl.store(sums + i * height * width + (tile_y * width)[:, None] + tile_x[None, :], on + off * 65536, mask=inside)
    tl.atomic_max(most + 2 * i, tl.max(tl.max(on, 1), 0))
    tl.atomic_max(most + 2 * i + 1, tl.max(tl.max(off, 1), 0))


@triton.jit
def to_bytes(sums, most, maps, size, BLOCK: tl.constexpr):
    """Scale both sums of BLOCK of an image's `size` pixels by their maxima, ⌊255 · sum / maximum⌋, and add them.

    sums, most: from `on_and_off`. maps: (B,H,W) uint8, the result, clipped to 255.
    """
    i = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    both = tl.load(sums + i * size + at, mask=inside, other=0)
    on = _share(both & 65535, tl.load(most + 2 * i))
    off = _share(both >> 16, tl.load(most + 2 * i + 1))
    tl.store(maps + i * size + at, tl.minimum(on + off, 255).to(tl.uint8), mask=inside)


@triton.jit
def _share(value, most):
    # Maxima are at most 6 · 255, so a quotient that is not an integer is too far from any integer to be rounded to it.
    return tl.div_rn((255 * value).to(tl.float32), tl.maximum(most, 1).to(tl.float32)).to(tl.int32)
