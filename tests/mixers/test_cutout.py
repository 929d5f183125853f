"""Cutout compared with a loop over pixels, and the distribution of its squares."""

import numpy as np
import pytest
import torch
from scipy import stats

from dali_mix.mixers import Cutout, CutoutParams
from tests.mixers import oracles
from tests.mixers.drawing import P_MIN, generator
from tests.mixers.five import BOXES, DTYPES, pictures

LABELS = [0, 3, 1, 2, 3]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cutout_equals_pixel_loop(dtype, channels_last):
    images = pictures(dtype=dtype, channels_last=channels_last)
    before = images.clone()
    labels = torch.tensor(LABELS)
    mixed, targets = Cutout(4).apply(images, labels, CutoutParams(torch.tensor(BOXES)))
    assert mixed.dtype == dtype
    assert torch.equal(mixed, oracles.cutout(images, BOXES))
    assert torch.equal(images, before)
    assert mixed.stride() == images.stride()
    assert targets is labels


COUNT = 100_000
HEIGHT, WIDTH = 48, 32


def test_cutout_centres_are_uniform():
    boxes = Cutout(5).sample(COUNT, HEIGHT, WIDTH, generator()).boxes.numpy()
    top, left, box_h, box_w = boxes.T
    assert box_h.min() == 3 and box_w.min() == 3 and box_h.max() == 5
    # If the top is clipped, the bottom edge determines the centre, and vice versa.
    centre_y = np.where(top > 0, top + 2, box_h - 3)
    centre_x = np.where(left > 0, left + 2, box_w - 3)
    assert stats.chisquare(np.bincount(centre_y, minlength=HEIGHT)).pvalue > P_MIN
    assert stats.chisquare(np.bincount(centre_x, minlength=WIDTH)).pvalue > P_MIN


@pytest.mark.parametrize("size", [0, 1.5])
def test_cutout_size_must_be_positive_integer(size):
    with pytest.raises(ValueError, match=f"size={size}: must be an integer of at least 1"):
        Cutout(size)


@pytest.mark.parametrize("batch_size", [0, 1, 3])
def test_cutout_accepts_any_batch_size(batch_size):
    images = torch.rand(batch_size, 3, 9, 5)
    assert Cutout(3)(images, torch.arange(batch_size), generator())[0].shape == images.shape
