"""Steps of pipelines: crops, resizing, flips, colours, automatic augmentation, erasing."""

from dali_mix.pipelines.steps.auto_augment import AutoAugment
from dali_mix.pipelines.steps.color import Color
from dali_mix.pipelines.steps.erasing import Cutout, Erasing
from dali_mix.pipelines.steps.geometry import CentreCrop, Crop, Flip, MultiScaleCrop, RandomResizedCrop, Resize

__all__ = [
    "AutoAugment", "CentreCrop", "Color", "Crop", "Cutout", "Erasing", "Flip", "MultiScaleCrop", "RandomResizedCrop",
    "Resize",
]  # fmt: skip
