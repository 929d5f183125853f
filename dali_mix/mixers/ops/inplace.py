"""Which batches may be changed in place."""

from __future__ import annotations

import torch
from torch import Tensor


def check_inplace(images: Tensor) -> None:
    """Raise ValueError where the values of `images` cannot be changed, each by itself, without anyone else's notice.

    They require gradients, are inference tensors outside of inference mode, or some share memory, as after `expand`.
    """
    if images.requires_grad:
        raise ValueError("images that require gradients cannot be mixed in place: leave inplace=False, or detach them")
    if not torch.compiler.is_compiling() and images.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError("inference tensors cannot be mixed in place outside of inference mode: leave inplace=False")
    reach = 1  # one past the last value of the dimensions seen so far, the innermost first
    for stride, size in sorted(zip(images.stride(), images.shape, strict=True)) if images.numel() else ():
        if size > 1:
            if stride < reach:
                raise ValueError(
                    f"images of shape {tuple(images.shape)}, strides {images.stride()}, share memory, as after expand, "
                    "and cannot be mixed in place: leave inplace=False, or clone them"
                )
            reach += (size - 1) * stride
