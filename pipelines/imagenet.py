"""`imagenet`: photographs of any size; random-resized crops for training, a centre crop for evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dali_mix.pipelines.base import IMAGENET_MEAN, IMAGENET_STD, Step, size_of
from dali_mix.pipelines.pipeline import Pipeline
from dali_mix.pipelines.plugins import build_steps
from dali_mix.pipelines.steps import AutoAugment, CentreCrop, Color, Erasing, Flip, RandomResizedCrop, Resize

from dali_mix.options import choice

# name → (filter for an axis that shrinks, filter for one that grows, antialias, decode only the window)
PRESETS = {
    "default": ("linear", "linear", True, True),
    "parity": ("linear", "linear", True, False),
    "resizemix": ("triangular", "lanczos3", True, True),
}


class ImageNet(Pipeline):
    """The pipeline for photographs of any size: random-resized crop and flip for training, `CentreCrop` for evaluation.

    Options that are not listed here are described by the steps that use them.

    Args:
        train: True for training. Evaluation accepts the training options and ignores them.
        image_size: pixels, 32 to 512, or (height, width).
        preset: "default", "parity" or "resizemix". "parity" matches torchvision and PIL within one grey level, except
            in the outermost row and column, where DALI's antialiasing repeats the edge. It is slower, because it
            decodes full images and does not fuse. "resizemix" uses the filters of the released ResizeMix: triangular
            for an axis that shrinks, Lanczos3 for one that grows.
        min_filter, mag_filter, antialias: override those of the preset; see `Resize`.
        mean, std: per channel, 0..1 units.
        steps: further steps for training, applied before the flip to images of `image_size`; see
            `plugins.build_steps`.
        fuse: on a CPU, resize, flip, normalize and pad in one operator where possible.
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
        steps: Sequence[Step | Mapping[str, Any]] = (),
    ) -> None:
        size = size_of(image_size, 32, 512)
        min_default, mag_default, smooth, decode_window = PRESETS[choice("preset", preset, PRESETS)]
        filters = (
            min_filter or min_default,
            mag_filter or mag_default,
            smooth if antialias is None else bool(antialias),
            bool(fuse) and preset != "parity",  # parity rounds before normalizing
        )
        training = [
            RandomResizedCrop(scale, ratio, decode_window),
            Resize(size, *filters),
            Color(color_jitter, pca_lighting).on_branch(1),
            AutoAugment(auto_augment, size, augment_count, augment_magnitude).on_branch(2),
            Erasing(erasing, mean).on_branch(3),
            *build_steps(steps),
            Flip(flip),
        ]
        evaluation = [CentreCrop(size, crop_ratio, *filters)]
        super().__init__(train=train, image_size=size, mean=mean, std=std, steps=training if train else evaluation)
