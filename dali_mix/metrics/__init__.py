"""Evaluation metrics that can be combined exactly over ranks."""

from dali_mix.metrics.accuracy import Accuracy, ClassAccuracy
from dali_mix.metrics.crop_test import CropTest
from dali_mix.metrics.detection import DetectionMetrics
from dali_mix.metrics.multilabel import MultiLabelMetrics
from dali_mix.metrics.per_class import ClassReport, per_class

__all__ = ["Accuracy", "ClassAccuracy", "ClassReport", "CropTest", "DetectionMetrics", "MultiLabelMetrics", "per_class"]
