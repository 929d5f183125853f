"""Backends of the operations in `mixers.ops`, and the code that selects one.

An operation is a function with the same name and arguments in each of its backends. Every operation has a backend in
plain torch (any device and dtype, differentiable, traceable by torch.compile) and one in numba for a CPU. Some also
have one in Triton for CUDA. All return the same results, up to rounding where pixels are averaged.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dali_mix import caches
from dali_mix.mixers.kernels import torch_masks, torch_paste, torch_per_image, torch_saliency, torch_splice
from dali_mix.mixers.layout import INTEGERS


class Backend(NamedTuple):
    """A compiled backend.

    Attributes:
        device: "cpu" or "cuda".
        module: name of the backend's module in this package.
        dtypes: dtypes accepted for the first tensor; None for any dtype of 1, 2, 4 or 8 bytes.
    """

    device: str
    module: str
    dtypes: tuple[torch.dtype, ...] | None = None


class Operation(NamedTuple):
    """The backends of an operation: compiled ones, tried first, and a Python module of torch code for any tensor."""

    torch: ModuleType
    compiled: tuple[Backend, ...]


_FLOAT_OR_UINT8 = (torch.float32, torch.uint8)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_INT64 = Backend("cpu", "numba_per_image", (torch.int64,))
_PASTE = Operation(torch_paste, (Backend("cpu", "numba_paste"), Backend("cuda", "triton_paste")))

OPERATIONS = {
    "paste": _PASTE,
    "paste_nearest": _PASTE,
    "paste_bilinear": Operation(torch_paste, (Backend("cpu", "numba_paste", _FLOAT_OR_UINT8),)),
    "erase": _PASTE,
    "blend": Operation(
        torch_paste,
        (Backend("cpu", "numba_paste", (torch.float32,)), Backend("cuda", "triton_paste", (*_FLOATS, torch.uint8))),
    ),
    "splice": Operation(torch_splice, (Backend("cpu", "numba_splice", _FLOAT_OR_UINT8),)),
    "draw_masks": Operation(torch_masks, (Backend("cpu", "numba_masks", (torch.float32,)),)),
    "saliency": Operation(
        torch_saliency,
        (
            Backend("cpu", "numba_saliency", (torch.uint8, *_FLOATS, torch.float64)),
            Backend("cuda", "triton_saliency", (torch.uint8, *_FLOATS)),
        ),
    ),
    "clipped_boxes": Operation(torch_per_image, (Backend("cpu", "numba_per_image", (torch.float64,)),)),
    "shifted_boxes": Operation(torch_per_image, (Backend("cpu", "numba_per_image", (torch.float64,)),)),
    "boxes_inside": Operation(torch_per_image, (_INT64,)),
    "in_range": Operation(torch_per_image, (_INT64,)),
    "mix_classes": Operation(torch_per_image, (_INT64,)),
}


def pick(operation: str, images: Tensor, *others: Tensor) -> Callable[..., Any]:
    """Return the function that computes `operation` for these tensors: a compiled one if possible, else torch code.

    Compiled functions access memory directly. They are used only if `images` is a Tensor or Parameter, not an instance
    of another subclass, and is contiguous or channels_last; if a `Backend` supports its device, dtype and, for Triton,
    size; and if autograd does not record the operation. They are never used under torch.compile.

    Args:
        operation: a key of `OPERATIONS`.
        images: the operation's first tensor.
        others: the operation's other tensors that may require gradients.
    """
    candidates = OPERATIONS[operation]
    if not torch.compiler.is_compiling():
        for backend in candidates.compiled:
            here = images.is_cpu if backend.device == "cpu" else images.is_cuda
            if here and _readable(images, backend.dtypes, others):
                module = _load(backend.module)
                if module is not None and (backend.device == "cpu" or module.fits(images)):
                    return getattr(module, operation)
    return getattr(candidates.torch, operation)


def _readable(images: Tensor, dtypes: tuple[torch.dtype, ...] | None, others: tuple[Tensor, ...]) -> bool:
    return (
        (images.dtype in dtypes if dtypes is not None else images.element_size() in INTEGERS)
        and type(images) in (Tensor, torch.nn.Parameter)
        and (images.is_contiguous() or images.is_contiguous(memory_format=torch.channels_last))
        and not (images.is_conj() or images.is_neg())
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (images, *others)))
    )


@functools.cache
def _load(name: str) -> ModuleType | None:
    """Import and return the module `name` of this package, which contains a compiled backend.

    Return None for a numba module if NUMBA_DISABLE_JIT is set, and for a Triton module if Triton cannot be imported or
    torch was built for ROCm. For Triton, first set up its cache folder.
    """
    if name.startswith("numba"):
        from dali_mix import compiled  # importing numba takes 0.4 s, and mixing on a GPU does not need it

        return importlib.import_module(f"{__name__}.{name}") if compiled.available() else None
    if torch.version.hip is not None:
        return None
    caches.for_triton()
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ImportError:
        return None
