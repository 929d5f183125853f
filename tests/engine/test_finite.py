"""Checks for NaN and infinity: the tensors they cover, and the tensor they name."""

import pytest
import torch
from torch import nn

from dali_mix.engine.train.finite import first_non_finite, statistics, total_norm


def test_statistics_exclude_infinite_masks():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
    model.register_buffer("center", torch.zeros(2))
    assert sorted(statistics(model)) == ["1.running_mean", "1.running_var", "center"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_total_norm_is_finite_only_for_finite_tensors(dtype):
    large = torch.full((100,), 3e4, dtype=dtype)
    assert total_norm([large, torch.ones(2)]).isfinite()
    for bad in (float("nan"), float("inf"), float("-inf")):
        large[7] = bad
        assert not total_norm([large, torch.ones(2)]).isfinite()
        assert first_non_finite({"fine": torch.ones(2), "large": large, "count": torch.ones(1).long()}) == "large"
