"""MixUp compared with a loop over pixels, and the distribution of λ."""

import numpy as np
import pytest
import torch
from scipy import stats

from dali_mix.mixers import MixUp, MixUpParams
from tests.mixers import oracles
from tests.mixers.drawing import P_MIN, generator
from tests.mixers.five import PERMUTATION, pictures

LABELS = [0, 3, 1, 2, 3]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float32, 5e-7), (torch.float16, 1e-3), (torch.bfloat16, 8e-3), (torch.uint8, 0.5001)]
)
def test_mixup_equals_loop(dtype, within, channels_last):
    images = pictures(dtype=dtype, channels_last=channels_last)
    before = images.clone()
    lam = [0.3, 1.0, 0.0, 0.75, 0.5]
    drawn = MixUpParams(torch.tensor(PERMUTATION), torch.tensor(lam))
    mixed, targets = MixUp(4).apply(images, torch.tensor(LABELS), drawn)
    wanted = oracles.mixup(images, PERMUTATION, drawn.lam.double().tolist())
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed.double(), wanted, rtol=0, atol=within)
    assert torch.equal(mixed[1], images[1]), "lam = 1 keeps the image to the bit"
    assert torch.equal(mixed[2], images[1]), "lam = 0 takes the partner to the bit"
    assert torch.equal(images, before)
    assert mixed.stride() == images.stride()
    wanted_targets = oracles.targets_area(LABELS, PERMUTATION, drawn.lam.double().tolist(), 4)
    torch.testing.assert_close(targets.double(), wanted_targets, rtol=0, atol=1e-7)


COUNT = 100_000


def test_mixup_lam_follows_beta_distribution():
    lam = MixUp(10, alpha=0.4).sample(COUNT, 8, 8, generator()).lam.numpy()
    assert stats.kstest(lam.astype(np.float64), stats.beta(0.4, 0.4).cdf).pvalue > P_MIN


def test_per_batch_uses_one_lam():
    assert MixUp(10, per_batch=True).sample(64, 8, 8, generator()).lam.unique().numel() == 1
