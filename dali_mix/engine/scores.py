"""Scores of an evaluation, by the task of the set, combined exactly over ranks."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from dali_mix._text import first_of
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.metrics import Accuracy, ClassAccuracy, ClassReport, DetectionMetrics, MultiLabelMetrics, per_class
from dali_mix.metrics.detection import COCO_STATS
from dali_mix.options import number

ByClass = tuple[str, dict[str, list[float]], Sequence[ClassReport]]


class Scores(Protocol):
    """The scores of an evaluation, computed from model outputs that are added batch by batch.

    - `update` adds a batch: the model's outputs, the targets and the record numbers (B,).
    - `compute` combines all ranks and returns the scores by name, equal on every rank. It must be called before
      `by_class` and `notes`.
    - `by_class` returns a chart title, columns by name (K values each; the first column is plotted), and K
      `ClassReport`s with precision-recall curves, or an empty sequence.
    - `notes` returns remarks on the set for the user.

    Attributes:
        names: names of the scores; empty for all scores in `Task.measured`.
        lower_is_better: names of scores for which lower is better; for all others higher is better.
    """

    names: Sequence[str] = ()
    lower_is_better: ClassVar[Collection[str]] = ("loss",)

    def __init__(self, num_classes: int, device: torch.device, **options: Any) -> None: ...
    def update(self, outputs: Any, targets: Any, ids: Tensor) -> None: ...
    def compute(self, ranks: Ranks) -> dict[str, float]: ...
    def by_class(self) -> ByClass: ...
    def notes(self, classes: Sequence[str]) -> list[str]:
        return []


class ClassificationScores(Scores):
    """Top-1 and top-5 accuracy in percent. With five classes or fewer, top-5 is always 100 and is omitted."""

    def __init__(self, num_classes: int, device: torch.device, **options: Any) -> None:
        if options:
            raise ValueError(f"metrics={options}: classification has no protocol or ties options; omit it")
        topk = (1, 5) if num_classes > 5 else (1,)
        self.names = (*(f"top{k}" for k in topk), "loss")
        self.accuracy, self.accuracies = Accuracy(topk=topk, device=device), ClassAccuracy(num_classes, device)

    def update(self, outputs: Tensor, targets: Tensor, ids: Tensor) -> None:
        """Count a batch: logits (B,K), targets (B,)."""
        self.accuracy.update(outputs, targets)
        self.accuracies.update(outputs, targets)

    def compute(self, ranks: Ranks) -> dict[str, float]:
        """Return {"top1": percent, "top5": percent}, equal on every rank; "top5" only with more than five classes.

        The counts are summed over ranks in place, so it can be called only once.
        """
        ranks.sum_(self.accuracy.state())
        ranks.sum_(self.accuracies.state())
        return self.accuracy.compute()

    def by_class(self) -> ByClass:
        title = f"Accuracy by class, %   (top-1 {self.accuracy.compute()['top1']:.2f})"
        return title, {"accuracy": self.accuracies.compute(), "samples": self.accuracies.state()[1].tolist()}, ()


class MultiLabelScores(Scores):
    """The scores of `MultiLabelMetrics` in percent.

    After `compute`, the dict `details` has the scores as fractions, and the AP of each class.
    """

    def __init__(self, num_classes: int, device: torch.device, protocol: str = "plain", ties: str = "random") -> None:
        # Logits are used instead of probabilities, which saturate at 1. A logit of 0 is a probability of 0.5.
        self.metrics = MultiLabelMetrics(num_classes, protocol, threshold=0.0, device=device, ties=ties)
        self.details: dict[str, Any] = {}

    def update(self, outputs: Tensor, targets: Tensor, ids: Tensor) -> None:
        """Add a batch: logits and targets (B,K), ids (B,)."""
        self.metrics.update(outputs, targets, ids.to(outputs.device))

    def compute(self, ranks: Ranks) -> dict[str, float]:
        """Gather the samples of all ranks, set `details`, and return the scores, equal on every rank.

        The scores are in percent, by name: "mAP", "CP", … "OF1_top3". It can be called only once.
        """
        self.metrics.gather()
        self.details = self.metrics.compute()
        return {name: 100.0 * value for name, value in self.details.items() if isinstance(value, float)}

    def by_class(self) -> ByClass:
        reports = per_class(self.metrics)
        return f"AP by class, %   (mAP {100 * self.details['mAP']:.2f})", _columns(reports, "AP", "positives"), reports

    def notes(self, classes: Sequence[str]) -> list[str]:
        """Return a list with a note that names the classes without positives; empty if all classes have some."""
        return _absent(classes, self.details["AP"], "positive example", "mAP")


class DetectionScores(Scores):
    """The scores of `DetectionMetrics` in percent, for boxes in pixels of the packed images.

    Attributes:
        metrics: the `DetectionMetrics`, which holds the images of all ranks after `compute`.
    """

    def __init__(self, num_classes: int, device: torch.device, protocol: str = "voc", threshold: float = 0.5) -> None:
        self.metrics = DetectionMetrics(num_classes, protocol, number("metrics.threshold", threshold, 0.0, 1.0))
        self.names = ("AP50", "AP50_11") if protocol == "voc" else tuple(COCO_STATS)
        self.details: dict[str, Any] = {}

    def update(self, outputs: Any, targets: Any, ids: Tensor) -> None:
        """Add a batch, with boxes scaled from the model's input to pixels of the packed images.

        Args:
            outputs: the detector's predictions for each image.
            targets: the target of each image, as in `Batch`.
            ids: record numbers (B,).
        """
        found, true, names = [], [], ("boxes", "labels", "scores", "difficult")
        for output, target in zip(outputs, targets, strict=True):
            scale = torch.tensor(target["original"]).double() / torch.tensor(target["size"])
            scale = scale.flip(0).repeat(2)
            output, target = ({name: one[name].cpu() for name in names if name in one} for one in (output, target))
            found.append(output | {"boxes": output["boxes"] * scale})
            true.append(target | {"boxes": target["boxes"] * scale})
        self.metrics.update(found, true, ids)

    def compute(self, ranks: Ranks) -> dict[str, float]:
        """Return the scores in `names`, in percent, equal on every rank."""
        self.metrics.gather()
        self.details = self.metrics.compute()
        return {name: 100.0 * self.details[name] for name in self.names}

    def by_class(self) -> ByClass:
        reports, name = self.metrics.per_class(), self.names[0]
        by_class = [100 * value for value in self.details[f"{name} by class"]]
        columns = _columns(reports, name, "objects") | {name: by_class}  # other columns are at IoU 0.5
        return f"{name} by class, %   (mean {100 * self.details[name]:.2f})", columns, reports

    def notes(self, classes: Sequence[str]) -> list[str]:
        """Return a list with a note that names the classes without objects; empty if all classes have some."""
        name = f"{self.names[0]} by class"
        return _absent(classes, self.details[name], "object to be found", self.names[0])


def _columns(reports: Sequence[ClassReport], ap: str, count: str) -> dict[str, list[float]]:
    """Return the columns of `by_class`: AP, precision, recall and F1 in percent, and the number of positives.

    ap, count: names of the first and the last column.
    """
    shares = {ap: "ap", "precision": "precision", "recall": "recall", "F1": "f1"}
    columns = {name: [100 * getattr(report, share) for report in reports] for name, share in shares.items()}
    return columns | {count: [report.positives for report in reports]}


def _absent(classes: Sequence[str], values: Sequence[float], what: str, mean: str) -> list[str]:
    absent = [name for name, value in zip(classes, values, strict=True) if math.isnan(value)]
    if not absent:
        return []
    which = first_of(absent)
    left = f"{mean} is the mean over the others" if len(absent) < len(classes) else f"there is no {mean}"
    return [f"{len(absent):,} of {len(classes):,} classes have no {what} in the val_set ({which}): {left}"]


# Each class is called with the number of classes, a device and, as keywords, the recipe's `metrics`.
SCORES: dict[str, type[Scores]] = {
    "accuracy": ClassificationScores,
    "average precision": MultiLabelScores,
    "average precision of boxes": DetectionScores,
}
"""The class of scores for each kind of `Task.metrics`."""
