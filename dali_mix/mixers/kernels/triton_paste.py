"""Pasting and blending on a CUDA device: one launch per batch, without host reads.

In place, a second launch (for pasting) or a copy (for blending) writes the result back.

Launches depend only on shapes, so a call can be captured in a CUDA graph (after one call outside it, which compiles).
Under torch.compile the plain torch operations are traced instead, and Inductor fuses them.

See `ops.paste` and `ops.blend` for arguments and results. An image is `planes · height` rows of `width · pixel`
values: a contiguous batch has C planes and 1 value per pixel, and a channels_last batch has 1 plane and C values per
pixel. A program computes a tile of rows and columns, so coordinates need one division per row and per column, not
one per pixel.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dali_mix.mixers.layout import INTEGERS, image_shape

SAME_POSITION, NEAREST, ZEROS = 0, 1, 2
BLOCK = 2048

_SAME_POSITION, _NEAREST, _ZEROS = tl.constexpr(SAME_POSITION), tl.constexpr(NEAREST), tl.constexpr(ZEROS)


def fits(images: Tensor) -> bool:
    """Return True if offsets within an image fit into 32 bits and the batch size fits any axis of a launch grid."""
    return images[:1].numel() < 2**31 and len(images) <= 65535


def _paste(images: Tensor, permutation: Tensor, boxes: Tensor, inplace: bool, *, mode: int) -> Tensor:
    # In place, boxes are computed in a second batch, whose other pixels are not touched, and copied back. The order of
    # writes then does not matter, and only boxes are read and written, although twice.
    out = torch.empty_like(images.detach())
    _launch(images, out, permutation, boxes, mode, boxes_only=inplace)
    return _launch(out, images, None, boxes, SAME_POSITION, boxes_only=True) if inplace else out


paste = functools.partial(_paste, mode=SAME_POSITION)
paste_nearest = functools.partial(_paste, mode=NEAREST)


def erase(images: Tensor, boxes: Tensor, inplace: bool) -> Tensor:
    out = images if inplace else torch.empty_like(images.detach())
    return _launch(images, out, None, boxes, ZEROS, boxes_only=inplace)


def blend(images: Tensor, permutation: Tensor, lam: Tensor, inplace: bool) -> Tensor:
    # In place, the result is computed in a second batch, since every pixel may be read for another image.
    out = torch.empty_like(images.detach())
    size = images[:1].numel()
    if images.numel():
        grid = (-(-size // BLOCK), len(images))
        with device_of(images):
            blend_kernel[grid](
                in_order(images), in_order(out), _plain(permutation, torch.int64), _plain(lam, torch.float32), size,
                ROUND=not images.is_floating_point(), BLOCK=BLOCK,
            )  # fmt: skip
    return images.copy_(out) if inplace else out


def _launch(images: Tensor, out: Tensor, partners: Tensor | None, boxes: Tensor, mode: int, boxes_only: bool) -> Tensor:
    """Launch `paste_kernel`, which writes the result for `images` to `out`, and return `out`.

    partners: (B,), or None if every image is its own partner. mode, boxes_only: MODE and BOXES_ONLY of the kernel.
    """
    if not images.numel():
        return out
    planes, height, width, pixel = image_shape(images)
    boxes = _plain(boxes, torch.int64)
    row = width * pixel
    # A tile is ROWS rows by COLS values of one image; long rows are split.
    cols = min(1024, 1 << (row - 1).bit_length())
    rows = max(1, 2048 // cols)
    grid = (-(-planes * height // rows), -(-row // cols), len(images))
    dtype = INTEGERS[images.element_size()]
    with device_of(images):
        paste_kernel[grid](
            in_order(images).view(dtype), in_order(out).view(dtype),
            boxes if partners is None else _plain(partners, torch.int64), boxes,
            planes * height, height, width, row, pixel,
            MODE=mode, OWN=partners is None, BOXES_ONLY=boxes_only, ROWS=rows, COLS=cols,
        )  # fmt: skip
    return out


def device_of(images: Tensor) -> contextlib.AbstractContextManager[Any]:
    # Triton launches on the current device, not on the device of the tensors.
    return torch.cuda.device(images.device) if images.is_cuda else contextlib.nullcontext()


def _plain(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype).contiguous()


def in_order(images: Tensor) -> Tensor:
    """Return a contiguous, detached view of a contiguous batch, (B,C,H,W), or of a channels_last one, (B,H,W,C)."""
    return images.detach() if images.is_contiguous() else images.detach().permute(0, 2, 3, 1)


@triton.jit
def paste_kernel(
    images, out, partners, boxes, image_rows, height, width, row, pixel,
    MODE: tl.constexpr, OWN: tl.constexpr, BOXES_ONLY: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Write a tile of ROWS × COLS values of one image: inside the box as MODE says, elsewhere the image's own values.

    With BOXES_ONLY, nothing outside the box is read or written. MODE: `SAME_POSITION`, `NEAREST` or `ZEROS`. images,
    out: batches in memory order. partners: (B,) int64; not read with OWN, where an image is its own partner. boxes:
    (B,4) int64, top, left, height, width.
    """
    i = tl.program_id(2).to(tl.int64)
    y_of_all = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    top = tl.load(boxes + 4 * i).to(tl.int32)
    left = tl.load(boxes + 4 * i + 1).to(tl.int32)
    box_h = tl.load(boxes + 4 * i + 2).to(tl.int32)
    box_w = tl.load(boxes + 4 * i + 3).to(tl.int32)
    y = y_of_all % height
    x = col // pixel
    in_rows = (y >= top) & (y < top + box_h) & (y_of_all < image_rows)
    in_cols = (x >= left) & (x < left + box_w) & (col < row)
    here = i * image_rows * row
    at = y_of_all[:, None] * row + col[None, :]
    exists = (y_of_all < image_rows)[:, None] & (col < row)[None, :]
    crosses = (tl.max(in_rows.to(tl.int32), 0) > 0) & (tl.max(in_cols.to(tl.int32), 0) > 0)
    if crosses:
        inside = in_rows[:, None] & in_cols[None, :]
        if MODE == _ZEROS:
            pasted = tl.zeros((ROWS, COLS), dtype=images.dtype.element_ty)
        else:
            if OWN:
                there = here
            else:
                there = tl.load(partners + i) * image_rows * row
            if MODE == _SAME_POSITION:
                pasted = tl.load(images + there + at, mask=inside, other=0)
            else:
                # In float32, like torch's interpolate: first the quotient, with IEEE rounding, then the product.
                # (+ 0 * box_h: Triton passes a height of 1 as a constant, which has no dtype to convert.)
                down = tl.div_rn((height + 0 * box_h).to(tl.float32), tl.maximum(box_h, 1).to(tl.float32))
                across = tl.div_rn((width + 0 * box_w).to(tl.float32), tl.maximum(box_w, 1).to(tl.float32))
                from_y = tl.minimum(((y - top).to(tl.float32) * down).to(tl.int32), height - 1)
                from_x = tl.minimum(((x - left).to(tl.float32) * across).to(tl.int32), width - 1)
                from_row = (y_of_all - y + from_y) * row
                from_col = from_x * pixel + col % pixel
                pasted = tl.load(images + there + from_row[:, None] + from_col[None, :], mask=inside, other=0)
        if BOXES_ONLY:
            tl.store(out + here + at, pasted, mask=inside)
        else:
            own = tl.load(images + here + at, mask=exists & ~inside, other=0)
            tl.store(out + here + at, tl.where(inside, pasted, own), mask=exists)
    elif not BOXES_ONLY:
        # No box in this tile: a plain copy, masked only at the border, which allows wide loads.
        tl.store(out + here + at, tl.load(images + here + at, mask=exists), mask=exists)


@triton.jit
def blend_kernel(images, out, partners, lam, size, ROUND: tl.constexpr, BLOCK: tl.constexpr):
    """Write lam · image + (1 - lam) · partner to `out` for BLOCK of an image's `size` values.

    Computed in float32, exact for lam 0 and 1, then rounded half to even with ROUND. images, out: batches in memory
    order. partners: (B,) int64. lam: (B,) float32.
    """
    i = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    share = tl.load(lam + i)
    own = tl.load(images + i * size + at, mask=inside).to(tl.float32)
    other = tl.load(images + tl.load(partners + i) * size + at, mask=inside).to(tl.float32)
    apart = other - own
    mixed = tl.where(share > 0.5, own + (1.0 - share) * apart, other - share * apart)
    if ROUND:
        # Round half to even, like torch.round.
        up = tl.floor(mixed + 0.5)
        tie_to_odd = (up - mixed == 0.5) & (up - 2.0 * tl.floor(up * 0.5) == 1.0)
        mixed = tl.where(tie_to_odd, up - 1.0, up)
    tl.store(out + i * size + at, mixed.to(out.dtype.element_ty), mask=inside)
