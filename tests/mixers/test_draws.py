"""What the mixers draw: distributions on 10^5 draws with a fixed seed, the published protocols, repeatability."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from dali_mix.mixers import CutMix, Cutout, MixUp, ResizeMix, kernels
from dali_mix.mixers.kernels import numba_per_image
from dali_mix.mixers.ops import boxes
from dali_mix.mixers.ops import draws as random

COUNT = 100_000
HEIGHT, WIDTH = 48, 32
P_MIN = 1e-3  # the seeds are fixed: a test that passes keeps passing


def generator(seed=11):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 4.0])
def test_beta(alpha):
    draws = random.beta(COUNT, alpha, generator()).numpy()
    assert stats.kstest(draws, stats.beta(alpha, alpha).cdf).pvalue > P_MIN


def test_a_tiny_alpha_gives_no_nan():
    draws = random.beta(COUNT, 1e-3, generator())
    assert torch.isfinite(draws).all()
    assert draws.min() >= 0 and draws.max() <= 1


def test_mixup_lam():
    lam = MixUp(10, alpha=0.4).sample(COUNT, 8, 8, generator()).lam.numpy()
    assert stats.kstest(lam.astype(np.float64), stats.beta(0.4, 0.4).cdf).pvalue > P_MIN


def test_permutations_are_uniform():
    # All 24 orders of 4, equally often.
    gen = generator()
    orders = torch.stack([CutMix(2).sample(4, 4, 4, gen).permutation for _ in range(12_000)])
    codes = (orders * torch.tensor([64, 16, 4, 1])).sum(1).numpy()
    _, counts = np.unique(codes, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > P_MIN


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_cutmix_boxes(alpha):
    drawn = CutMix(10, alpha=alpha).sample(COUNT, HEIGHT, WIDTH, generator())
    top, left, box_h, box_w = drawn.boxes.numpy().T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + box_h <= HEIGHT).all() and (left + box_w <= WIDTH).all()

    # The same boxes as the paper's words give, from numpy's own draws: both ends of both axes, and the area.
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
    # Height and width come from one λ0: where nothing was clipped, the aspect is the image's.
    whole = (top > 0) & (left > 0) & (top + box_h < HEIGHT) & (left + box_w < WIDTH)
    assert np.abs(box_h[whole] / HEIGHT - box_w[whole] / WIDTH).max() <= 1 / WIDTH
    assert np.array_equal(drawn.lam.numpy(), (1 - box_h * box_w / (HEIGHT * WIDTH)).astype(np.float32))


def test_resizemix_boxes():
    drawn = ResizeMix(10).sample(COUNT, HEIGHT, WIDTH, generator())
    top, left, box_h, box_w = drawn.boxes.numpy().T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + box_h <= HEIGHT).all() and (left + box_w <= WIDTH).all()
    assert np.array_equal(drawn.lam.numpy(), (1 - box_h * box_w / (HEIGHT * WIDTH)).astype(np.float32))

    # τ ~ U(.1, .8): the chance of every height ⌊τH⌋ is the length of its interval of τ.
    heights = np.arange(int(0.1 * HEIGHT), int(0.8 * HEIGHT) + 1)
    low, high = np.maximum(heights / HEIGHT, 0.1), np.minimum((heights + 1) / HEIGHT, 0.8)
    counts = np.bincount(box_h, minlength=HEIGHT + 1)
    assert counts.sum() == counts[heights].sum()
    assert stats.chisquare(counts[heights], COUNT * (high - low) / 0.7).pvalue > P_MIN
    # One τ for both sides, two independent centres.
    assert np.abs(box_h / HEIGHT - box_w / WIDTH).max() < 1 / WIDTH
    # Centres uniform, boxes shifted inside: for a given height, the two borders collect what was shifted.
    for size, start, length in ((HEIGHT, top, box_h), (WIDTH, left, box_w)):
        for box in (size // 4, size // 2):
            starts = start[length == box]
            centre = np.arange(size)
            wanted = np.bincount(np.clip(centre - box // 2, 0, size - box), minlength=size - box + 1) / size
            counts = np.bincount(starts, minlength=size - box + 1)
            assert stats.chisquare(counts, len(starts) * wanted).pvalue > P_MIN


def test_a_small_partner_has_at_least_a_pixel_each_way():
    for height, width in ((40, 3), (3, 40)):
        boxes = ResizeMix(10, scale=(0.1, 0.2)).sample(50, height, width, generator()).boxes
        assert (boxes[:, 2:] >= 1).all()


def test_cutout_centres_are_uniform():
    boxes = Cutout(5).sample(COUNT, HEIGHT, WIDTH, generator()).boxes.numpy()
    top, left, box_h, box_w = boxes.T
    assert box_h.min() == 3 and box_w.min() == 3 and box_h.max() == 5
    # The bottom edge tells the centre wherever the top was clipped, and the other way round.
    centre_y = np.where(top > 0, top + 2, box_h - 3)
    centre_x = np.where(left > 0, left + 2, box_w - 3)
    assert stats.chisquare(np.bincount(centre_y, minlength=HEIGHT)).pvalue > P_MIN
    assert stats.chisquare(np.bincount(centre_x, minlength=WIDTH)).pvalue > P_MIN


def test_per_batch_draws_once():
    one_box = CutMix(10, per_batch=True).sample(64, HEIGHT, WIDTH, generator())
    assert (one_box.boxes == one_box.boxes[0]).all()
    one_tau = ResizeMix(10, per_batch=True).sample(64, HEIGHT, WIDTH, generator())
    assert (one_tau.boxes[:, 2:] == one_tau.boxes[0, 2:]).all()
    assert len(one_tau.boxes[:, :2].unique(dim=0)) > 10, "every image keeps a centre of its own"
    assert MixUp(10, per_batch=True).sample(64, 8, 8, generator()).lam.unique().numel() == 1
    for mixer in (CutMix(10), ResizeMix(10)):
        assert len(mixer.sample(64, HEIGHT, WIDTH, generator()).boxes.unique(dim=0)) > 10


@pytest.mark.parametrize("per_batch", [False, True])
@pytest.mark.parametrize("batch_size", [0, 1, 3])
def test_any_batch_size(batch_size, per_batch):
    images, labels = torch.rand(batch_size, 3, 9, 5), torch.arange(batch_size)
    mixers = [CutMix(4, per_batch=per_batch), ResizeMix(4, per_batch=per_batch), MixUp(4, per_batch=per_batch)]
    for mixer in (*mixers, ResizeMix(4, interpolation="bilinear", per_batch=per_batch)):
        mixed, targets = mixer(images, labels, generator())
        assert mixed.shape == images.shape
        assert targets.shape == (batch_size, 4)
        torch.testing.assert_close(targets.sum(1), torch.ones(batch_size))
    assert Cutout(3)(images, labels, generator())[0].shape == images.shape


def test_an_image_of_one_pixel():
    for mixer in (CutMix(2), ResizeMix(2), MixUp(2), Cutout(16)):
        mixed, _ = mixer(torch.rand(4, 3, 1, 1), torch.tensor([0, 1, 0, 1]), generator())
        assert mixed.shape == (4, 3, 1, 1)


def test_the_generator_decides():
    for mixer in (CutMix(4), ResizeMix(4), MixUp(4)):
        first, again, other = (mixer.sample(16, HEIGHT, WIDTH, generator(seed)) for seed in (1, 1, 2))
        assert torch.equal(first.lam, again.lam)
        assert torch.equal(first.permutation, again.permutation)
        assert not torch.equal(first.lam, other.lam)


def test_drawing_and_applying_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    for mixer in (CutMix(4), ResizeMix(4), MixUp(4), Cutout(3)):
        mixer(torch.rand(4, 3, 6, 5, generator=generator()), torch.arange(4), generator())
    assert torch.equal(state, torch.get_rng_state())


def test_dtypes_and_layout_of_params():
    drawn = ResizeMix(4).sample(6, HEIGHT, WIDTH, generator())
    assert (drawn.permutation.dtype, drawn.boxes.dtype, drawn.lam.dtype) == (torch.int64, torch.int64, torch.float32)
    assert (drawn.permutation.shape, drawn.boxes.shape, drawn.lam.shape) == ((6,), (6, 4), (6,))


@pytest.mark.parametrize(("batch_size", "height", "width"), [(-1, 4, 4), (2, 0, 4), (2, 4, 0)])
def test_impossible_sizes(batch_size, height, width):
    for mixer in (CutMix(4), ResizeMix(4), MixUp(4), Cutout(3)):
        with pytest.raises(ValueError, match="cannot mix"):
            mixer.sample(batch_size, height, width, generator())


def test_square_roots():
    draws = torch.cat([torch.tensor([0.0, 1.0]).double(), torch.rand(1000, dtype=torch.float64, generator=generator())])
    wanted = torch.tensor([math.sqrt(draw) for draw in draws.tolist()], dtype=torch.float64)
    assert torch.equal(random.square_root(draws), wanted)


@pytest.mark.parametrize("way", [boxes.cut, boxes.shrunk])
@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (224, 37), (1, 1)])
def test_boxes_by_loops_are_those_by_torch(way, height, width, monkeypatch):
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


def test_a_box_of_strided_draws():
    draws = torch.rand(20, dtype=torch.float64, generator=generator())
    centre = torch.randint(9, (20,), generator=generator())
    every_other = boxes.cut(draws[::2], centre[::2], centre[1::2], 9, 9)
    dense = boxes.cut(draws[::2].clone(), centre[::2].clone(), centre[1::2].clone(), 9, 9)
    assert torch.equal(every_other[0], dense[0])
    assert torch.equal(every_other[1], dense[1])
    one_draw = boxes.cut(draws[:1], centre, centre, 9, 9)
    assert torch.equal(one_draw[0], boxes.cut(draws[:1].expand(20), centre, centre, 9, 9)[0])
