"""Per-class results of `MultiLabelMetrics`, with precision-recall curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dali_mix.metrics.multilabel import MultiLabelMetrics, average_precision, precision_at_positives


@dataclass(frozen=True)
class ClassReport:
    """Results for one class. Rates are between 0 and 1.

    Attributes:
        ap: average precision; NaN without positives.
        precision, recall, f1: for scores above the threshold, 0 if undefined.
        positives: number of positive samples; in detection, number of objects that are not difficult.
        curve: (2, n), recall and precision at each positive (in detection, at each correct prediction), in order of
            descending score.
    """

    ap: float
    precision: float
    recall: float
    f1: float
    positives: int
    curve: np.ndarray


def per_class(metrics: MultiLabelMetrics) -> list[ClassReport]:
    """Return a report for each class, in order, from the samples of `metrics`.

    With several ranks, call `metrics.gather` first, or the reports cover only the samples of this rank. Protocol, ties
    and threshold are those of `metrics`. The means of `ap` (without NaN), `precision` and `recall` over the classes
    equal mAP, CP and CR of `metrics.compute()`.

    Raises:
        ValueError: as for `MultiLabelMetrics.samples`.
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
