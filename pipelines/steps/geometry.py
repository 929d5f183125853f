"""Geometric steps (crops that depend only on the image size, resizing and flips), and decoding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dali_mix.pipelines.base import Step, interval, size_of
from dali_mix.pipelines.random import SampleRandom
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode

from dali_mix.options import choice, number

TRIES = 10
# For `MultiScaleCrop`: sides as fractions of those of the image.
SCALES = np.array([1.0, 0.875, 0.75, 0.66, 0.5])
# For `MultiScaleCrop`: pairs (height, width) of indices into `SCALES` that differ by at most 2.
SIDE_PAIRS = np.array([(i, j) for i in range(5) for j in range(5) if abs(i - j) <= 2])
# For `MultiScaleCrop`: positions (top, left) in quarters of the free space. They are the four corners, the centre, the
# middles of the borders and the quarter points.
QUARTERS = np.array(
    [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
)
INTERPOLATIONS = {
    "nearest": types.INTERP_NN,
    "linear": types.INTERP_LINEAR,
    "triangular": types.INTERP_TRIANGULAR,
    "cubic": types.INTERP_CUBIC,
    "lanczos3": types.INTERP_LANCZOS3,
}


def decode(encoded: DataNode, device: str, window: tuple[DataNode, DataNode] | None = None) -> DataNode:
    """Decode encoded bytes in CPU memory to uint8 RGB HWC images on `device`, and apply the EXIF rotation.

    With `window`, the nodes (anchor, shape) of a drawn window, only that part of the rotated image is decoded.
    """
    options = {"device": "mixed" if device == "gpu" else "cpu", "output_type": types.RGB, "hw_decoder_load": 0.65}
    if window is None:
        return fn.decoders.image(encoded, **options)
    return fn.decoders.image_slice(encoded, *window, axis_names="HW", **options)


class Crop(Step):
    """Crop a window of the image. `Crop` itself keeps the full image; subclasses draw a window.

    A window is drawn as anchor (B, 2) int32, top and left, and shape (B, 2) int32, height and width, in pixels. It lies
    inside the image and has at least one pixel. If the step is the first one and `decode_window` is True, only the
    window is decoded.
    """

    decode_window: bool = True

    def draw(self, sizes: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        return {"anchor": np.zeros_like(sizes), "shape": sizes}

    def decode(self, encoded: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        """Decode encoded bytes and crop the window: the first step of a pipeline does this instead of `graph`.

        Return uint8 HWC images. Without `decode_window`, the full image is decoded and then cropped.
        """
        if self.decode_window:
            return decode(encoded, device, (draws["anchor"], draws["shape"]))
        return self.graph(decode(encoded, device), draws, device)

    def graph(self, images: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        return fn.slice(images, draws["anchor"], draws["shape"], device=device, axis_names="HW")

    def resized(self, sizes: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        return draws["shape"]

    def map_boxes(self, boxes: np.ndarray, size: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        return boxes - np.tile(draws["anchor"][::-1], 2)


class RandomResizedCrop(Crop):
    """Crop a window of random area and shape: the "Inception" crop (Szegedy et al. 2015), drawn as in torchvision.

    Up to ten windows are tried per record, with a share of the area uniform in `scale` and width / height log-uniform
    in `ratio`. The first that fits is used, at a uniform position. If none fits, the largest centred window within
    `ratio` is used, which may be the full image.
    """

    def __init__(self, scale: Sequence[float], ratio: Sequence[float], decode_window: bool = True) -> None:
        self.scale = interval("scale", scale, 1e-6, 1.0)
        self.ratio = interval("ratio", ratio, 1e-3, 1e3)
        self.decode_window = decode_window

    def draw(self, sizes: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        sizes = sizes.astype(np.float64)
        u = random.uniform(2 * TRIES + 2)
        area = sizes.prod(axis=1, keepdims=True) * (self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, :TRIES])
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        aspect = np.exp(low + (high - low) * u[:, TRIES : 2 * TRIES])
        tried = np.rint(np.sqrt(np.stack([area / aspect, area * aspect], axis=2)))  # (B, TRIES, 2): height, width
        fits = ((tried >= 1) & (tried <= sizes[:, None])).all(axis=2)
        found = fits.any(axis=1, keepdims=True)
        largest = np.stack([sizes[:, 1] / self.ratio[0], sizes[:, 0] * self.ratio[1]], axis=1)
        shape = np.clip(np.rint(largest), 1, sizes)
        shape = np.where(found, tried[np.arange(len(sizes)), fits.argmax(axis=1)], shape)
        anchor = np.where(found, np.floor(u[:, -2:] * (sizes - shape + 1)), (sizes - shape) // 2)
        return {"anchor": anchor.astype(np.int32), "shape": shape.astype(np.int32)}


class MultiScaleCrop(Crop):
    """Apply the multi-scale crop of two-stream networks (arXiv 1507.02159), as in SpliceMix and ML-GCN.

    In the published version, the image is resized to a square. A window with one of 19 combinations of height and width
    is cropped from it at one of 13 positions, and the crop is resized to the final size. Here the same window is
    cropped from the original image, so its pixels are resampled only once.
    """

    def draw(self, sizes: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        sides = SIDE_PAIRS[random.integers(0, len(SIDE_PAIRS), 1)[:, 0]]
        quarters = QUARTERS[random.integers(0, len(QUARTERS), 1)[:, 0]]
        shape = np.maximum(np.rint(sizes * SCALES[sides]), 1)
        anchor = np.floor((sizes - shape) * quarters / 4)
        return {"anchor": anchor.astype(np.int32), "shape": shape.astype(np.int32)}


class Resize(Step):
    """Resize to `size`, a number of pixels or (height, width), without keeping proportions.

    Args:
        min_filter, mag_filter: filters for an axis that shrinks, and for one that grows.
        antialias: widen the filter by the scale factor when shrinking.
        fuse: whether `kernels.fused` may be used. This also needs linear filters and a CPU, and the step must be the
            last one or be followed only by a `Flip`.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        min_filter: str = "linear",
        mag_filter: str = "linear",
        antialias: bool = True,
        fuse: bool = True,
    ) -> None:
        self.size = size_of(size)
        self.antialias = antialias
        self.min_filter = choice("min_filter", min_filter, INTERPOLATIONS)
        self.mag_filter = choice("mag_filter", mag_filter, INTERPOLATIONS)
        self.fuse = fuse and min_filter == mag_filter == "linear"

    def graph(self, images: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        return self.resize(images, self.size, device)

    def resize(self, images: DataNode, size: tuple[int, int] | DataNode, device: str) -> DataNode:
        """Resize to `size`: (height, width) for all images, or a node with a size per image."""
        filters = {"min_filter": INTERPOLATIONS[self.min_filter], "mag_filter": INTERPOLATIONS[self.mag_filter]}
        return fn.resize(images, device=device, size=size, antialias=self.antialias, **filters)

    def fused(self, draws: Mapping[str, DataNode]) -> dict[str, Any]:
        """Return the options with which `kernels.fused.resize_flip` replaces this step."""
        return {"antialias": self.antialias}

    def resized(self, sizes: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.full_like(sizes, self.size)

    def map_boxes(self, boxes: np.ndarray, size: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        return boxes / np.tile(size[::-1], 2) * np.tile(self.size[::-1], 2)


class CentreCrop(Resize):
    """Resize to just cover `ratio` × `size`, keeping proportions, then crop `size` from the centre.

    Rounding is that of torchvision's Resize and CenterCrop. One side of the resized image is that of `ratio` × `size`;
    the other is rounded down. The offset of the crop is rounded to the nearest integer, ties to even.

    Args:
        size: size of the crop, a number of pixels or (height, width).
        ratio: 1 to 4; `ratio` × `size` is rounded to whole pixels.
        min_filter, mag_filter, antialias, fuse: as for `Resize`.

    Raises:
        ValueError: `size` or `ratio` out of range, or an unknown filter.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        ratio: float,
        min_filter: str = "linear",
        mag_filter: str = "linear",
        antialias: bool = True,
        fuse: bool = True,
    ) -> None:
        super().__init__(size, min_filter, mag_filter, antialias, fuse)
        ratio = number("crop_ratio", ratio, 1.0, 4.0)
        self.covered = round(ratio * self.size[0]), round(ratio * self.size[1])

    def draw(self, sizes: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Draw size (B, 2) float32, height and width to resize to, and anchor (B, 2) int32, the crop's top and left."""
        covering = np.maximum(self.covered, np.array(self.covered[::-1]) * sizes // sizes[:, ::-1])
        anchor = np.rint((covering - self.size) / 2)
        return {"size": covering.astype(np.float32), "anchor": anchor.astype(np.int32)}

    def graph(self, images: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        images = self.resize(images, draws["size"], device)
        return fn.slice(images, start=draws["anchor"], shape=self.size, device=device, axis_names="HW")

    def fused(self, draws: Mapping[str, DataNode]) -> dict[str, Any]:
        size = types.Constant(np.array(self.size, np.int32), device="cpu")
        crop = fn.cat(fn.cast(draws["size"], dtype=types.INT32), draws["anchor"], size)
        return {"antialias": self.antialias, "crop": crop}

    def map_boxes(self, boxes: np.ndarray, size: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        return boxes / np.tile(size[::-1], 2) * np.tile(draws["size"][::-1], 2) - np.tile(draws["anchor"][::-1], 2)


class Flip(Step):
    """Flip left to right with probability `prob`."""

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = number("flip", prob, 0.0, 1.0)

    def draw(self, sizes: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Draw mirror (B,) int32: 1 if the image is flipped, else 0."""
        return {"mirror": (random.uniform(1)[:, 0] < self.prob).astype(np.int32)}

    def graph(self, images: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        return fn.flip(images, horizontal=draws["mirror"], device=device)

    def mirror(self, draws: Mapping[str, DataNode]) -> DataNode:
        """Return the node that tells the last operator of the graph which images to flip.

        The pipeline passes it to this operator instead of calling `graph` if this step is the last one.
        """
        return draws["mirror"]

    def map_boxes(self, boxes: np.ndarray, size: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        if not draws["mirror"]:
            return boxes
        return np.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], axis=1)
