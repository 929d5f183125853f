"""Objectives: plain modules, (logits, targets) → scalar float32.

`accepts` of each names the kinds of targets it takes (`dali_mix.mixers.targets.TargetKind`).
"""

from dali_mix.losses.soft_cross_entropy import SoftCrossEntropy

__all__ = ["SoftCrossEntropy"]
