"""Binary cross-entropies compared with a plain loop and with torch."""

import pytest
import torch
import torch.nn.functional as F

from dali_mix.losses import BinaryCrossEntropy, MultiLabelSoftMargin
from tests.losses.by_hand import bce_by_hand, draw, known_terms


@pytest.mark.parametrize("positive", [1.0, 0.3])
def test_binary_losses_average_known_entries(positive):
    logits, targets = draw()
    targets[3] = -1  # a sample without known targets
    truth = torch.where(targets > 0, positive, targets)
    rows = known_terms(bce_by_hand, logits, truth)
    flat = [term for row in rows for term in row]
    assert BinaryCrossEntropy()(logits, truth).item() == pytest.approx(sum(flat) / len(flat), rel=1e-5)
    means = [sum(row) / len(row) for row in rows if row]
    assert MultiLabelSoftMargin()(logits, truth).item() == pytest.approx(sum(means) / len(means), rel=1e-5)


def test_binary_losses_equal_torch_without_ignored_entries():
    logits, targets = draw()
    targets = targets.clamp(min=0)
    torch.testing.assert_close(BinaryCrossEntropy()(logits, targets), F.multilabel_soft_margin_loss(logits, targets))
    torch.testing.assert_close(MultiLabelSoftMargin()(logits, targets), F.multilabel_soft_margin_loss(logits, targets))


def test_mean_of_parts_weighted_by_counted_equals_batch():
    logits, targets = draw()
    targets[3] = -1
    for loss in (BinaryCrossEntropy(), MultiLabelSoftMargin()):
        parts = [(loss(logits[rows], targets[rows]), loss.counted(targets[rows])) for rows in (slice(2), slice(2, 5))]
        mean = sum(value * count for value, count in parts) / sum(count for _, count in parts)
        torch.testing.assert_close(mean, loss(logits, targets))
    assert BinaryCrossEntropy().counted(targets) == (targets >= 0).sum() / 7
    assert MultiLabelSoftMargin().counted(targets) == 4
