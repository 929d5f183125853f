"""Distributions of random draws with a fixed seed."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from dali_mix.mixers import CutMix
from dali_mix.mixers.ops import draws as random
from tests.mixers.drawing import P_MIN, generator

COUNT = 100_000


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 4.0])
def test_beta_draws_follow_distribution(alpha):
    draws = random.beta(COUNT, alpha, generator()).numpy()
    assert stats.kstest(draws, stats.beta(alpha, alpha).cdf).pvalue > P_MIN


def test_beta_with_tiny_alpha_is_finite():
    draws = random.beta(COUNT, 1e-3, generator())
    assert torch.isfinite(draws).all()
    assert draws.min() >= 0 and draws.max() <= 1


def test_permutations_are_uniform():
    # All 24 permutations of 4 are equally frequent.
    gen = generator()
    orders = torch.stack([CutMix(2).sample(4, 4, 4, gen).permutation for _ in range(12_000)])
    codes = (orders * torch.tensor([64, 16, 4, 1])).sum(1).numpy()
    _, counts = np.unique(codes, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > P_MIN


def test_square_root_equals_math_sqrt():
    draws = torch.cat([torch.tensor([0.0, 1.0]).double(), torch.rand(1000, dtype=torch.float64, generator=generator())])
    wanted = torch.tensor([math.sqrt(draw) for draw in draws.tolist()], dtype=torch.float64)
    assert torch.equal(random.square_root(draws), wanted)
