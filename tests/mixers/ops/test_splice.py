"""Splicing of invalid grids and of no grid."""

import pytest
import torch

from dali_mix.mixers import kernels
from dali_mix.mixers.ops.splice import splice

KEPT = torch.zeros(1, 1, dtype=torch.bool)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ((1, 1, torch.tensor([[7]]), KEPT), "image 7 of 4"),
        ((1, 1, torch.tensor([[10**9]]), KEPT), "image 1000000000 of 4"),
        ((1, 1, torch.tensor([[-1]]), KEPT), "image -1"),
        ((3, 1, torch.zeros(1, 3, dtype=torch.int64), KEPT.expand(1, 3)), "cannot be cut into 3×1"),
        ((1, 2, torch.zeros(1, 1, dtype=torch.int64), KEPT), r"both must be \(n, 2\)"),
    ],
)
def test_splice_refuses_invalid_grids(grid, message, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(kernels, "_load", lambda name: None)
    with pytest.raises(ValueError, match=message):
        splice(torch.zeros(4, 3, 2, 8), [grid])


def test_splice_without_grids_equals_batch():
    images = torch.rand(4, 3, 2, 8)
    assert torch.equal(splice(images, []), images)
