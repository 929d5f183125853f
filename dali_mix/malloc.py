"""Keep freed memory in the process, for packing and for training on a CPU."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MMAP_THRESHOLDS = (1 << 30, 1 << 25)  # bytes; older glibc versions refuse more than 32 MiB
_TRIM_THRESHOLD = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep freed memory instead of returning it to the system; return True on success.

    A training step frees its activations and allocates the same sizes again; the packer does the same with images. By
    default, the memory is returned to the kernel and every page is zeroed when it is allocated again. This takes about
    a sixth of a small network's step time on a CPU. Blocks of 1 GiB and more (32 MiB with older versions of
    glibc) are still returned.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    kept = any(mallopt(_M_MMAP_THRESHOLD, size) for size in _MMAP_THRESHOLDS)
    return kept and bool(mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD))
