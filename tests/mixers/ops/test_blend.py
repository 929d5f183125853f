"""Blending propagates gradients to the weights."""

import torch

from dali_mix.mixers import MixUp, MixUpParams
from tests.mixers.five import PERMUTATION, pictures

LABELS = [0, 3, 1, 2, 3]


def test_gradients_reach_lam():
    images, lam = pictures(), torch.full((5,), 0.25, requires_grad=True)
    mixed, _ = MixUp(4).apply(images, torch.tensor(LABELS), MixUpParams(torch.tensor(PERMUTATION), lam))
    mixed.sum().backward()
    wanted = images.sum((1, 2, 3)) - images[PERMUTATION].sum((1, 2, 3))
    torch.testing.assert_close(lam.grad, wanted, rtol=1e-4, atol=1e-3)
