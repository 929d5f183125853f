"""Compiled box operations equal those of torch, also for strided and single draws."""

import pytest
import torch

from dali_mix.mixers import kernels
from dali_mix.mixers.kernels import numba_per_image
from dali_mix.mixers.ops import boxes
from tests.mixers.drawing import generator

HEIGHT, WIDTH = 48, 32


@pytest.mark.parametrize("way", [boxes.cut, boxes.shrunk])
@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (224, 37), (1, 1)])
def test_numba_and_torch_boxes_agree(way, height, width, monkeypatch):
    ends = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    draws = torch.cat([ends, torch.rand(5000, dtype=torch.float64, generator=generator())])
    centre_y = torch.randint(height, draws.shape, generator=generator())
    centre_x = torch.randint(width, draws.shape, generator=generator())
    given = draws, centre_y, centre_x, height, width
    assert kernels.pick("clipped_boxes", draws) is numba_per_image.clipped_boxes
    by_loops, kept_by_loops = way(*given)
    monkeypatch.setattr(kernels, "_load", lambda name: None)
    by_torch, kept = way(*given)
    assert torch.equal(by_loops, by_torch)
    assert torch.equal(kept_by_loops, kept)
    assert (by_loops.dtype, kept_by_loops.dtype) == (torch.int64, torch.float32)
    assert torch.equal(kept, boxes.kept_share(by_torch, height, width))


def test_cut_accepts_strided_and_single_draws():
    draws = torch.rand(20, dtype=torch.float64, generator=generator())
    centre = torch.randint(9, (20,), generator=generator())
    every_other = boxes.cut(draws[::2], centre[::2], centre[1::2], 9, 9)
    dense = boxes.cut(draws[::2].clone(), centre[::2].clone(), centre[1::2].clone(), 9, 9)
    assert torch.equal(every_other[0], dense[0])
    assert torch.equal(every_other[1], dense[1])
    one_draw = boxes.cut(draws[:1], centre, centre, 9, 9)
    assert torch.equal(one_draw[0], boxes.cut(draws[:1].expand(20), centre, centre, 9, 9)[0])
