"""What `MultiLabelMetrics` averages, class by class, and the curves its AP is the area under."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dali_mix.metrics.multilabel import MultiLabelMetrics, average_precision, precision_at_positives


@dataclass(frozen=True)
class ClassReport:
    """One class, shares of 1. ap: NaN without positives. precision, recall, f1: of the scores above the threshold, 0
    where there is nothing to divide by. positives: how many known samples have it. curve: recall and precision up to
    each positive, in order of falling score, (2, positives)."""

    ap: float
    precision: float
    recall: float
    f1: float
    positives: int
    curve: np.ndarray


def per_class(metrics: MultiLabelMetrics) -> list[ClassReport]:
    """A report for each class of what `metrics` was given; over ranks after its `gather`.

    The means over classes are `compute()`'s mAP, CP and CR: protocol and threshold are the same.

    Raises:
        ValueError: as `MultiLabelMetrics.samples`.
    """
    scores, targets = metrics.samples()
    reports = []
    for score, target in zip(scores.T, targets.T, strict=True):
        known = target >= 0
        positive = target > 0
        counted = np.ones_like(known) if metrics.protocol == "wider" else known
        predicted = (score > metrics.threshold) & counted
        hits, guesses, truths = int((predicted & positive).sum()), int(predicted.sum()), int(positive.sum())
        reports.append(
            ClassReport(
                average_precision(score[known], positive[known], metrics.protocol == "voc12", metrics.ties),
                hits / max(guesses, 1),
                hits / max(truths, 1),
                2 * hits / max(guesses + truths, 1),
                truths,
                precision_recall(score[known], positive[known], metrics.ties),
            )
        )
    return reports


def precision_recall(scores: np.ndarray, positive: np.ndarray, ties: str = "random") -> np.ndarray:
    """Recall and precision among the samples up to each positive, in order of falling score: (2, positives).

    Args:
        scores, positive, ties: as `precision_at_positives`.
    """
    precision = precision_at_positives(scores, positive, ties)
    count = len(precision)
    return np.stack([np.arange(1, count + 1) / max(count, 1), precision])
