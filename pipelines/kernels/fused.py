"""The last steps of a graph as one CPU operator: crop, resize, crop, flip, normalize and pad.

It maps uint8 (H,W,3) to uint8 or float32 (3,h,w). It runs inside the DALI graph, one sample at a time on DALI's
threads, through the operator behind `nvidia.dali.plugin.numba`.

The plugin itself compiles its functions whenever a pipeline is built, which takes seconds, and does not cache them. Its
operator only needs the addresses of two compiled functions. These are passed directly, so that the functions can come
from numba's disk cache. Every start after the first is then fast.

If `available()` is false, DALI's own operators are used.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dali_mix.pipelines.base import Step
from dali_mix.pipelines.steps.geometry import Crop, Resize
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode

from dali_mix import compiled


@functools.cache
def available() -> bool:
    """Return True if numba may compile and DALI's plugin calls compiled functions with the signatures of `resample`."""
    if not compiled.available():
        return False
    try:
        from dali_mix.pipelines.kernels import resample
        from nvidia.dali.plugin.numba import NumbaFunction
    except ImportError:
        return False
    plugin: Any = NumbaFunction
    try:
        expected = plugin._run_fn_sig(None), plugin._setup_fn_sig(None)
    except (AttributeError, TypeError):  # the plugin of another version of DALI
        return False
    return expected == (resample.RUN_SIGNATURE, resample.SETUP_SIGNATURE)


@functools.cache
def _operator() -> type:
    """Return DALI's numba operator, which accepts addresses of compiled functions instead of Python functions."""
    from nvidia.dali.plugin.numba import NumbaFunction

    class CompiledFunction(NumbaFunction):
        def _get_run_fn_cpu(self, run_fn: int, *_: object) -> int:
            return run_fn

        def _get_setup_fn_cpu(self, setup_fn: int) -> int:
            return setup_fn

    return CompiledFunction


def ending(
    steps: Sequence[tuple[Step, Mapping[str, Any]]], device: str, of_known_size: bool
) -> tuple[int, dict[str, Any]]:
    """Return how many of the last `steps` to replace by `resize_flip`, 0 to 2, and the keyword arguments to pass to it.

    `steps` are pairs of a step and its draws. The last step is replaced if it is a linear `Resize` with `fuse`, the
    device is "cpu" and `available()`. A subclass of `Resize` that overrides `graph` but not `fused` is not replaced.

    If the last step is replaced, `steps` has only a `Crop` before it, and the images that enter the `Crop` are
    `of_known_size`, the `Crop` is replaced too. An image of unknown size may not contain the window drawn for it.
    DALI's operators detect this, and `resize_flip` does not.
    """
    step, draws = steps[-1] if steps else (None, {})
    if not (isinstance(step, Resize) and step.fuse and device == "cpu" and available()):
        return 0, {}
    owners = [next(kind for kind in type(step).__mro__ if name in vars(kind)) for name in ("graph", "fused")]
    if owners[0] is not owners[1]:
        return 0, {}
    crop, drawn = steps[0]
    if of_known_size and len(steps) == 2 and isinstance(crop, Crop) and type(crop).graph is Crop.graph:
        window = fn.cast(fn.cat(drawn["anchor"], drawn["shape"]), dtype=types.INT32)
        return 2, {**step.fused(draws), "window": window}
    return 1, step.fused(draws)


def resize_flip(
    images: DataNode,
    canvas: DataNode,
    mirror: DataNode | None = None,
    antialias: bool = True,
    window: DataNode | None = None,
    crop: DataNode | None = None,
    normalize: tuple[np.ndarray, np.ndarray] | None = None,
) -> DataNode:
    """Crop, resize, crop, flip and normalize uint8 HWC images, and pad the result with zeros.

    `available()` must be true.

    Args:
        canvas: (h, w, 0), an empty tensor of the output's size, which is equal for all images of a batch; DALI needs
            the output shape before the operator runs.
        mirror: int32 scalars; images for which it is not 0 are flipped. None: no flip.
        antialias: widen the filter by the scale factor when shrinking.
        window: int32 (4,), top, left, height and width of the region to resize, inside the image; None: the full image.
        crop: int32 (6,), height and width to resize to, then top, left, height and width of the window to keep; None:
            resize to the canvas.
        normalize: scale and shift, see `normalization.factors`; None: no normalization.

    Returns:
        (3, h, w) uint8, equal to `fn.resize(interp_type=INTERP_LINEAR, antialias=...)` up to one grey level of
        rounding; float32 with `normalize`.
    """
    from dali_mix.pipelines.kernels import resample

    scale, shift = normalize or (np.ones(3), np.zeros(3))
    constants = types.Constant(np.array([antialias, *scale, *shift], np.float32), device="cpu")
    mirror = types.Constant(np.array(0, np.int32), device="cpu") if mirror is None else mirror
    window = types.Constant(np.zeros(4, np.int32), device="cpu") if window is None else window
    crop = types.Constant(np.zeros(6, np.int32), device="cpu") if crop is None else crop
    run, setup = resample.addresses(normalize is not None)
    operator = _operator()(
        run_fn=run,
        setup_fn=setup,
        in_types=[types.UINT8, types.INT32, types.FLOAT, types.INT32, types.INT32, types.UINT8],
        ins_ndim=[3, 0, 1, 1, 1, 3],
        out_types=[types.UINT8 if normalize is None else types.FLOAT],
        outs_ndim=[3],
    )
    return fn.reshape(operator(images, mirror, constants, window, crop, canvas), layout="CHW")
