"""Measures of a trained model, which add up exactly over ranks. What they gather lives on the device."""

from dali_mix.metrics.accuracy import Accuracy
from dali_mix.metrics.crop_test import CropTest
from dali_mix.metrics.multilabel import MultiLabelMetrics

__all__ = ["Accuracy", "CropTest", "MultiLabelMetrics"]
