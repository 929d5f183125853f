"""How a batch lies in memory, and whether compiled kernels may read it there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# By bytes per value: kernels that only move values get them as integers of the same size.
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def memory_format(images: Tensor) -> torch.memory_format:
    """torch.channels_last where `images` are that and not contiguous as well, else torch.contiguous_format."""
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def keep_format(mixed: Tensor, images: Tensor) -> Tensor:
    """`mixed` in the memory format of `images`, contiguous or channels_last."""
    return mixed.contiguous(memory_format=memory_format(images))


def empty_like_batch(images: Tensor, count: int) -> Tensor:
    """Room for `count` images as `images` are: (count,C,H,W), not filled, same dtype, device and memory format."""
    shape = (count, *images.shape[1:])
    return torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=memory_format(images))


def per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """(C,1,1) float32 on `device`, written there: a CUDA graph would read a copy from the host's memory anew."""
    return torch.stack([torch.full((1, 1), value, dtype=torch.float32, device=device) for value in values])


def plain_pixels(images: Tensor, dtypes: Sequence[torch.dtype] | None) -> bool:
    """Whether kernels of ours may read the memory of `images`: dense, no gradients wanted, not being traced.

    dtypes: those allowed; None for any of 1, 2, 4 or 8 bytes.
    """
    return (
        not torch.compiler.is_compiling()
        and type(images) in (Tensor, torch.nn.Parameter)
        and not (images.requires_grad and torch.is_grad_enabled())
        and (images.is_contiguous() or images.is_contiguous(memory_format=torch.channels_last))
        and (images.element_size() in INTEGERS if dtypes is None else images.dtype in dtypes)
        and not (images.is_conj() or images.is_neg())
    )
