"""Memory layout of batches: contiguous or channels_last, as torch tensors and as flat numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Integer dtypes by bytes per value. Kernels that only move values treat them as integers of the same size.
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def memory_format(images: Tensor) -> torch.memory_format:
    """Return torch.channels_last for a batch that is channels_last and not contiguous, else torch.contiguous_format."""
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def keep_format(mixed: Tensor, images: Tensor) -> Tensor:
    """Return `mixed` in the memory format of `images`."""
    return mixed.contiguous(memory_format=memory_format(images))


def empty_like_batch(images: Tensor, count: int) -> Tensor:
    """Allocate (count,C,H,W) in the dtype, device and memory format of `images`."""
    shape = (count, *images.shape[1:])
    return torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=memory_format(images))


def empty_on_huge_pages(images: Tensor, count: int) -> Tensor:
    """Allocate like `empty_like_batch`, but with numpy, which requests huge pages from Linux.

    Without huge pages, fresh memory costs a page fault every 4 KiB. These faults take longer than the copy itself.
    """
    memory = np.empty((count, *image_shape(images)), f"i{images.element_size()}")
    out = torch.from_numpy(memory).view(images.dtype)
    return out.squeeze(4) if images.is_contiguous() else out.squeeze(1).permute(0, 3, 1, 2)


def per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """Return `values` as (C,1,1) float32.

    The values are filled in on `device`. A copy from host memory would become part of a CUDA graph and be replayed.
    """
    return torch.stack([torch.full((1, 1), value, dtype=torch.float32, device=device) for value in values])


def image_shape(images: Tensor) -> tuple[int, int, int, int]:
    """Return (planes, height, width, pixel), the shape of an image of a contiguous or channels_last batch in memory.

    An image is `planes · height` rows of `width · pixel` values. A contiguous batch has C planes and 1 value per pixel,
    and a channels_last batch has 1 plane and C values per pixel.
    """
    _, channels, height, width = images.shape
    return (channels, height, width, 1) if images.is_contiguous() else (1, height, width, channels)


def flat(images: Tensor, dtype: torch.dtype) -> Any:
    """Return the values of a batch in memory order, as a 1-D numpy array that shares the batch's memory.

    The batch must be on a CPU and contiguous or channels_last. Its values are reinterpreted as `dtype`, which must have
    the same size.
    """
    values = images.detach().view(dtype).numpy()
    return (values if images.is_contiguous() else values.transpose(0, 2, 3, 1)).reshape(-1)


def int64(tensor: Tensor) -> Any:
    """Return a CPU tensor as a contiguous int64 numpy array."""
    return np.ascontiguousarray((tensor if tensor.dtype == torch.int64 else tensor.to(torch.int64)).numpy())
