"""Partners of images: row i of a batch is mixed with row permutation[i]."""

from __future__ import annotations

import torch
from torch import Tensor

from dali_mix.mixers import kernels


def of_partners(values: Tensor, permutation: Tensor) -> Tensor:
    """Return the values of each image's partner, `values[permutation]`. Raise ValueError like `check_partners`."""
    check_partners(permutation, len(values))
    return values[permutation]


def check_partners(permutation: Tensor, count: int) -> None:
    """Raise ValueError unless `permutation` (n,) is int64 or int32 and its values are in 0 … count - 1.

    The values are checked on a CPU only, and not under torch.compile. They may repeat.
    """
    integers = permutation.dtype in (torch.int64, torch.int32)  # torch treats uint8 and bool as masks
    if not integers or not kernels.pick("in_range", permutation)(permutation, count):
        raise ValueError(f"permutation must name images 0 … {count - 1}, in int64; it is {permutation.tolist()}")
