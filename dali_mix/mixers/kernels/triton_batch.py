"""Mixing on a CUDA device: one launch a batch, nothing read back by the host.

Host code only; the Triton kernels are in `triton_kernels`. Shapes alone decide what is launched, so that a call can
be captured in a CUDA graph (after one call outside of it, which compiles). Under torch.compile the plain operations are
traced instead, which Inductor fuses itself.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from dali_mix import caches
from dali_mix.mixers.kernels.layout import INTEGERS, plain_pixels

Way = Literal["same place", "nearest", "zeros"]

BLENDED = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)  # what `blend` takes


@functools.cache
def _kernels() -> Any:
    """The Triton kernels; None without Triton."""
    caches.for_triton()
    try:
        from dali_mix.mixers.kernels import triton_kernels
    except ImportError:
        return None
    return triton_kernels


def takes(images: Tensor, dtypes: Sequence[torch.dtype] | None = None) -> bool:
    """Whether the kernels take this batch: on CUDA, dense, no gradients wanted, not being traced.

    dtypes: those allowed; None for any of 1, 2, 4 or 8 bytes.
    """
    return images.device.type == "cuda" and torch.version.hip is None and suits(images, dtypes)


def suits(images: Tensor, dtypes: Sequence[torch.dtype] | None = None) -> bool:
    """`takes`, but for the device: Triton's interpreter runs the kernels on a CPU."""
    return (
        plain_pixels(images, dtypes)
        and images[:1].numel() < 2**31
        and len(images) <= 65535  # the most a grid has on its second and third axis
        and _kernels() is not None
    )


def paste(images: Tensor, partners: Tensor | None, boxes: Tensor, way: Way, inplace: bool) -> Tensor:
    """Fills each image's box with pixels of its partner, or zeros.

    In place, what goes into the boxes is first put into boxes of a second batch, of which nothing else is touched, and
    copied back: any order of writing is right then, and only the boxes are read and written, twice.

    Args:
        images: (B,C,H,W), as `takes` allows.
        partners: (B,) int64; None for way="zeros".
        boxes: (B,4) int64, top, left, height, width, inside the image.
        way: the partner's pixels of the same place; the whole partner, shrunk; or zeros.
        inplace: change `images` itself.

    Returns:
        `images`, or a new batch.
    """
    kernels = _kernels()
    if way == "zeros":
        if not inplace:
            return _launch(images, torch.empty_like(images.detach()), None, boxes, kernels.ZEROS, boxes_only=False)
        return _launch(images, images, None, boxes, kernels.ZEROS, boxes_only=True)
    source = kernels.NEAREST if way == "nearest" else kernels.SAME_PLACE
    out = torch.empty_like(images.detach())
    if not inplace:
        return _launch(images, out, partners, boxes, source, boxes_only=False)
    _launch(images, out, partners, boxes, source, boxes_only=True)
    return _launch(out, images, None, boxes, kernels.SAME_PLACE, boxes_only=True)


def blend(images: Tensor, partners: Tensor, lam: Tensor, inplace: bool) -> Tensor:
    """lam · image + (1 - lam) · partner, in float32; uint8 is rounded.

    Args:
        images: (B,C,H,W) of a dtype in `BLENDED`, as `takes` allows.
        partners: (B,) int64.
        lam: (B,) float32.
        inplace: change `images` itself (by way of a second batch, since every pixel may be someone's partner).

    Returns:
        `images`, or a new batch.
    """
    kernels = _kernels()
    out = torch.empty_like(images.detach())
    size = images[:1].numel()
    if images.numel():
        grid = (-(-size // kernels.BLOCK), len(images))
        with device_of(images):
            kernels.blend[grid](
                in_order(images), in_order(out), _plain(partners, torch.int64), _plain(lam, torch.float32), size,
                ROUND=not images.is_floating_point(), BLOCK=kernels.BLOCK,
            )  # fmt: skip
    return images.copy_(out) if inplace else out


def _launch(images: Tensor, out: Tensor, partners: Tensor | None, boxes: Tensor, way: int, boxes_only: bool) -> Tensor:
    """partners None: every image is its own."""
    if not images.numel():
        return out
    kernels = _kernels()
    count, channels, height, width = images.shape
    contiguous = images.is_contiguous()
    planes, pixel = (channels, 1) if contiguous else (1, channels)
    boxes = _plain(boxes, torch.int64)
    row = width * pixel
    # A tile is ROWS rows by COLS values of one image; long rows are cut.
    cols = min(1024, 1 << (row - 1).bit_length())
    rows = max(1, 2048 // cols)
    grid = (-(-planes * height // rows), -(-row // cols), count)
    dtype = INTEGERS[images.element_size()]
    with device_of(images):
        kernels.paste[grid](
            in_order(images).view(dtype), in_order(out).view(dtype),
            boxes if partners is None else _plain(partners, torch.int64), boxes,
            planes * height, height, width, row, pixel,
            WAY=way, OWN=partners is None, BOXES_ONLY=boxes_only, ROWS=rows, COLS=cols,
        )  # fmt: skip
    return out


def device_of(images: Tensor) -> contextlib.AbstractContextManager[Any]:
    # Triton launches on the current device, whatever the tensors are on.
    return torch.cuda.device(images.device) if images.is_cuda else contextlib.nullcontext()


def _plain(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype).contiguous()


def in_order(images: Tensor) -> Tensor:
    """A view of the batch whose memory is contiguous."""
    return images.detach() if images.is_contiguous() else images.detach().permute(0, 2, 3, 1)
