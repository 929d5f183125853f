"""Freed memory kept by the process: for packing, and for training on a CPU."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MMAP_THRESHOLDS = (1 << 30, 1 << 25)  # bytes; older versions refuse more than 32 MiB
_TRIM_THRESHOLD = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Makes glibc's malloc keep what is freed instead of returning it to the system; False where there is no glibc.

    A training step frees all its activations and takes the same sizes again at once, and so does a packer with images.
    By default each round trip goes through the kernel, which hands out every page anew and zeroed: about a sixth of a
    small network's step on a CPU. Packing without decoding gained 2 to 5 %, which is within its noise.
    Tensors of 1 GiB and more (32 MiB on older versions) still come and go.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    kept = any(mallopt(_M_MMAP_THRESHOLD, size) for size in _MMAP_THRESHOLDS)
    return kept and bool(mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD))
