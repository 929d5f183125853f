"""`multilabel`: photographs with several labels; crops that keep most of the picture, whole pictures for evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from dali_mix.pipelines import ops
from dali_mix.pipelines.base import IMAGENET_MEAN, IMAGENET_STD, Pipeline, choice, interval, number
from dali_mix.pipelines.random import SampleRandom
from dali_mix.pipelines.steps import window
from dali_mix.pipelines.steps.auto_augment import AutoAugment
from nvidia.dali import fn

if TYPE_CHECKING:
    from nvidia.dali.data_node import DataNode

CROPS = ("random-resized", "multi-scale", "none")
# name → mean and std in 0..1 units: SpliceMix and SGRE; CSRA on WIDER (ViT); CSRA on VOC and COCO, masked supervision.
NORMALIZATIONS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


class MultiLabel(Pipeline):
    """A window of the picture, or all of it, brought to the image size whatever its proportions; flip; for evaluation
    the whole picture.

    Args:
        train: whether to draw.
        image_size: pixels, 32 to 1024, or (height, width); the published systems use 224 to 576.
        crop: "random-resized": share of the area and proportions by `scale` and `ratio` (CSRA, masked supervision);
            "multi-scale": each side .5 to 1 of the picture's, see `windows.multi_scale_windows` (SpliceMix); "none":
            the whole picture (SGRE, CSRA on WIDER).
        scale, ratio: of the random-resized window: share of the area, width / height.
        flip: probability of a horizontal flip.
        cutout: side of a square blanked in a random colour, as a share of the image's sides; 0 for none, .5 in SGRE.
        auto_augment, augment_count, augment_magnitude: see `steps.auto_augment.AutoAugment`; after the
            cutout.
        normalization: "imagenet", "half" (mean and std .5) or "none" (pixels stay in 0..1).
        fuse: training on the CPU: resize, flip and normalize in one operator compiled by numba, if it is installed.

    Everything random is for training only; evaluation takes these options and ignores them.
    """

    name = "multilabel"

    def __init__(
        self,
        *,
        train: bool,
        image_size: int | Sequence[int] = 448,
        crop: str = "random-resized",
        scale: Sequence[float] = (0.7, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        cutout: float = 0.0,
        auto_augment: str | None = None,
        augment_count: int = 2,
        augment_magnitude: int = 9,
        normalization: str = "imagenet",
        fuse: bool = True,
    ) -> None:
        mean, std = NORMALIZATIONS[choice("normalization", normalization, tuple(NORMALIZATIONS))]
        super().__init__(train=train, image_size=image_size, mean=mean, std=std)
        if not all(32 <= side <= 1024 for side in self.image_size):
            raise ValueError(f"image_size is {image_size!r}: this pipeline makes images of 32 to 1024 pixels a side")
        self.crop = choice("crop", crop, CROPS)
        self.scale = interval("scale", scale, 1e-6, 1.0)
        self.ratio = interval("ratio", ratio, 1e-3, 1e3)
        self.flip = number("flip", flip, 0.0, 1.0)
        self.cutout = number("cutout", cutout, 0.0, 1.0)
        self.augment = auto_augment and AutoAugment(auto_augment, self.image_size, augment_count, augment_magnitude)
        self.fuse = bool(fuse)
        self.conditional = self.train and bool(self.augment)

    def draw(self, rows: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Anchor and shape (B, 2) int32 of the window, and mirror (B,) int32; evaluation: the whole picture, unturned.

        With cutout also cut_anchor and cut_shape (B, 2) and cut_color (B, 3), float32, in pixels and 0..255.
        """
        height, width = rows["height"].astype(np.int32), rows["width"].astype(np.int32)
        whole = {"anchor": np.zeros((len(rows), 2), np.int32), "shape": np.stack([height, width], axis=1)}
        if not self.train:
            return whole | {"mirror": np.zeros(len(rows), np.int32)}
        drawn = whole
        if self.crop == "random-resized":
            anchor, shape = window.random_resized_windows(height, width, self.scale, self.ratio, random.branch(1))
            drawn = {"anchor": anchor, "shape": shape}
        elif self.crop == "multi-scale":
            anchor, shape = window.multi_scale_windows(height, width, random.branch(1))
            drawn = {"anchor": anchor, "shape": shape}
        drawn |= {"mirror": (random.uniform(1)[:, 0] < self.flip).astype(np.int32)}
        if self.cutout:
            drawn |= self._draw_cutout(random.branch(2))
        if self.augment:
            drawn |= self.augment.draw(random.branch(3))
        return drawn

    def _draw_cutout(self, random: SampleRandom) -> dict[str, np.ndarray]:
        image = np.array(self.image_size)
        side = np.rint(self.cutout * image)
        start = np.floor(random.uniform(2) * image) - side // 2
        end = np.minimum(start + side, image)
        start = np.maximum(start, 0)
        drawn = {"cut_anchor": start, "cut_shape": end - start, "cut_color": random.integers(0, 256, 3)}
        return {name: value.astype(np.float32) for name, value in drawn.items()}

    def graph(self, encoded: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        """Decode the window, resize, cut out, augment, flip, normalize: float32, CHW on the CPU, HWC on a GPU."""
        images = ops.decode(encoded, device, (draws["anchor"], draws["shape"]))
        if not (self.train and (self.cutout or self.augment)):
            return ops.resize_flip_normalize(
                images, self.image_size, device, self.mean, self.std, draws["mirror"], fuse=self.fuse
            )
        images = ops.resize(images, self.image_size, device)
        if self.cutout:
            images = fn.erase(
                images,
                device=device,
                anchor=draws["cut_anchor"],
                shape=draws["cut_shape"],
                axis_names="HW",
                fill_value=draws["cut_color"],
            )
        if self.augment:
            chosen = draws["augment_operation"], draws["augment_bin"], draws["augment_sign"]
            images = self.augment.graph(images, *chosen)
        return ops.flip_normalize(images, self.image_size, device, self.mean, self.std, draws["mirror"])

    def check_boxes(self) -> None:
        """Raises ValueError for auto_augment in training."""
        if self.train and self.augment:
            self.augment.refuse_boxes()

    def map_boxes(self, boxes: np.ndarray, row: np.void, draws: Mapping[str, np.ndarray], sample: int) -> np.ndarray:
        """Carries boxes through crop, resize and flip."""
        full = np.array([row["width"], row["height"]], dtype=np.float64)
        return window.map_boxes(boxes * np.tile(full, 2), draws, sample, self.image_size)
