"""Check tensors for NaN and infinity, and name the first affected one. `watch` runs these checks during training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class NonFinite(ValueError):
    """Raised if a number that must be finite is NaN or infinite."""


class NonFiniteLoss(NonFinite):
    """Raised if the loss, gradient or statistics of a step are NaN or infinite; that step changed no weights."""


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the joint L2 norm of all tensors as a scalar tensor.

    If it is finite, all tensors are finite. If not, a tensor contains NaN or infinity, or the norm overflows.

    The norm is computed in one fused pass on the tensors' device, without synchronizing. 16-bit tensors are converted
    to float32 first, since their norm may exceed their range.
    """
    wide = [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors]
    return torch.nn.utils.get_total_norm(wide)


def statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return the floating-point buffers of `model` that must stay finite, by name.

    These are the statistics of BatchNorm and similar layers, and any other buffers that are finite now. A mask that
    contains -inf, for example, is excluded.
    """
    of_norms = {id(b) for m in model.modules() if isinstance(m, _NormBase) for b in m.buffers(recurse=False)}
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point() and (id(buffer) in of_norms or bool(buffer.isfinite().all()))
    }


def first_non_finite(tensors: Mapping[str, Any]) -> str | None:
    """Return the name of the first floating-point tensor in `tensors` with NaN or infinity; None if all are finite.

    All other values are ignored. Synchronizes with the device.
    """
    floating = {name: t for name, t in tensors.items() if isinstance(t, Tensor) and t.is_floating_point()}
    if not floating or total_norm(floating.values()).isfinite():
        return None
    return next((name for name, tensor in floating.items() if not tensor.isfinite().all()), None)
