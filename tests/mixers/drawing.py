"""Generators, a small batch, and the level of significance of tests on distributions."""

import torch

P_MIN = 1e-3  # the seeds are fixed: a test that passes keeps passing


def generator(seed=11):
    return torch.Generator().manual_seed(seed)


SMALL = torch.rand(4, 3, 8, 6, generator=generator(0))
