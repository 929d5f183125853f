"""ASL and SGRE losses compared with published values and a plain loop; invalid options."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_mix.losses import AsymmetricLoss, SGRELoss
from tests.losses.by_hand import draw, known_terms

ASL = np.load(Path(__file__).parent / "data" / "asl_loss.npz")
PUBLISHED = {
    "asl_sum_gn4_gp1_clip0.05": AsymmetricLoss(),
    "asl_sum_gn4_gp0_clip0.05": AsymmetricLoss(gamma_pos=0),
    "asl_sum_gn2_gp0_clip0.0": AsymmetricLoss(gamma_neg=2, gamma_pos=0, clip=0),
    "asl_sum_gn0_gp0_clip0.0": AsymmetricLoss(gamma_neg=0, gamma_pos=0, clip=0),
    "sgre_gn2_gp0_clip0": AsymmetricLoss(2, 0, 0, eps=1e-5, reduction="mean", scale=1000),
}


def asl_by_hand(z, y, gamma_neg=4, gamma_pos=1, clip=0.05, eps=1e-8):
    p = 1 / (1 + math.exp(-z))
    q = min(1 - p + clip, 1)
    true = p * y + q * (1 - y)
    log = y * math.log(max(p, eps)) + (1 - y) * math.log(max(q, eps))
    return -log * (1 - true) ** (gamma_pos * y + gamma_neg * (1 - y))


@pytest.mark.parametrize("setting", PUBLISHED)
def test_asl_equals_published_values(setting):
    logits = torch.from_numpy(ASL["logits"]).requires_grad_()
    loss = PUBLISHED[setting](logits, torch.from_numpy(ASL["targets"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(ASL[setting]), rel=1e-6)
    torch.testing.assert_close(logits.grad, torch.from_numpy(ASL[f"{setting}_grad"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positive", [1.0, 0.3])
def test_asl_over_known_entries_equals_loop(positive):
    logits, targets = draw()
    targets[3] = -1  # a sample without known targets
    truth = torch.where(targets > 0, positive, targets)
    terms = [term for row in known_terms(asl_by_hand, logits, truth) for term in row]
    assert AsymmetricLoss()(logits, truth).item() == pytest.approx(sum(terms), rel=1e-5)
    mean = AsymmetricLoss(reduction="mean", scale=10)(logits, truth)
    assert mean.item() == pytest.approx(10 * sum(terms) / len(terms), rel=1e-5)


def test_target_slightly_above_one_gives_zero_loss():
    logits, targets = torch.full((1, 1), 40.0), torch.full((1, 1), 1 + 2**-23)
    assert AsymmetricLoss(gamma_pos=0.5)(logits, targets).item() == 0


def test_sgre_adds_auxiliary_loss_only_for_two_outputs():
    logits, targets = draw()
    auxiliary, _ = draw(seed=1)
    asl = PUBLISHED["sgre_gn2_gp0_clip0"]
    wanted = asl(logits, targets) + 0.1 * asl(auxiliary, targets)
    torch.testing.assert_close(SGRELoss(lam=0.1)((logits, auxiliary), targets), wanted)
    torch.testing.assert_close(SGRELoss(lam=0.1)(logits, targets), asl(logits, targets))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AsymmetricLoss(gamma_neg=-1), "gamma_neg=-1"),
        (lambda: AsymmetricLoss(gamma_pos=float("nan")), "gamma_pos=nan"),
        (lambda: AsymmetricLoss(clip=1.0), "clip=1.0"),
        (lambda: AsymmetricLoss(eps=0), "eps=0"),
        (lambda: AsymmetricLoss(reduction="batch"), "reduction='batch': must be one of sum, mean"),
        (lambda: AsymmetricLoss(scale=0), "scale=0"),
        (lambda: SGRELoss(lam=-0.1), "lam=-0.1"),
    ],
)
def test_invalid_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_repr_shows_options():
    assert repr(AsymmetricLoss(clip=0)) == (
        "AsymmetricLoss(gamma_neg=4.0, gamma_pos=1.0, clip=0, eps=1e-08, reduction='sum', scale=1.0)"
    )
    assert "lam=0.1\n" in repr(SGRELoss(lam=0.1))
