"""`imagenet`: photographs of any size; random-resized crops for training, a centre crop for evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from dali_mix.pipelines import ops
from dali_mix.pipelines.base import IMAGENET_MEAN, IMAGENET_STD, Pipeline, choice, interval, number
from dali_mix.pipelines.random import SampleRandom
from dali_mix.pipelines.steps import window
from dali_mix.pipelines.steps.auto_augment import AutoAugment
from dali_mix.pipelines.steps.color import Color
from nvidia.dali import fn, math, types

if TYPE_CHECKING:
    from nvidia.dali.data_node import DataNode

# name → (filter where an axis shrinks, filter where it grows, antialias, decode only the window)
PRESETS = {
    "default": ("linear", "linear", True, True),
    "parity": ("linear", "linear", True, False),
    "resizemix": ("triangular", "lanczos3", True, True),
}


class ImageNet(Pipeline):
    """Random-resized crop and flip for training; shorter side to `crop_ratio` × the image size and a centre crop for
    evaluation.

    Args:
        train: which of the two.
        image_size: pixels, 32 to 512, or (height, width).
        scale, ratio: of the random window: share of the area, width / height.
        flip: probability of a horizontal flip.
        crop_ratio: evaluation: resized shorter side / image size.
        preset: "default"; "parity": the pixels of torchvision and PIL to one grey level, but for the outermost row and
            column, where DALI's antialiasing repeats the edge (it decodes whole images and does not fuse: slower);
            "resizemix": the filters of the released ResizeMix (triangular where an axis shrinks, Lanczos3 where it
            grows).
        min_filter, mag_filter, antialias: change the preset's; filters nearest, linear, triangular, cubic, lanczos3.
        color_jitter, pca_lighting: see `steps.color.Color`; applied to the resized crop.
        auto_augment, augment_count, augment_magnitude: see `steps.auto_augment.AutoAugment`; after the
            colours.
        erasing: probability of Random Erasing (arXiv 1708.04896): a window of 2 to 33 % of the image set to the mean
            colour.
        mean, std: per channel, 0..1 units.
        fuse: on the CPU with linear filters: resize, crop, flip and normalize in one operator compiled by numba, if it
            is installed.

    Everything random is for training only; evaluation takes these options and ignores them.
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
        color_jitter: float | Sequence[float] | None = None,
        pca_lighting: float = 0.0,
        auto_augment: str | None = None,
        augment_count: int = 2,
        augment_magnitude: int = 9,
        erasing: float = 0.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        fuse: bool = True,
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
        self.fuse = (
            bool(fuse) and preset != "parity"
        )  # which rounds to whole grey levels before it normalizes, as they do
        self.antialias = smooth if antialias is None else bool(antialias)
        self.color = Color(color_jitter, pca_lighting)
        self.augment = auto_augment and AutoAugment(auto_augment, self.image_size, augment_count, augment_magnitude)
        self.erasing = number("erasing", erasing, 0.0, 1.0)
        self.conditional = self.train and bool(self.augment)

    @property
    def _resized(self) -> tuple[int, int]:
        """What evaluation resizes to at least, before it cuts the centre: (height, width)."""
        return round(self.crop_ratio * self.image_size[0]), round(self.crop_ratio * self.image_size[1])

    def draw(self, rows: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Training: anchor, shape (B, 2) int32 and mirror (B,) int32. Evaluation: resized size (B, 2) float32 and crop
        position (B, 2).
        """
        if not self.train:
            sizes = window.covering_sizes(rows["height"], rows["width"], self._resized)
            return {"size": sizes.astype(np.float32), "position": window.centre_crop_positions(sizes, self.image_size)}
        anchor, shape = window.random_resized_windows(rows["height"], rows["width"], self.scale, self.ratio, random)
        mirror = (random.uniform(1)[:, 0] < self.flip).astype(np.int32)
        drawn = {"anchor": anchor, "shape": shape, "mirror": mirror}
        # switched on or off, one of these must not change what the others draw: each has streams of its own
        if self.color.active:
            drawn |= self.color.draw(random.branch(1))
        if self.augment:
            drawn |= self.augment.draw(random.branch(2))
        if self.erasing:
            drawn |= self._draw_erasing(random.branch(3))
        return drawn

    def _draw_erasing(self, random: SampleRandom) -> dict[str, np.ndarray]:
        size = np.full((2, len(random)), np.array(self.image_size)[:, None])
        anchor, shape = window.random_resized_windows(size[0], size[1], (0.02, 0.33), (0.3, 1 / 0.3), random)
        erased = random.uniform(1) < self.erasing
        return {"erase_anchor": anchor.astype(np.float32), "erase_shape": np.where(erased, shape, 0).astype(np.float32)}

    def graph(self, encoded: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        """Decode, resize, augment, flip, normalize: float32, CHW on the CPU, HWC on a GPU."""
        size, filters = self.image_size, (self.min_filter, self.mag_filter, self.antialias)
        if not self.train:
            crop = draws["size"], draws["position"]
            images = ops.decode(encoded, device)
            return ops.resize_flip_normalize(
                images, size, device, self.mean, self.std, None, *filters, fuse=self.fuse, crop=crop
            )
        if self.window_decode:
            images = ops.decode(encoded, device, (draws["anchor"], draws["shape"]))
        else:
            images = fn.slice(
                ops.decode(encoded, device), draws["anchor"], draws["shape"], device=device, axis_names="HW"
            )
        if not (self.color.active or self.augment or self.erasing):
            return ops.resize_flip_normalize(
                images, size, device, self.mean, self.std, draws["mirror"], *filters, fuse=self.fuse
            )
        images = ops.resize(images, size, device, *filters)
        if self.color.active:
            images = self.color.graph(images, draws["color_matrix"], draws["color_mean"], draws["color_offset"], device)
        if self.augment:
            chosen = draws["augment_operation"], draws["augment_bin"], draws["augment_sign"]
            images = self.augment.graph(images, *chosen)
        if self.erasing:
            images = fn.erase(
                images,
                device=device,
                anchor=draws["erase_anchor"],
                shape=draws["erase_shape"],
                axis_names="HW",
                fill_value=[255 * value for value in self.mean],
            )
        return ops.flip_normalize(images, size, device, self.mean, self.std, draws["mirror"])

    def check_native(self) -> None:
        """Raises ValueError for options that draw more than crop and flip."""
        if self.train and (self.color.active or self.augment or self.erasing):
            raise ValueError(
                "source='native' crops and flips only: color_jitter, pca_lighting, auto_augment, erasing need"
                " source='exact'"
            )

    def native_graph(self, encoded: DataNode, device: str, seed: int) -> DataNode:
        """The same crop and flip with DALI drawing; evaluation may begin its crop one pixel beside that of `graph`
        (rounding).
        """
        if not self.train:
            shape = fn.peek_image_shape(encoded, dtype=types.INT32)
            (h, w), target = (shape[0], shape[1]), self._resized
            tall, wide = math.max(target[0], target[1] * h // w), math.max(target[1], target[0] * w // h)
            size = fn.cast(fn.stack(tall, wide), dtype=types.FLOAT)
            filters = self.min_filter, self.mag_filter, self.antialias
            images = ops.resize(ops.decode(encoded, device), size, device, *filters)
            return ops.flip_normalize(images, self.image_size, device, self.mean, self.std)
        images = fn.decoders.image_random_crop(
            encoded,
            device="mixed" if device == "gpu" else "cpu",
            output_type=types.RGB,
            random_area=list(self.scale),
            random_aspect_ratio=list(self.ratio),
            num_attempts=window.TRIES,
            hw_decoder_load=0.65,
            seed=seed,
        )
        mirror = fn.random.coin_flip(probability=self.flip, seed=seed + 1)
        filters = self.min_filter, self.mag_filter, self.antialias
        return ops.resize_flip_normalize(
            images, self.image_size, device, self.mean, self.std, mirror, *filters, fuse=self.fuse
        )

    def check_boxes(self) -> None:
        """Raises ValueError for auto_augment in training."""
        if self.train and self.augment:
            self.augment.refuse_boxes()

    def map_boxes(self, boxes: np.ndarray, row: np.void, draws: Mapping[str, np.ndarray], sample: int) -> np.ndarray:
        """Carries boxes through crop, resize and flip."""
        full = np.array([row["width"], row["height"]], dtype=np.float64)
        out = np.array(self.image_size[::-1], dtype=np.float64)
        corners = boxes.reshape(-1, 2, 2).astype(np.float64)
        if not self.train:
            resized = draws["size"][sample][::-1].astype(np.float64)
            start = np.rint(draws["position"][sample][::-1] * (resized - out))
            return (corners * resized - start).reshape(-1, 4)
        return window.map_boxes(corners * full, draws, sample, self.image_size)
