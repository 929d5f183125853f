"""`multilabel`: photographs with several labels; large crops for training, full images for evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dali_mix.pipelines.base import IMAGENET_MEAN, IMAGENET_STD, Step, size_of
from dali_mix.pipelines.pipeline import Pipeline
from dali_mix.pipelines.plugins import build_steps
from dali_mix.pipelines.steps import AutoAugment, Crop, Cutout, Flip, MultiScaleCrop, RandomResizedCrop, Resize

from dali_mix.options import choice

# name → mean and std, 0..1 units. SpliceMix and SGRE use "imagenet". CSRA uses "half" on WIDER (ViT) and "none" on VOC
# and COCO. Masked supervision uses "none".
NORMALIZATIONS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


class MultiLabel(Pipeline):
    """The pipeline for images with several labels: resize a crop or the full image, and flip.

    The aspect ratio is not kept. Evaluation resizes the full image and does not flip.

    Options that are not listed here are described by the steps that use them.

    Args:
        train: True for training. Evaluation accepts the training options and ignores them.
        image_size: pixels, 32 to 1024, or (height, width); the published systems use 224 to 576.
        crop: "random-resized" (CSRA, masked supervision), "multi-scale" (SpliceMix) or "none" (SGRE, CSRA on WIDER).
        normalization: "imagenet", "half" (mean and std 0.5) or "none" (pixels stay in 0..1).
        steps: further steps for training, applied before the flip to images of `image_size`; see
            `plugins.build_steps`.
        fuse: on a CPU, resize, flip, normalize and pad in one operator where possible.
    """

    name = "multilabel"

    def __init__(
        self,
        *,
        train: bool,
        image_size: int | Sequence[int] = 448,
        crop: str | None = "random-resized",
        scale: Sequence[float] = (0.7, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        cutout: float = 0.0,
        auto_augment: str | None = None,
        augment_count: int = 2,
        augment_magnitude: int = 9,
        normalization: str | None = "imagenet",
        fuse: bool = True,
        steps: Sequence[Step | Mapping[str, Any]] = (),
    ) -> None:
        mean, std = NORMALIZATIONS[choice("normalization", normalization or "none", NORMALIZATIONS)]
        size = size_of(image_size, 32, 1024)
        crops = {"random-resized": RandomResizedCrop(scale, ratio), "multi-scale": MultiScaleCrop(), "none": Crop()}
        resize = Resize(size, fuse=bool(fuse))
        training = [
            crops[choice("crop", crop or "none", crops)].on_branch(1),
            resize,
            Cutout(cutout).on_branch(2),
            AutoAugment(auto_augment, size, augment_count, augment_magnitude).on_branch(3),
            *build_steps(steps),
            Flip(flip),
        ]
        chosen = training if train else [Crop(), resize]
        super().__init__(train=train, image_size=size, mean=mean, std=std, steps=chosen)
