"""Compile functions with numba and cache them on disk.

The cache is next to the source file, in the user's cache folder, or in `caches.fallback()`. It detects changes only in
the file that defines a function. A compiled function must therefore not call compiled functions of other files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numba
from numba import types

from dali_mix import caches


def available() -> bool:
    """Return False if NUMBA_DISABLE_JIT is set; compiled functions must not be called then."""
    return not numba.config.DISABLE_JIT


def compiled(decorator: Callable[..., Any], *signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles with `decorator(*signature, **options)`; `decorator` is numba's njit or cfunc.

    Compiled functions are cached on disk if a cache folder is writable, else compiled again in every process.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        with contextlib.suppress(RuntimeError):  # "cannot cache function": no writable folder
            return decorator(*signature, cache=True, **options)(function)
        if (folder := caches.fallback()) is not None:
            # Set only while this function is compiled; others may use their own folder.
            usual, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder / "numba")
            try:
                with contextlib.suppress(RuntimeError):
                    return decorator(*signature, cache=True, **options)(function)
            finally:
                numba.config.CACHE_DIR = usual
        return decorator(*signature, **options)(function)

    return decorate


# Compiled at the first call for each dtype; releases the GIL.
jit = compiled(numba.njit, nogil=True, error_model="numpy")

# The C library's memcpy(to, from, bytes): a fifth faster than a compiled loop for copying a plane.
memcpy = types.ExternalFunction("memcpy", types.uintp(types.uintp, types.uintp, types.uintp))
