"""Pasting and blending on a CPU, in one pass over the batch, by compiled loops on several threads.

In place, image i may be the partner of an image that is written later. Images are therefore written along the chain i,
its partner, the partner's partner, …, so that each is read before it is overwritten:

    i ← partner(i) ← partner(partner(i)) ← …

The chain is cut into one part per thread. If the partner of an image may be overwritten before it is read, the image's
box is computed first and stored separately, in the stage. There is at most one such box per cut and one per cycle of
the permutation.

A new batch is also written along the chain, but backwards, so that an image's partner has just been read and is in the
cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dali_mix.mixers.kernels import numba_paste_loops as loops
from dali_mix.mixers.kernels.threads import cut, threads_for, together
from dali_mix.mixers.layout import INTEGERS, empty_on_huge_pages, flat, image_shape, int64


def _paste(images: Tensor, permutation: Tensor, boxes: Tensor, inplace: bool, *, mode: int) -> Tensor:
    out = images if inplace else empty_on_huge_pages(images, len(images))
    # Values that are only moved are passed as integers of the same size, so that few kernels serve all dtypes.
    dtype = images.dtype if mode == loops.BILINEAR else INTEGERS[images.element_size()]
    partners, corners, shape = int64(permutation), int64(boxes), image_shape(images)
    sizes = corners[:, 2] * corners[:, 3] * images.shape[1] if inplace and mode != loops.ZEROS else None
    batch, result = flat(images, dtype), flat(out, dtype)

    def run(stage: Any, staged_at: Any, order: Any, task: int) -> None:
        if mode == loops.BILINEAR:
            rounded = dtype == torch.uint8
            loops.paste_bilinear(batch, stage, result, partners, corners, order, staged_at, shape, task, rounded)
        else:
            loops.paste(batch, stage, result, partners, corners, order, staged_at, shape, task, mode)

    _all_images(run, partners, sizes, batch, inplace)
    return out


def erase(images: Tensor, boxes: Tensor, inplace: bool) -> Tensor:
    return _paste(images, torch.arange(len(images)), boxes, inplace, mode=loops.ZEROS)


paste = functools.partial(_paste, mode=loops.SAME_POSITION)
paste_nearest = functools.partial(_paste, mode=loops.NEAREST)
paste_bilinear = functools.partial(_paste, mode=loops.BILINEAR)


def blend(images: Tensor, permutation: Tensor, lam: Tensor, inplace: bool) -> Tensor:
    """See `ops.blend.blend`. Computed in float32, in one pass over the batch."""
    out = images if inplace else empty_on_huge_pages(images, len(images))
    partners, share = int64(permutation), lam.detach().float().contiguous().numpy()
    size = images[:1].numel()
    batch, result = flat(images, images.dtype), flat(out, images.dtype)

    def run(stage: Any, staged_at: Any, order: Any, task: int) -> None:
        loops.blend(batch, stage, result, partners, share, order, staged_at, size, task)

    _all_images(run, partners, np.full(len(partners), size) if inplace else None, batch, inplace)
    return out


def _all_images(
    run: Callable[[Any, Any, Any, int], None], partners: Any, sizes: Any, batch: Any, inplace: bool
) -> None:
    """Write all images on several threads, after staging the boxes that would be read too late.

    Args:
        run: calls a kernel with (stage, staged_at, order, task), which are arguments of `numba_paste_loops.paste`.
        partners: (B,) int64.
        sizes: (B,) number of values in each box; None if nothing needs to be staged, because `run` writes a new batch
            or reads no partners.
        batch: the flat batch.
        inplace: whether `run` writes to `batch`.
    """
    count = len(partners)
    threads = threads_for(count, batch.nbytes)
    chain, staged_at = loops.chain(partners, inplace)
    parts = [chain[part] for part in cut(count, threads)]
    if sizes is None:
        task, nothing = loops.BOX if inplace else loops.WHOLE, np.empty(0, batch.dtype)
        together([functools.partial(run, nothing, staged_at, part, task) for part in parts])
        return
    late = read_too_late(partners, parts)
    ends = np.cumsum(sizes[late])
    staged_at[late] = ends - sizes[late]
    stage = np.empty(ends[-1] if len(late) else 0, batch.dtype)
    shares = [late[part] for part in cut(len(late), min(threads, max(1, len(late))))]
    together([functools.partial(run, stage, staged_at, share, loops.STAGE) for share in shares])
    together([functools.partial(run, stage, staged_at, part, loops.BOX) for part in parts])


def read_too_late(partners: Any, parts: Sequence[Any]) -> Any:
    """Return the indices of images whose boxes must be staged if several threads write `parts` in parallel.

    A part contains image indices, in the order in which one thread writes them. An image must be staged if its partner
    is in another part, is the image itself, or comes before it in the same part.

    `partners` need not be a permutation, and images may be in any order. Along the chain of a permutation, each cycle
    and each cut adds at most one image.
    """
    part, position = np.empty((2, len(partners)), np.int64)
    for number, members in enumerate(parts):
        part[members] = number
        position[members] = np.arange(len(members))
    return np.flatnonzero((part[partners] != part) | (position[partners] <= position))
