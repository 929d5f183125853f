"""Free-form masks from compiled loops equal those from torch operations, bit for bit."""

import math

import pytest
import torch

from dali_mix.mixers import FreeFormMasks, FreeFormParams, kernels
from dali_mix.mixers.kernels import threads
from tests.mixers.drawing import generator

HEIGHT, WIDTH = 13, 21


def by_torch(params, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_load", lambda name: None)
        return FreeFormMasks().masks(params)


@pytest.mark.parametrize(("height", "width"), [(61, 97), (224, 150), (1, 33), (20, 1)])
def test_numba_and_torch_masks_agree(height, width, monkeypatch):
    monkeypatch.setattr(threads, "_COST_OF_A_THREAD", 1000)
    params = FreeFormMasks(strokes=(1, 5), holes=(0, 4)).sample(9, height, width, generator(7))
    drawn, wanted = FreeFormMasks().masks(params), by_torch(params, monkeypatch)
    assert drawn.dtype == torch.bool and torch.equal(drawn, wanted)
    assert 0.02 < wanted.float().mean() < 0.9


def test_numba_and_torch_masks_agree_for_extreme_values(monkeypatch):
    """Points far outside, lines of length zero, negative radii, NaN and infinity give the same masks."""
    lines = [
        [[5.0, 5.0], [5.0, 5.0], [-4e5, 3e5]],
        [[1e12, 0.0], [0.0, 2e12], [7.0, 3.0]],
        [[math.nan, 2.0], [3.0, 3.0], [9.0, math.inf]],
        [[-30.0, 4.0], [40.0, 4.5], [40.0, -90.0]],
    ]
    holes = [[4.0, 7.5], [math.inf, 2.0], [1e6, 1e6], [-2.0, 20.0]]
    radii, hole_radii = [3.5, 4.0, 50.0, -2.0], [1.0, 4.0, 1.42e6, -6.0]
    strokes, discs, *widths = (torch.tensor(part)[:, None] for part in (lines, holes, radii, hole_radii))
    params = FreeFormParams(HEIGHT, WIDTH, strokes, widths[0], discs, widths[1])
    drawn = FreeFormMasks().masks(params)
    assert torch.equal(drawn, by_torch(params, monkeypatch))
    shares = drawn.float().mean((1, 2, 3)).tolist()
    assert 0 < shares[0] < 1 and 0 < shares[3] < 1, shares


@pytest.mark.parametrize("count", [0, 2])
def test_masks_without_strokes_or_holes_are_empty(count, monkeypatch):
    params = FreeFormParams(
        3, 4, torch.rand(count, 0, 6, 2), torch.rand(count, 0), torch.rand(count, 0, 2), torch.rand(count, 0)
    )
    assert torch.equal(FreeFormMasks().masks(params), torch.zeros(count, 1, 3, 4, dtype=torch.bool))
    assert torch.equal(by_torch(params, monkeypatch), torch.zeros(count, 1, 3, 4, dtype=torch.bool))
