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
    """Return (planes, height, width, pixel), where `pixel` is the number of adjacent values per pixel.

    In memory, an image is `planes · height` rows of `width · pixel` values.
    """
    _, channels, height, width = images.shape
    return (channels, height, width, 1) if images.is_contiguous() else (1, height, width, channels)


def flat(images: Tensor, dtype: torch.dtype) -> Any:
    """Return a 1-D numpy array of `dtype` that shares the batch's memory, in memory order."""
    values = images.detach().view(dtype).numpy()
    return (values if images.is_contiguous() else values.transpose(0, 2, 3, 1)).reshape(-1)


def int64(tensor: Tensor) -> Any:
    """Return a CPU tensor as a contiguous int64 numpy array."""
    return np.ascontiguousarray((tensor if tensor.dtype == torch.int64 else tensor.to(torch.int64)).numpy())
