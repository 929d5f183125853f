"""Classifiers, multi-label models and detectors by name, and weights from files."""

from dali_mix.models.build import build_model
from dali_mix.models.detection import Detector, build_detector
from dali_mix.models.multilabel import MultiLabelModel, build_multilabel
from dali_mix.models.weights.files import read_state_dict
from dali_mix.models.weights.load import MatchReport, differences, load_weights
from dali_mix.models.zoo.cifar_resnet import CifarResNet
from dali_mix.models.zoo.shakeshake import ShakeShake
from dali_mix.models.zoo.wide_resnet import WideResNet

__all__ = [
    "CifarResNet",
    "Detector",
    "MatchReport",
    "MultiLabelModel",
    "ShakeShake",
    "WideResNet",
    "build_detector",
    "build_model",
    "build_multilabel",
    "differences",
    "load_weights",
    "read_state_dict",
]
