"""Steps of pipelines: crops, resizing, flips, colours, automatic augmentation, erasing, and steps for boxes."""

from dali_mix.pipelines.steps.auto_augment import AutoAugment
from dali_mix.pipelines.steps.boxes import IoUCrop, ShorterSide, ZoomOut
from dali_mix.pipelines.steps.color import Color, PhotometricDistort
from dali_mix.pipelines.steps.erasing import Cutout, Erasing
from dali_mix.pipelines.steps.geometry import CentreCrop, Crop, Flip, MultiScaleCrop, RandomResizedCrop, Resize

__all__ = [
    "AutoAugment", "CentreCrop", "Color", "Crop", "Cutout", "Erasing", "Flip", "IoUCrop", "MultiScaleCrop",
    "PhotometricDistort", "RandomResizedCrop", "Resize", "ShorterSide", "ZoomOut",
]  # fmt: skip
