"""Scores and targets, and the results of `MultiLabelMetrics` for them."""

import numpy as np
import torch

from dali_mix.metrics import MultiLabelMetrics


def measure(scores, targets, ids=None, **options):
    metrics = MultiLabelMetrics(scores.shape[1], **options)
    metrics.update(scores, targets, ids)
    return metrics.compute()


def draw(count=61, classes=5, seed=0):
    """Return scores in steps of 1/8 (to get many ties), targets, and unordered ids."""
    gen = torch.Generator().manual_seed(seed)
    scores = torch.randint(9, (count, classes), generator=gen) / 8
    targets = torch.randint(-1, 2, (count, classes), generator=gen).float()
    return scores, targets, 3 * torch.randperm(count, generator=gen)


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert np.array_equal(found[name], wanted[name], equal_nan=True), name
