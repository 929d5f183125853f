"""What an evaluation measures, by the task of the set, summed exactly over ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.metrics import Accuracy, ClassAccuracy, MultiLabelMetrics

_SHOWN = 6


class Scores(Protocol):
    """Takes logits batch by batch, then says how good they were."""

    def update(self, logits: Tensor, targets: Tensor, ids: Tensor) -> None: ...
    def compute(self, ranks: Ranks) -> dict[str, float]: ...


class ClassificationScores:
    """Top-1 and top-5 accuracy in per cent; of each class with `num_classes`, in `by_class`."""

    def __init__(self, device: torch.device, num_classes: int = 0) -> None:
        self.accuracy = Accuracy(topk=(1, 5), device=device)
        self.by_class = ClassAccuracy(num_classes, device) if num_classes else None

    def update(self, logits: Tensor, targets: Tensor, ids: Tensor) -> None:
        """Counts a batch: logits (B,K), targets (B,)."""
        self.accuracy.update(logits, targets)
        if self.by_class is not None:
            self.by_class.update(logits, targets)

    def compute(self, ranks: Ranks) -> dict[str, float]:
        """{"top1", "top5"}, equal on every rank."""
        ranks.sum_(self.accuracy.state())
        if self.by_class is not None:
            ranks.sum_(self.by_class.state())
        return self.accuracy.compute()


class MultiLabelScores:
    """The measures of `MultiLabelMetrics` in per cent; AP of each class is in `details`."""

    def __init__(self, num_classes: int, device: torch.device, protocol: str = "plain", ties: str = "random") -> None:
        # Logits above 0 are probabilities above .5, and do not saturate at 1.
        self.metrics = MultiLabelMetrics(num_classes, protocol, threshold=0.0, device=device, ties=ties)
        self.details: dict[str, Any] = {}

    def update(self, logits: Tensor, targets: Tensor, ids: Tensor) -> None:
        """Takes a batch: logits and targets (B,K), ids (B,)."""
        self.metrics.update(logits, targets, ids.to(logits.device))

    def compute(self, ranks: Ranks) -> dict[str, float]:
        """{"mAP", "CP", … "OF1_top3"}, equal on every rank."""
        self.metrics.gather()
        self.details = self.metrics.compute()
        return {name: 100.0 * value for name, value in self.details.items() if isinstance(value, float)}


def absent_classes(scores: Scores, classes: Sequence[str]) -> list[str]:
    """Return a note, after `scores.compute`, on the classes that no record of a multi-label set has; else nothing."""
    if not isinstance(scores, MultiLabelScores):
        return []
    absent = [name for name, value in zip(classes, scores.details["AP"], strict=True) if math.isnan(value)]
    if not absent:
        return []
    which = ", ".join(absent[:_SHOWN]) + ", …" * (len(absent) > _SHOWN)
    left = "mAP is the mean over the others" if len(absent) < len(classes) else "there is no mAP"
    return [f"{len(absent):,} of {len(classes):,} classes have no positive example in the val_set ({which}): {left}"]


def make_scores(task: str, num_classes: int, device: torch.device, options: dict[str, Any]) -> Scores:
    """What is measured on a set of this task. Raises ValueError for options it does not have."""
    if task == "multilabel":
        return MultiLabelScores(num_classes, device, **options)
    if options:
        raise ValueError(f"metrics={options}: classification has no choice of protocol or ties; leave it out")
    return ClassificationScores(device, num_classes)
