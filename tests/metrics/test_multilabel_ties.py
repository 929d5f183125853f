"""Ties in `MultiLabelMetrics`: order, scikit-learn's thresholds, and constant scores."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from tests.metrics.counting import measure


def test_ties_order_ranks_by_arrival_or_id():
    scores, targets = torch.full((4, 1), 0.75), torch.tensor([[1], [0], [0], [1]])
    assert measure(scores, targets, ties="order")["AP"] == [(1 + 2 / 4) / 2]
    assert measure(scores, targets, torch.tensor([9, 2, 3, 5]), ties="order")["AP"] == [(1 / 3 + 2 / 4) / 2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.4, 0.7]), st.integers(-1, 1)), min_size=1, max_size=6))
def test_tied_ap_is_mean_over_all_orders(samples):
    orders = []
    for order in itertools.permutations([sample for sample in samples if sample[1] >= 0]):
        truth = [positive for _, positive in sorted(order, key=lambda sample: -sample[0])]
        hits = [sum(truth[: index + 1]) / (index + 1) for index, positive in enumerate(truth) if positive]
        orders.append(sum(hits) / len(hits) if hits else math.nan)
    scores, targets = (torch.tensor(column)[:, None] for column in zip(*samples, strict=True))
    np.testing.assert_allclose(measure(scores, targets)["AP"], [sum(orders) / len(orders)], rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.4, 0.7]), st.integers(0, 1)), min_size=1, max_size=9))
def test_ties_sklearn_equals_scikit_learn(samples):
    scores, targets = zip(*samples, strict=True)
    found = measure(torch.tensor(scores)[:, None], torch.tensor(targets)[:, None], ties="sklearn")["AP"][0]
    if any(targets):
        assert found == pytest.approx(average_precision_score(targets, np.float32(scores)), rel=1e-12)
    else:
        assert math.isnan(found)


@pytest.mark.parametrize("protocol", ["plain", "voc07", "voc12", "wider"])
@pytest.mark.parametrize("value", [0.0, 0.4, 0.9])
def test_constant_scores_get_chance_level(protocol, value):
    """The order of the samples does not matter, even if all positives come first."""
    share = {1: (0.02, 0.05), 30: (0.15, 0.2), 100: (0.5, 0.52), 199: (0.99, 1)}
    targets = torch.zeros(200, 4)
    for column, count in enumerate(share):
        targets[:count, column] = 1
    for truth in (targets, targets.flip(0)):
        found = measure(torch.full((200, 4), value), truth, protocol=protocol)
        for ap, (low, high) in zip(found["AP"], share.values(), strict=True):
            assert low < ap < high
        one_threshold = measure(torch.full((200, 4), value), truth, protocol=protocol, ties="sklearn")
        assert one_threshold["AP"] == pytest.approx([count / 200 for count in share])
        if value > 0.5:
            assert found["OR_top3"] == pytest.approx(0.75) and found["OP_top3"] == pytest.approx(found["OP"])


def test_top3_shares_tied_scores():
    scores, targets = torch.tensor([[0.9, 0.7, 0.7, 0.7, 0.7, 0.2]]), torch.tensor([[0, 1, 0, 0, 1, 1]])
    found = measure(scores, targets)
    assert found["OP_top3"] == pytest.approx((2 / 4 + 2 / 4) / 3)
    assert found["OR_top3"] == pytest.approx((2 / 4 + 2 / 4) / 3)


def test_top3_order_takes_known_and_lower_classes_first():
    scores, targets = torch.tensor([[0.9, 0.7, 0.7, 0.7, 0.7]]), torch.tensor([[-1, 1, 1, 0, 0]])
    plain, wider = (measure(scores, targets, protocol=protocol, ties="order") for protocol in ("plain", "wider"))
    assert (plain["OP_top3"], plain["OR_top3"]) == (2 / 3, 1)  # classes 1, 2, 3
    assert (wider["OP_top3"], wider["OR_top3"]) == (2 / 3, 1)  # classes 0, 1, 2
    assert (plain["CP_top3"], wider["CP_top3"]) == (2 / 5, 2 / 5)
    few = measure(scores[:, :2], targets[:, :2])
    assert (few["OP_top3"], few["OR_top3"]) == (1, 1)
