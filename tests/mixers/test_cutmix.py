"""CutMix compared with a loop over pixels, and the distribution of its boxes."""

import numpy as np
import pytest
import torch
from scipy import stats

from dali_mix.mixers import CutMix
from dali_mix.mixers.kernels import torch_paste
from tests.mixers import oracles
from tests.mixers.drawing import P_MIN, generator
from tests.mixers.five import BOXES, DTYPES, PERMUTATION, params, pictures

LABELS = [0, 3, 1, 2, 3]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cutmix_equals_pixel_loop(dtype, channels_last):
    images = pictures(dtype=dtype, channels_last=channels_last)
    before = images.clone()
    mixed, targets = CutMix(4).apply(images, torch.tensor(LABELS), params())
    wanted = oracles.cutmix(images, PERMUTATION, BOXES)
    assert mixed.dtype == dtype
    assert torch.equal(mixed, wanted)
    assert torch.equal(images, before)
    assert mixed.stride() == images.stride()
    wanted_targets = oracles.targets_area(LABELS, PERMUTATION, params().lam.double().tolist(), 4)
    torch.testing.assert_close(targets.double(), wanted_targets, rtol=0, atol=1e-7)
    assert targets.dtype == torch.float32
    # The operations used on a GPU give identical results on the CPU.
    gathered = torch_paste.paste(images, params().permutation, params().boxes)
    assert torch.equal(gathered, wanted)
    assert gathered.stride() == images.stride()


COUNT = 100_000
HEIGHT, WIDTH = 48, 32


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_cutmix_box_distribution(alpha):
    drawn = CutMix(10, alpha=alpha).sample(COUNT, HEIGHT, WIDTH, generator())
    top, left, box_h, box_w = drawn.boxes.numpy().T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + box_h <= HEIGHT).all() and (left + box_w <= WIDTH).all()

    # Compare with boxes drawn by numpy as the paper describes: both ends and the length, along both axes.
    rng = np.random.default_rng(1)
    side = np.sqrt(1 - rng.beta(alpha, alpha, COUNT))
    for size, start, length in ((HEIGHT, top, box_h), (WIDTH, left, box_w)):
        full = np.floor(side * size)
        centre = rng.integers(0, size, COUNT)
        low = np.clip(centre - full // 2, 0, size)
        high = np.clip(centre - full // 2 + full, 0, size)
        for ours, theirs in ((start, low), (start + length, high), (length, high - low)):
            table = np.stack([np.bincount(v.astype(int), minlength=size + 1) for v in (ours, theirs)])
            assert stats.chi2_contingency(table[:, table.min(0) > 5]).pvalue > P_MIN
    # Height and width share one λ0, so unclipped boxes have the aspect ratio of the image.
    whole = (top > 0) & (left > 0) & (top + box_h < HEIGHT) & (left + box_w < WIDTH)
    assert np.abs(box_h[whole] / HEIGHT - box_w[whole] / WIDTH).max() <= 1 / WIDTH
    assert np.array_equal(drawn.lam.numpy(), (1 - box_h * box_w / (HEIGHT * WIDTH)).astype(np.float32))


def test_per_batch_uses_one_box():
    drawn = CutMix(10, per_batch=True).sample(64, HEIGHT, WIDTH, generator())
    assert (drawn.boxes == drawn.boxes[0]).all() and (drawn.lam == drawn.lam[0]).all()
