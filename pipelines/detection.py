"""`detection`: images with boxes, resized in proportion and padded to a common size per batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dali_mix.pipelines.base import IMAGENET_MEAN, IMAGENET_STD, Step
from dali_mix.pipelines.pipeline import Pipeline
from dali_mix.pipelines.plugins import build_steps
from dali_mix.pipelines.steps import Crop, Flip, IoUCrop, PhotometricDistort, ShorterSide, ZoomOut

from dali_mix.options import flag


class Detection(Pipeline):
    """The pipeline for images with boxes: resize in proportion, flip, pad.

    Options add further augmentation for training. Training batches contain images of one orientation, which reduces
    padding. Evaluation resizes the shorter side to the largest of `shorter`.

    Args:
        train: True for training. Evaluation ignores the options that only training uses.
        shorter: length of the shorter side in pixels, or several lengths, of which one is drawn for each image.
        longest: maximum length of the longer side in pixels.
        flip, zoom_out, iou_crop, photometric: the probabilities of `Flip`, `ZoomOut`, `IoUCrop` and
            `PhotometricDistort`.
        mean, std: per channel, 0..1 units.
        fuse: on a CPU, resize, flip, normalize and pad in one operator.
        steps: further steps for training, applied before resizing; see `plugins.build_steps`.
    """

    name = "detection"

    def __init__(
        self,
        *,
        train: bool,
        shorter: int | Sequence[int] = 800,
        longest: int = 1333,
        flip: float = 0.5,
        zoom_out: float = 0.0,
        iou_crop: float = 0.0,
        photometric: float = 0.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        fuse: bool = True,
        steps: Sequence[Step | Mapping[str, Any]] = (),
    ) -> None:
        resize = ShorterSide(shorter, longest, fuse=flag("fuse", fuse))
        training = [
            ZoomOut(zoom_out, mean).on_branch(1),
            IoUCrop(iou_crop).on_branch(2),
            PhotometricDistort(photometric).on_branch(3),
            *build_steps(steps),
            resize,
            Flip(flip),
        ]
        evaluation = [Crop(), ShorterSide(int(resize.shorter.max()), longest, fuse=fuse)]
        super().__init__(train=train, image_size=None, mean=mean, std=std, steps=training if train else evaluation)
        self.one_orientation = train
