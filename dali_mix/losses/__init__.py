"""Objectives: plain modules, (logits, targets) → scalar float32."""

from dali_mix.losses.soft_cross_entropy import SoftCrossEntropy

__all__ = ["SoftCrossEntropy"]
