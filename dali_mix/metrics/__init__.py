"""Measures of a trained model. Counters live on the device and add up exactly over ranks."""

from dali_mix.metrics.accuracy import Accuracy
from dali_mix.metrics.crop_test import CropTest

__all__ = ["Accuracy", "CropTest"]
