"""The values that `MultiLabelMetrics` averages, by class, and precision-recall curves."""

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
    """Return a report for each class of what `metrics` was given; over ranks after its `gather`.

    The means over classes are `compute()`'s mAP, CP and CR: protocol and threshold are the same.

    Raises:
        ValueError: as `MultiLabelMetrics.samples`.
    """
    scores, targets = metrics.samples()
    positive = targets > 0
    predicted = (scores > metrics.threshold) & metrics.counted(targets)
    hits, guesses, truths = (part.sum(0).tolist() for part in (predicted & positive, predicted, positive))
    reports = []
    for k, (score, truth, known) in enumerate(zip(scores.T, positive.T, targets.T >= 0, strict=True)):
        precision = precision_at_positives(score[known], truth[known], metrics.ties)
        reports.append(
            ClassReport(
                average_precision(precision, metrics.protocol == "voc12"),
                hits[k] / max(guesses[k], 1),
                hits[k] / max(truths[k], 1),
                2 * hits[k] / max(guesses[k] + truths[k], 1),
                truths[k],
                np.stack([np.arange(1, len(precision) + 1) / max(len(precision), 1), precision]),
            )
        )
    return reports
