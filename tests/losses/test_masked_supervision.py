"""Masked supervision compared with a plain loop."""

import math

import pytest
import torch

from dali_mix.losses import MaskedSupervisionLoss
from tests.losses.by_hand import bce_by_hand, draw


def test_masked_supervision_equals_loop():
    logits, targets = draw()
    masked, _ = draw(seed=1)
    total = 0.0
    for z, other, y in zip(*(x.double().flatten().tolist() for x in (logits, masked, targets)), strict=True):
        if y >= 0:
            gap = 1 / (1 + math.exp(-z)) - 1 / (1 + math.exp(-other))
            total += 0.3 * bce_by_hand(z, y) + 0.2 * bce_by_hand(other, y) + 0.5 * gap**2
    known = targets >= 0
    logits.requires_grad_()
    masked.requires_grad_()
    loss = MaskedSupervisionLoss()(logits, masked, targets)
    assert loss.item() == pytest.approx(total / known.sum().item(), rel=1e-5)
    loss.backward()
    # Neither branch is a fixed target for the other; gradients flow into both.
    p, other = logits.detach().sigmoid(), masked.detach().sigmoid()
    pulled = (p - other) * known / known.sum()
    wanted = 0.3 * (p - targets) * known / known.sum() + pulled * p * (1 - p)
    torch.testing.assert_close(logits.grad, wanted)
    wanted = 0.2 * (other - targets) * known / known.sum() - pulled * other * (1 - other)
    torch.testing.assert_close(masked.grad, wanted)


def test_mismatched_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must be \(B,K\)"):
        MaskedSupervisionLoss()(torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(4, 3))


@pytest.mark.parametrize("name", ["whole", "masked", "agreement"])
@pytest.mark.parametrize("value", [-1, float("inf")])
def test_invalid_weights_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        MaskedSupervisionLoss(**{name: value})
