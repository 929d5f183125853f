"""DALI graph pieces that several pipelines share: decode a window, resize, flip, normalize.

`device` is the device of the whole pipeline, "cpu" or "gpu"; the same calls build both graphs. Images leave as float32,
CHW on the CPU and HWC on a GPU, where the loader hands them out as channels_last without moving a byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from dali_mix.pipelines.kernels import fused
from nvidia.dali import fn, math, types
from nvidia.dali.data_node import DataNode

INTERPOLATIONS = {
    "nearest": types.INTERP_NN,
    "linear": types.INTERP_LINEAR,
    "triangular": types.INTERP_TRIANGULAR,
    "cubic": types.INTERP_CUBIC,
    "lanczos3": types.INTERP_LANCZOS3,
}


def decode(encoded: DataNode, device: str, window: tuple[DataNode, DataNode] | None = None) -> DataNode:
    """Encoded bytes → uint8 RGB HWC, turned by EXIF.

    `window` = (anchor, shape), int32 (2,) each as (top, left) and (height, width) in pixels of the turned image: only
    that part is decoded. On a GPU the hybrid decoder reads from the host.
    """
    where = "mixed" if device == "gpu" else "cpu"
    if window is None:
        return fn.decoders.image(encoded, device=where, output_type=types.RGB, hw_decoder_load=0.65)
    return fn.decoders.image_slice(
        encoded, window[0], window[1], device=where, output_type=types.RGB, axis_names="HW", hw_decoder_load=0.65
    )


def resize(
    images: DataNode,
    size: Sequence[int] | DataNode,
    device: str,
    min_filter: str = "linear",
    mag_filter: str = "linear",
    antialias: bool = True,
) -> DataNode:
    """Resizes uint8 HWC images to `size` (height, width), one for all or one a sample.

    `min_filter` is used along an axis that shrinks, `mag_filter` along one that grows; `antialias` widens the filter to
    the ratio.
    """
    return fn.resize(
        images,
        device=device,
        size=size,
        min_filter=INTERPOLATIONS[min_filter],
        mag_filter=INTERPOLATIONS[mag_filter],
        antialias=antialias,
    )


def flip_normalize(
    images: DataNode,
    size: Sequence[int],
    device: str,
    mean: Sequence[float],
    std: Sequence[float],
    mirror: DataNode | None = None,
    crop: tuple[DataNode, DataNode] | None = None,
) -> DataNode:
    """Cuts `size` (height, width) out of uint8 HWC images, flips where `mirror` (int32) is 1, and returns (x/255 -
    mean) / std, float32.

    `crop` = (y, x), float32 in 0..1 as DALI's `crop_pos_*`; the centre when None.
    """
    position = {} if crop is None else {"crop_pos_y": crop[0], "crop_pos_x": crop[1]}
    return fn.crop_mirror_normalize(
        images,
        device=device,
        dtype=types.FLOAT,
        output_layout="HWC" if device == "gpu" else "CHW",
        crop=tuple(size),
        mirror=0 if mirror is None else mirror,
        mean=[255.0 * value for value in mean],
        std=[255.0 * value for value in std],
        rounding="round",
        **position,
    )


def resize_flip_normalize(
    images: DataNode,
    size: Sequence[int],
    device: str,
    mean: Sequence[float],
    std: Sequence[float],
    mirror: DataNode | None = None,
    min_filter: str = "linear",
    mag_filter: str = "linear",
    antialias: bool = True,
    fuse: bool = True,
    crop: tuple[DataNode, DataNode] | None = None,
) -> DataNode:
    """The end of a graph: uint8 HWC images of any size → normalized float32 of `size` (height, width), some flipped.

    `crop` = (resized, position), float32 (2,) each as (height, width) and (y, x): resized to that, then `size` is cut
    out at `position`, in 0..1 as DALI's `crop_pos_*`.

    On the CPU, linear filters are computed by one compiled operator where numba is installed (`fused`), unless `fuse`
    is False; the stock operators differ from it by half a grey level at most.
    """
    if fuse and device == "cpu" and min_filter == mag_filter == "linear" and fused.available():
        place = None
        if crop is not None:
            start = math.floor(crop[1] * (crop[0] - np.array(size, np.float32)) + 0.5)
            place = fn.cast(fn.cat(crop[0], start), dtype=types.INT32)
        return fused.resize_flip_normalize(images, size, mean, std, mirror, antialias, place)
    resized = resize(images, size if crop is None else crop[0], device, min_filter, mag_filter, antialias)
    return flip_normalize(resized, size, device, mean, std, mirror, None if crop is None else (crop[1][0], crop[1][1]))
