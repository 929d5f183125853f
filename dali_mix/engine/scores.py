"""What an evaluation measures, by the task of the set, summed exactly over ranks."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.metrics import Accuracy, ClassAccuracy, ClassReport, MultiLabelMetrics, per_class

ByClass = tuple[str, dict[str, list[float]], Sequence[ClassReport]]
_SHOWN = 6


class Scores(Protocol):
    """Take logits batch by batch, then measure them: `compute` before the others.

    by_class: title of a chart, columns of K figures (the first is drawn), and K precision-recall curves or none.
    notes: what the user should know of the set. lower_is_better: names of scores; of all others higher is better.
    """

    lower_is_better: ClassVar[Collection[str]] = ("loss",)

    def __init__(self, num_classes: int, device: torch.device, **options: Any) -> None: ...
    def update(self, logits: Tensor, targets: Tensor, ids: Tensor) -> None: ...
    def compute(self, ranks: Ranks) -> dict[str, float]: ...
    def by_class(self) -> ByClass: ...
    def notes(self, classes: Sequence[str]) -> list[str]:
        return []


class ClassificationScores(Scores):
    """Top-1 and top-5 accuracy in per cent."""

    def __init__(self, num_classes: int, device: torch.device, **options: Any) -> None:
        if options:
            raise ValueError(f"metrics={options}: classification has no choice of protocol or ties; leave it out")
        self.accuracy, self.accuracies = Accuracy(topk=(1, 5), device=device), ClassAccuracy(num_classes, device)

    def update(self, logits: Tensor, targets: Tensor, ids: Tensor) -> None:
        """Count a batch: logits (B,K), targets (B,)."""
        self.accuracy.update(logits, targets)
        self.accuracies.update(logits, targets)

    def compute(self, ranks: Ranks) -> dict[str, float]:
        """Return {"top1", "top5"}, equal on every rank."""
        ranks.sum_(self.accuracy.state())
        ranks.sum_(self.accuracies.state())
        return self.accuracy.compute()

    def by_class(self) -> ByClass:
        title = f"Accuracy by class, %   (top-1 {self.accuracy.compute()['top1']:.2f})"
        return title, {"accuracy": self.accuracies.compute(), "samples": self.accuracies.state()[1].tolist()}, ()


class MultiLabelScores(Scores):
    """The measures of `MultiLabelMetrics` in per cent; AP of each class is in `details`."""

    def __init__(self, num_classes: int, device: torch.device, protocol: str = "plain", ties: str = "random") -> None:
        # Logits above 0 are probabilities above .5, and do not saturate at 1.
        self.metrics = MultiLabelMetrics(num_classes, protocol, threshold=0.0, device=device, ties=ties)
        self.details: dict[str, Any] = {}

    def update(self, logits: Tensor, targets: Tensor, ids: Tensor) -> None:
        """Add a batch: logits and targets (B,K), ids (B,)."""
        self.metrics.update(logits, targets, ids.to(logits.device))

    def compute(self, ranks: Ranks) -> dict[str, float]:
        """Return {"mAP", "CP", … "OF1_top3"}, equal on every rank."""
        self.metrics.gather()
        self.details = self.metrics.compute()
        return {name: 100.0 * value for name, value in self.details.items() if isinstance(value, float)}

    def by_class(self) -> ByClass:
        reports = per_class(self.metrics)
        shares = {"AP": "ap", "precision": "precision", "recall": "recall", "F1": "f1"}
        columns = {name: [100 * getattr(report, share) for report in reports] for name, share in shares.items()}
        columns["positives"] = [report.positives for report in reports]
        return f"AP by class, %   (mAP {100 * self.details['mAP']:.2f})", columns, reports

    def notes(self, classes: Sequence[str]) -> list[str]:
        """Return a note on the classes that no record has."""
        absent = [name for name, value in zip(classes, self.details["AP"], strict=True) if math.isnan(value)]
        if not absent:
            return []
        which = ", ".join(absent[:_SHOWN]) + ", …" * (len(absent) > _SHOWN)
        left = "mAP is the mean over the others" if len(absent) < len(classes) else "there is no mAP"
        some = f"{len(absent):,} of {len(classes):,} classes"
        return [f"{some} have no positive example in the val_set ({which}): {left}"]


# By `Task.metrics`; made of the number of classes, a device and the recipe's `metrics`.
SCORES: dict[str, type[Scores]] = {"accuracy": ClassificationScores, "average precision": MultiLabelScores}
