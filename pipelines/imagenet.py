"""`imagenet`: photographs of any size; random-resized crops for training, a centre crop for evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from nvidia.dali import fn, types

from dali_mix.pipelines import ops, windows
from dali_mix.pipelines.base import IMAGENET_MEAN, IMAGENET_STD, Pipeline, choice, interval, number
from dali_mix.pipelines.random import SampleRandom

if TYPE_CHECKING:
    from nvidia.dali.data_node import DataNode

# name → (filter where an axis shrinks, filter where it grows, antialias, decode only the window)
PRESETS = {
    "default": ("linear", "linear", True, True),
    "parity": ("linear", "linear", True, False),
    "resizemix": ("triangular", "lanczos3", True, True),
}


class ImageNet(Pipeline):
    """Random-resized crop and flip for training; shorter side to `crop_ratio` × the image size and a centre crop for evaluation.

    Args:
        train: which of the two.
        image_size: pixels, 32 to 512, or (height, width).
        scale, ratio: of the random window: share of the area, width / height.
        flip: probability of a horizontal flip.
        crop_ratio: evaluation: resized shorter side / image size.
        preset: "default"; "parity": the pixels of torchvision and PIL (decodes whole images, slower); "resizemix": the filters of
            the released ResizeMix (triangular where an axis shrinks, Lanczos3 where it grows).
        min_filter, mag_filter, antialias: change the preset's; filters nearest, linear, triangular, cubic, lanczos3.
        mean, std: per channel, 0..1 units.
    """

    name = "imagenet"

    def __init__(
        self,
        *,
        train: bool,
        image_size: int | Sequence[int] = 224,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        crop_ratio: float = 256 / 224,
        preset: str = "default",
        min_filter: str | None = None,
        mag_filter: str | None = None,
        antialias: bool | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(train=train, image_size=image_size, mean=mean, std=std)
        if not all(32 <= side <= 512 for side in self.image_size):
            raise ValueError(f"image_size is {image_size!r}: this pipeline makes images of 32 to 512 pixels a side")
        self.scale = interval("scale", scale, 1e-6, 1.0)
        self.ratio = interval("ratio", ratio, 1e-3, 1e3)
        self.flip = number("flip", flip, 0.0, 1.0)
        self.crop_ratio = number("crop_ratio", crop_ratio, 1.0, 4.0)
        min_default, mag_default, smooth, self.window_decode = PRESETS[choice("preset", preset, tuple(PRESETS))]
        self.min_filter = choice("min_filter", min_filter or min_default, tuple(ops.INTERPOLATIONS))
        self.mag_filter = choice("mag_filter", mag_filter or mag_default, tuple(ops.INTERPOLATIONS))
        self.antialias = smooth if antialias is None else bool(antialias)

    def draw(self, rows: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Training: anchor, shape (B, 2) int32 and mirror (B,) int32. Evaluation: resized size (B, 2) float32 and crop position (B, 2)."""
        if not self.train:
            target = (round(self.crop_ratio * self.image_size[0]), round(self.crop_ratio * self.image_size[1]))
            sizes = windows.covering_sizes(rows["height"], rows["width"], target)
            return {"size": sizes.astype(np.float32), "position": windows.centre_crop_positions(sizes, self.image_size)}
        anchor, shape = windows.random_resized_windows(rows["height"], rows["width"], self.scale, self.ratio, random)
        mirror = (random.uniform(1)[:, 0] < self.flip).astype(np.int32)
        return {"anchor": anchor, "shape": shape, "mirror": mirror}

    def graph(self, encoded: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        """Decode, resize, flip, normalize: float32, CHW on the CPU, HWC on a GPU."""
        if not self.train:
            whole = ops.decode(encoded, device)
            resized = ops.resize(whole, draws["size"], device, self.min_filter, self.mag_filter, self.antialias)
            position = draws["position"]
            return ops.flip_normalize(resized, self.image_size, device, self.mean, self.std, crop=(position[0], position[1]))
        if self.window_decode:
            images = ops.decode(encoded, device, (draws["anchor"], draws["shape"]))
        else:
            images = fn.slice(ops.decode(encoded, device), draws["anchor"], draws["shape"], device=device, axis_names="HW")
        return ops.resize_flip_normalize(
            images, self.image_size, device, self.mean, self.std, draws["mirror"], self.min_filter, self.mag_filter, self.antialias
        )
