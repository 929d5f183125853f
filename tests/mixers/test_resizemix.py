"""ResizeMix compared with a loop over pixels, and the distribution of its boxes."""

import numpy as np
import pytest
import torch
from scipy import stats

from dali_mix.mixers import ResizeMix
from dali_mix.mixers.kernels import torch_paste
from tests.mixers import oracles
from tests.mixers.drawing import P_MIN, generator
from tests.mixers.five import BOXES, DTYPES, PERMUTATION, params, pictures

LABELS = [0, 3, 1, 2, 3]
NOT_EMPTY = [*BOXES[:4], [2, 1, 9, 5]]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_resizemix_nearest_equals_pixel_loop(dtype, channels_last):
    images, drawn = pictures(dtype=dtype, channels_last=channels_last), params(NOT_EMPTY)
    before = images.clone()
    mixed, targets = ResizeMix(4).apply(images, torch.tensor(LABELS), drawn)
    wanted = oracles.resizemix_nearest(images, PERMUTATION, NOT_EMPTY)
    assert mixed.dtype == dtype
    assert torch.equal(mixed, wanted)
    assert torch.equal(images, before)
    assert mixed.stride() == images.stride()
    wanted_targets = oracles.targets_area(LABELS, PERMUTATION, params(NOT_EMPTY).lam.double().tolist(), 4)
    torch.testing.assert_close(targets.double(), wanted_targets, rtol=0, atol=1e-7)
    gathered = torch_paste.paste_nearest(images, drawn.permutation, drawn.boxes)
    assert torch.equal(gathered, wanted)
    assert gathered.stride() == images.stride()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.uint8, 0.5001)]
)
def test_resizemix_bilinear_equals_pixel_loop(dtype, within, channels_last):
    images, drawn = pictures(dtype=dtype, channels_last=channels_last), params(NOT_EMPTY)
    before = images.clone()
    mixer = ResizeMix(4, interpolation="bilinear")
    mixed, _ = mixer.apply(images, torch.tensor(LABELS), drawn)
    wanted = oracles.resizemix_bilinear(images, PERMUTATION, NOT_EMPTY)
    for ours in (mixed, torch_paste.paste_bilinear(images, drawn.permutation, drawn.boxes)):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), wanted, rtol=0, atol=within)
        assert ours.stride() == images.stride()
    assert torch.equal(images, before)


COUNT = 100_000
HEIGHT, WIDTH = 48, 32


def test_resizemix_box_distribution():
    drawn = ResizeMix(10).sample(COUNT, HEIGHT, WIDTH, generator())
    top, left, box_h, box_w = drawn.boxes.numpy().T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + box_h <= HEIGHT).all() and (left + box_w <= WIDTH).all()
    assert np.array_equal(drawn.lam.numpy(), (1 - box_h * box_w / (HEIGHT * WIDTH)).astype(np.float32))

    # τ ~ U(0.1, 0.8), so the probability of a height ⌊τH⌋ is proportional to the length of its interval of τ.
    heights = np.arange(int(0.1 * HEIGHT), int(0.8 * HEIGHT) + 1)
    low, high = np.maximum(heights / HEIGHT, 0.1), np.minimum((heights + 1) / HEIGHT, 0.8)
    counts = np.bincount(box_h, minlength=HEIGHT + 1)
    assert counts.sum() == counts[heights].sum()
    assert stats.chisquare(counts[heights], COUNT * (high - low) / 0.7).pvalue > P_MIN
    # One τ for both sides, and two independent centres.
    assert np.abs(box_h / HEIGHT - box_w / WIDTH).max() < 1 / WIDTH
    # Centres are uniform and boxes are shifted inside, so boxes of a given length accumulate at the borders.
    for size, start, length in ((HEIGHT, top, box_h), (WIDTH, left, box_w)):
        for box in (size // 4, size // 2):
            starts = start[length == box]
            centre = np.arange(size)
            wanted = np.bincount(np.clip(centre - box // 2, 0, size - box), minlength=size - box + 1) / size
            counts = np.bincount(starts, minlength=size - box + 1)
            assert stats.chisquare(counts, len(starts) * wanted).pvalue > P_MIN


@pytest.mark.parametrize(("height", "width"), [(40, 3), (3, 40)])
def test_box_has_at_least_one_pixel_per_side(height, width):
    boxes = ResizeMix(10, scale=(0.1, 0.2)).sample(50, height, width, generator()).boxes
    assert (boxes[:, 2:] >= 1).all()


def test_per_batch_uses_one_tau_with_own_centres():
    boxes = ResizeMix(10, per_batch=True).sample(64, HEIGHT, WIDTH, generator()).boxes
    assert (boxes[:, 2:] == boxes[0, 2:]).all()
    assert len(boxes[:, :2].unique(dim=0)) > 10, "images must have different centres"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.8, 0.1)}, "scale="),
        ({"scale": (0.0, 0.5)}, "scale="),
        ({"scale": (0.5, 1.5)}, "scale="),
        ({"scale": ("a", "b")}, "scale='a': must be a number"),
        ({"interpolation": "cubic"}, "interpolation='cubic': must be one of nearest, bilinear"),
    ],
)
def test_resizemix_refuses_invalid_options(options, message):
    with pytest.raises(ValueError, match=message):
        ResizeMix(10, **options)
