"""Per-class results compared with loops and with the means of `MultiLabelMetrics`."""

import math

import numpy as np
import pytest
import torch

from dali_mix.metrics import MultiLabelMetrics, per_class


def drawn(seed=0, samples=60, classes=5):
    """Return scores with ties, and targets with unknown entries.

    Class 3 has no positives and class 4 has no predictions.
    """
    random = torch.Generator().manual_seed(seed)
    scores = (torch.randn(samples, classes, generator=random) * 4).round() / 4
    targets = torch.randint(-1, 2, (samples, classes), generator=random).float()
    targets[:, 3] = targets[:, 3].clamp_max(0)
    scores[:, 4] -= 100
    return scores, targets


@pytest.mark.parametrize("protocol", ["plain", "voc12", "wider"])
def test_means_over_classes_equal_overall_metrics(protocol):
    scores, targets = drawn()
    metrics = MultiLabelMetrics(5, protocol, threshold=0.0)
    metrics.update(scores, targets, torch.randperm(len(scores)))
    found, means = per_class(metrics), metrics.compute()
    assert [one.ap for one in found] == pytest.approx(means["AP"], nan_ok=True)
    assert np.mean([one.precision for one in found]) == pytest.approx(means["CP"])
    assert np.mean([one.recall for one in found]) == pytest.approx(means["CR"])
    assert math.isnan(found[3].ap)
    assert (found[3].positives, found[3].recall, found[3].f1) == (0, 0, 0)
    assert (found[4].precision, found[4].recall) == (0, 0)


def test_per_class_results_equal_loop():
    scores, targets = drawn(1)
    metrics = MultiLabelMetrics(5, threshold=0.0, ties="order")
    metrics.update(scores, targets)
    for index, one in enumerate(per_class(metrics)):
        known = [(float(s), int(t)) for s, t in zip(scores[:, index], targets[:, index], strict=True) if t >= 0]
        ranked = sorted(known, key=lambda pair: -pair[0])  # a stable sort keeps ties in order
        assert one.positives == sum(t for _, t in known)
        recall, precision = [], []
        for rank, (_, truth) in enumerate(ranked, start=1):
            if truth:
                recall.append((len(recall) + 1) / one.positives)
                precision.append(len(recall) / rank)
        np.testing.assert_allclose(one.curve, [recall, precision])
        hits = sum(t for s, t in known if s > 0)
        guesses = sum(s > 0 for s, _ in known)
        assert one.precision == (hits / guesses if guesses else 0)
        assert one.f1 == pytest.approx(2 * hits / (guesses + one.positives) if guesses + one.positives else 0)
        assert one.ap == pytest.approx(np.mean(precision) if precision else math.nan, nan_ok=True)
