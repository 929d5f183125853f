"""Mixing on a CPU in one pass over the batch: which batches the compiled loops take, their threads, and work in place.

In place, image i may be the partner of an image that is written later. Images are therefore written along the chain
i, partner of i, partner of that, …, so that each is read before it is written; the chain is cut into a part for each
thread, and only what a cut or the end of a cycle would read too late is made beforehand and put aside (the stage): a
few boxes of a batch, whatever its size. A new batch is written along the chain too, backwards, for the cache's sake.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dali_mix.mixers.kernels.layout import INTEGERS, empty_like_batch, plain_pixels
from dali_mix.mixers.kernels.threads import together

Way = Literal["same place", "nearest", "bilinear", "zeros"]

_WORTH_A_THREAD = 1 << 20  # bytes of the batch; below, a thread gains nothing

_WORTH_HUGE_PAGES = 1 << 22  # bytes


@functools.cache
def _kernels() -> Any:
    """The compiled loops; None without numba."""
    try:
        from dali_mix.mixers.kernels import numba_loops
    except ImportError:
        return None
    return numba_loops


def available() -> bool:
    """Whether there is numba to compile loops with."""
    return _kernels() is not None


def takes(images: Tensor, dtypes: Sequence[torch.dtype] | None = None) -> bool:
    """Whether the compiled loops take this batch: on a CPU, dense, no gradients wanted, not being traced.

    dtypes: those allowed; None for any of 1, 2, 4 or 8 bytes.
    """
    return images.device.type == "cpu" and plain_pixels(images, dtypes) and available()


def inside(partners: Tensor | None, boxes: Tensor | None, count: int, height: int, width: int) -> bool:
    """Whether there surely are such partners and boxes, by one look: numpy takes seven, of about 10 µs each when none
    of it is in the cache.
    """
    kernels = _kernels()
    if kernels is None or any(numbers is not None and numbers.dtype != torch.int64 for numbers in (partners, boxes)):
        return False
    sources = np.empty(0, np.int64) if partners is None else int64(partners)
    places = np.empty((0, 4), np.int64) if boxes is None else int64(boxes)
    return kernels.inside(sources, places, count, height, width)


def _numbers(*tensors: Tensor) -> list[Any] | None:
    """Tensors of a CPU for the kernels; None where there is no numba, or torch traces what is done to them."""
    if torch.compiler.is_compiling() or not available() or not all(type(t) is Tensor and t.is_cpu for t in tensors):
        return None
    return [np.ascontiguousarray(tensor.numpy()) for tensor in tensors]


def drawn_boxes(
    draws: Tensor, centre_y: Tensor, centre_x: Tensor, height: int, width: int, whole: bool
) -> tuple[Tensor, Tensor] | None:
    """`boxes.shrunk` where `whole`, else `boxes.cut`, in one call for the twenty of torch; None where it takes none."""
    if not draws.shape == centre_y.shape == centre_x.shape or draws.dtype != torch.float64:
        return None
    numbers = _numbers(draws, centre_y, centre_x)
    if numbers is None:
        return None
    boxes, kept = _kernels().drawn_boxes(*numbers, height, width, whole)
    return torch.from_numpy(boxes), torch.from_numpy(kept)


def mix_classes(targets: Tensor, permutation: Tensor, lam: Tensor, num_classes: int) -> Tensor | None:
    """`targets.mix_area` of class numbers, (B,) all three as it has checked, in one call for the ten of torch; None for
    what it does not take, or what is out of range.
    """
    if (targets.dtype, permutation.dtype, lam.dtype) != (torch.int64, torch.int64, torch.float32) or lam.requires_grad:
        return None
    numbers = _numbers(targets, permutation, lam)
    if numbers is None:
        return None
    mixed = np.zeros((len(targets), num_classes), np.float32)
    return torch.from_numpy(mixed) if _kernels().mix_classes(*numbers, mixed) else None


def paste(images: Tensor, partners: Tensor | None, boxes: Tensor, way: Way, inplace: bool) -> Tensor:
    """Fills each image's box with pixels of its partner, or zeros.

    Args:
        images: (B,C,H,W), as `takes` allows; float32 or uint8 for way="bilinear".
        partners: (B,) int64, 0 … B - 1; None for way="zeros".
        boxes: (B,4) int64, top, left, height, width, inside the image.
        way: the partner's pixels of the same place; the whole partner, shrunk; or zeros.
        inplace: change `images` itself.

    Returns:
        `images`, or a new batch.
    """
    kernels = _kernels()
    out = images if inplace else fresh(images)
    dtype = images.dtype if way == "bilinear" else INTEGERS[images.element_size()]
    sources = np.arange(len(images)) if partners is None else int64(partners)
    windows = int64(boxes)
    as_seen = shape(images)
    sizes = windows[:, 2] * windows[:, 3] * images.shape[1] if inplace and way != "zeros" else None
    if way == "bilinear":
        kernel, last = kernels.paste_bilinear, dtype == torch.uint8
    else:
        kernel = kernels.paste
        last = {"same place": kernels.SAME_PLACE, "nearest": kernels.NEAREST, "zeros": kernels.ZEROS}[way]
    batch, result = flat(images, dtype), flat(out, dtype)

    def run(stage: Any, staged_at: Any, order: Any, task: int) -> None:
        kernel(batch, stage, result, sources, windows, order, staged_at, as_seen, task, last)

    _all_images(run, sources, sizes, batch, inplace)
    return out


def blend(images: Tensor, partners: Tensor, lam: Tensor, inplace: bool) -> Tensor:
    """lam · image + (1 - lam) · partner, in one pass.

    Args:
        images: (B,C,H,W) float32, as `takes` allows.
        partners: (B,) int64, 0 … B - 1.
        lam: (B,) float32.
        inplace: change `images` itself.

    Returns:
        `images`, or a new batch.
    """
    kernels = _kernels()
    out = images if inplace else fresh(images)
    sources, share = int64(partners), lam.detach().contiguous().numpy()
    size = images[:1].numel()
    batch, result = flat(images, images.dtype), flat(out, images.dtype)

    def run(stage: Any, staged_at: Any, order: Any, task: int) -> None:
        kernels.blend(batch, stage, result, sources, share, order, staged_at, size, task)

    _all_images(run, sources, np.full(len(sources), size) if inplace else None, batch, inplace)
    return out


@functools.cache
def _madvise() -> Any:
    """libc's madvise; None where there is none."""
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


def fresh(images: Tensor, count: int | None = None) -> Tensor:
    """Room for `count` (None: as many) images as `images` are, not filled, on huge pages where Linux grants them on
    request (numpy asks likewise).

    Fresh memory costs a page fault every 4 KiB otherwise, which is more than the copy itself.
    """
    out = empty_like_batch(images, len(images) if count is None else count)
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    start = -(-out.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (out.data_ptr() + out.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
    if out.nbytes >= _WORTH_HUGE_PAGES and advice is not None and _madvise() is not None:
        _madvise()(start, size, advice)  # advice only: a refusal changes nothing
    return out


def _all_images(
    run: Callable[[Any, Any, Any, int], None], partners: Any, sizes: Any, batch: Any, inplace: bool
) -> None:
    """Calls run(stage, staged_at, order, task) for all images, on several threads.

    sizes: values a box; None where none is put aside: out of place, and where boxes are made of no partner.
    """
    kernels = _kernels()
    count = len(partners)
    threads = threads_for(count, batch.nbytes)
    chain, staged_at = kernels.chain(partners, inplace)
    parts = _split(chain, threads)
    if sizes is None:
        task, nothing = kernels.BOX if inplace else kernels.WHOLE, np.empty(0, batch.dtype)
        together([functools.partial(run, nothing, staged_at, part, task) for part in parts])
        return
    late = read_too_late(partners, parts)
    ends = np.cumsum(sizes[late])
    staged_at[late] = ends - sizes[late]
    stage = np.empty(ends[-1] if len(late) else 0, batch.dtype)
    shares = _split(late, min(threads, max(1, len(late))))
    together([functools.partial(run, stage, staged_at, share, kernels.STAGE) for share in shares])
    together([functools.partial(run, stage, staged_at, part, kernels.BOX) for part in parts])


def _split(values: Any, parts: int) -> list[Any]:
    """`parts` pieces of about one length; numpy's own array_split takes 30 µs."""
    bounds = [len(values) * part // parts for part in range(parts + 1)]
    return [values[start:end] for start, end in itertools.pairwise(bounds)]


def read_too_late(partners: Any, parts: Sequence[Any]) -> Any:
    """The images whose boxes must be put aside where each part is written in its order, the parts side by side.

    Those whose partner is in another part, is themselves, or comes before them. Right for any partners and order; along
    the chain of a permutation one for each cycle and each cut.
    """
    part, place = np.empty((2, len(partners)), np.int64)
    for number, members in enumerate(parts):
        part[members] = number
        place[members] = np.arange(len(members))
    return np.flatnonzero((part[partners] != part) | (place[partners] <= place))


def threads_for(count: int, size: int) -> int:
    """How many threads to mix `count` images of `size` bytes in all on."""
    return max(1, min(torch.get_num_threads(), count, size // _WORTH_A_THREAD))


def int64(tensor: Tensor) -> Any:
    return np.ascontiguousarray((tensor if tensor.dtype == torch.int64 else tensor.to(torch.int64)).numpy())


def shape(images: Tensor) -> tuple[int, int, int, int]:
    """(planes, height, width, pixel), as the kernels see an image."""
    _, channels, height, width = images.shape
    return (channels, height, width, 1) if images.is_contiguous() else (1, height, width, channels)


def flat(images: Tensor, dtype: torch.dtype) -> Any:
    """The batch's values in the order of memory, sharing it."""
    values = images.detach().view(dtype).numpy()
    return (values if images.is_contiguous() else values.transpose(0, 2, 3, 1)).reshape(-1)
