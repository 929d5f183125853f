"""Functions compiled by numba, kept on disk: beside their file, in the user's cache folder, or in `caches.fallback()`.

Importing this module raises ImportError if NUMBA_DISABLE_JIT is set: the callers' versions without numba then serve.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numba

from dali_mix import caches

if numba.config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set: nothing can be compiled")


def compiled(decorator: Callable[..., Any], *signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return `decorator(*signature, **options)`, numba's `njit` or `cfunc`, with `cache=True` wherever that works."""

    def decorate(function: Callable[..., Any]) -> Any:
        with contextlib.suppress(RuntimeError):  # "cannot cache function": no folder to write to
            return decorator(*signature, cache=True, **options)(function)
        if (folder := caches.fallback()) is not None:
            # Only for this function: others may have a folder of their own.
            usual, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder / "numba")
            try:
                with contextlib.suppress(RuntimeError):
                    return decorator(*signature, cache=True, **options)(function)
            finally:
                numba.config.CACHE_DIR = usual
        return decorator(*signature, **options)(function)

    return decorate
