"""SaliencyMix: boxes around saliency peaks, pixels compared with a loop on non-square images, and draws."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from dali_mix import mixers
from dali_mix.mixers import CutMix, MixChoice, SaliencyMix, SaliencyMixParams, fine_grained_saliency
from tests.mixers import oracles
from tests.mixers.pictures import drawn

HEIGHT, WIDTH = 23, 17
MEAN, STD = (0.5, 0.4, 0.45), (0.2, 0.25, 0.23)
PERMUTATION = [2, 0, 1, 3, 4]
# Odd and even sides, almost the complete image, the complete image, one pixel, an empty box.
SIDES = [[6, 5], [21, 15], [23, 17], [1, 1], [0, 0]]
LABELS = [0, 3, 1, 2, 3]
NORMALIZED = [torch.float32, torch.float16, torch.bfloat16]


def generator(seed=11):
    return torch.Generator().manual_seed(seed)


def pictures(count=5):
    """Return `count` pictures, (count,3,HEIGHT,WIDTH) uint8."""
    images = (
        np.stack([drawn(HEIGHT, WIDTH, seed) for seed in range(20, 20 + count)]) if count else np.zeros((0, 1, 1, 3))
    )
    return torch.from_numpy(images).permute(0, 3, 1, 2).reshape(count, 3, HEIGHT, WIDTH).byte()


def normalized(images, dtype=torch.float32, mean=MEAN, std=STD):
    mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return ((images / 255 - mean) / std).to(dtype)


def params(permutation=PERMUTATION, sides=SIDES):
    return SaliencyMixParams(torch.tensor(permutation), torch.tensor(sides))


def loop_boxes(images, permutation, sides, only=None):
    """Compute boxes in plain Python from each partner's map, or from the map of image `only`."""
    maps = fine_grained_saliency(images)
    boxes = []
    for partner, (box_h, box_w) in zip(permutation, sides, strict=True):
        levels = maps[partner if only is None else only].tolist()
        best = max(max(row) for row in levels)
        y = next(row for row in range(HEIGHT) if best in levels[row])
        x = levels[y].index(best)
        top, left = y - box_h // 2, x - box_w // 2
        bottom, right = min(top + box_h, HEIGHT), min(left + box_w, WIDTH)
        top, left = max(top, 0), max(left, 0)
        boxes.append([top, left, bottom - top, right - left])
    return boxes


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("per_batch", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, *NORMALIZED])
def test_saliencymix_equals_pixel_loop(dtype, per_batch, channels_last):
    levels = pictures()
    images = levels if dtype == torch.uint8 else normalized(levels, dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    mixer = SaliencyMix(4, per_batch=per_batch, mean=MEAN, std=STD)
    sides = [[6, 5]] * 5 if per_batch else SIDES
    drawn_params = params(sides=sides)
    mixed, targets = mixer.apply(images, torch.tensor(LABELS), drawn_params)
    boxes = loop_boxes(levels, PERMUTATION, sides, only=PERMUTATION[0] if per_batch else None)
    located = mixer.locate(images, drawn_params)
    assert located.boxes.tolist() == boxes
    assert torch.equal(located.permutation, drawn_params.permutation)
    lam = [1 - h * w / (HEIGHT * WIDTH) for _, _, h, w in boxes]
    assert located.lam.tolist() == pytest.approx(lam, abs=1e-7)
    assert mixed.dtype == dtype
    assert torch.equal(mixed, oracles.cutmix(images, PERMUTATION, boxes))
    assert torch.equal(images, before)
    assert mixed.stride() == images.stride()
    wanted_targets = oracles.targets_area(LABELS, PERMUTATION, lam, 4)
    torch.testing.assert_close(targets.double(), wanted_targets, rtol=0, atol=1e-6)
    assert torch.equal(mixer.saliency(images), fine_grained_saliency(levels))
    by_cutmix = CutMix(4).apply(images, torch.tensor(LABELS), located)
    assert torch.equal(mixed, by_cutmix[0]) and torch.equal(targets, by_cutmix[1])


def test_boxes_are_centred_on_salient_spot():
    images = torch.full((4, 3, 31, 19), 90, dtype=torch.uint8)
    spots = [(4, 15), (28, 2), (15, 9), (0, 18)]
    for image, (y, x) in zip(images, spots, strict=True):
        image[:, y, x] = 200  # too small to raise the mean around it by a level, so nothing else is salient
    located = SaliencyMix(2).locate(images, params([1, 0, 3, 2], [[5, 3]] * 4))
    assert located.boxes.tolist() == [[26, 1, 5, 3], [2, 14, 5, 3], [0, 17, 3, 2], [13, 8, 5, 3]]
    assert located.lam.tolist() == pytest.approx([1 - 15 / 589, 1 - 15 / 589, 1 - 6 / 589, 1 - 15 / 589])


def test_image_without_saliency_peaks_at_first_pixel():
    images = torch.full((1, 3, 9, 7), 90, dtype=torch.uint8)
    assert SaliencyMix(2).locate(images, params([0], [[4, 4]])).boxes.tolist() == [[0, 0, 2, 2]]


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_side_distribution_follows_paper(alpha):
    height, width = 10**9, 7 * 10**8  # so the sides determine λ0 to nine digits
    drawn_params = SaliencyMix(10, alpha=alpha).sample(100_000, height, width, generator())
    box_h, box_w = drawn_params.sides.double().numpy().T
    assert stats.kstest(1 - (box_h / height) ** 2, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert np.abs(box_h / height - box_w / width).max() < 2 / width
    assert sorted(drawn_params.permutation.tolist()) == list(range(100_000))


def test_lam_is_visible_share_of_image():
    images = pictures(9)
    mixer = SaliencyMix(9)
    for seed in range(20):
        located = mixer.locate(images, mixer.sample(9, HEIGHT, WIDTH, generator(seed)))
        top, left, box_h, box_w = located.boxes.T
        assert (top >= 0).all() and (left >= 0).all() and (box_h >= 0).all() and (box_w >= 0).all()
        assert (top + box_h <= HEIGHT).all() and (left + box_w <= WIDTH).all()
        assert torch.equal(located.lam, (1 - (box_h * box_w).double() / (HEIGHT * WIDTH)).float())
    # Images of one level each reveal which pixels come from the partner.
    flat = torch.arange(9, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, HEIGHT, WIDTH) * 20
    drawn_params = mixer.sample(9, HEIGHT, WIDTH, generator())
    mixed, targets = mixer.apply(flat, torch.arange(9), drawn_params)
    own = (mixed == flat).double().mean((1, 2, 3))
    moved = drawn_params.permutation != torch.arange(9)
    torch.testing.assert_close(targets.diagonal()[moved].double(), own[moved], rtol=0, atol=1e-6)


def test_per_batch_uses_first_partner_only():
    mixer = SaliencyMix(10, per_batch=True)
    drawn_params = mixer.sample(7, HEIGHT, WIDTH, generator())
    assert len(drawn_params.sides.unique(dim=0)) == 1
    images = pictures(7)
    first = int(drawn_params.permutation[0])
    located = mixer.locate(images, drawn_params)
    assert len(located.boxes.unique(dim=0)) == 1
    others = images.clone()
    others[torch.arange(7) != first] = 0
    assert torch.equal(mixer.locate(others, drawn_params).boxes, located.boxes), (
        "only the first partner's saliency may be used"
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("per_batch", [False, True])
@pytest.mark.parametrize("batch_size", [0, 1, 3])
def test_saliencymix_accepts_any_batch_size(batch_size, per_batch, dtype):
    images = pictures(batch_size)
    images = images if dtype == torch.uint8 else normalized(images)
    mixer = SaliencyMix(4, per_batch=per_batch, mean=MEAN, std=STD)
    mixed, targets = mixer(images, torch.arange(batch_size), generator())
    assert (mixed.shape, mixed.dtype, targets.shape) == (images.shape, dtype, (batch_size, 4))
    torch.testing.assert_close(targets.sum(1), torch.ones(batch_size))
    one_pixel = images[:, :, :1, :1]
    assert mixer(one_pixel, torch.arange(batch_size), generator())[0].shape == (batch_size, 3, 1, 1)


def test_gradients_pass_only_through_paste():
    images = normalized(pictures(3)).requires_grad_()
    mixer = SaliencyMix(4, mean=MEAN, std=STD)
    drawn_params = mixer.sample(3, HEIGHT, WIDTH, generator())
    weights = torch.rand(images.shape, generator=generator())
    mixed, _ = mixer.apply(images, torch.tensor([0, 1, 2]), drawn_params)
    (mixed * weights).sum().backward()
    inside = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (top, left, box_h, box_w) in zip(inside, mixer.locate(images, drawn_params).boxes.tolist(), strict=True):
        mask[top : top + box_h, left : left + box_w] = True
    wanted = torch.where(inside[:, None], 0, weights)
    for i, partner in enumerate(drawn_params.permutation.tolist()):
        wanted[partner] += torch.where(inside[i], weights[i], 0)
    torch.testing.assert_close(images.grad, wanted)


def test_draws_are_reproducible_without_global_generator():
    state = torch.get_rng_state()
    mixer = SaliencyMix(4)
    first, again, other = (mixer.sample(16, HEIGHT, WIDTH, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.sides, again.sides) and torch.equal(first.permutation, again.permutation)
    assert not torch.equal(first.sides, other.sides)
    assert (first.sides.dtype, first.permutation.dtype, first.sides.shape) == (torch.int64, torch.int64, (16, 2))
    images, targets = pictures(3), torch.arange(3)
    drawn_params = mixer.sample(3, HEIGHT, WIDTH, generator())
    once, twice = mixer.apply(images, targets, drawn_params), mixer.apply(images, targets, drawn_params)
    assert torch.equal(once[0], twice[0]) and torch.equal(once[1], twice[1])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": MEAN}, "pass both, or neither"),
        ({"std": STD}, "pass both, or neither"),
        ({"mean": 0.5, "std": STD}, "mean=0.5.*three numbers"),
        ({"mean": MEAN, "std": (0.2, 0.2)}, "std=.*three numbers"),
        ({"mean": MEAN, "std": (0.2, 0.0, 0.2)}, "above 0"),
        ({"mean": (math.nan, 0, 0), "std": STD}, "finite"),
        ({"mean": ("a", "b", "c"), "std": STD}, "mean='a': must be a number"),
        ({"alpha": 0}, "alpha=0"),
        ({"num_classes": 0}, "num_classes=0"),
    ],
)
def test_constructor_refuses_invalid_options(options, message):
    with pytest.raises(ValueError, match=message):
        SaliencyMix(**{"num_classes": 4, **options})


def test_saliencymix_refuses_invalid_images():
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"torch.float32 images.*mean and std"):
        SaliencyMix(4)(torch.rand(2, 3, 8, 6), labels, generator())
    with pytest.raises(ValueError, match=r"\(2, 2, 8, 6\)"):
        SaliencyMix(4)(torch.zeros(2, 2, 8, 6, dtype=torch.uint8), labels, generator())
    with pytest.raises(ValueError, match=r"\(2, 4, 8, 6\)"):
        SaliencyMix(4, mean=MEAN, std=STD)(torch.rand(2, 4, 8, 6), labels, generator())
    with pytest.raises(ValueError, match=r"\(2, 3, 0, 6\)"):
        SaliencyMix(4, mean=MEAN, std=STD).saliency(torch.rand(2, 3, 0, 6))
    with pytest.raises(ValueError, match=r"\(2, 5, 8, 6\)"):
        SaliencyMix(4, mean=MEAN, std=STD).saliency(torch.rand(2, 5, 8, 6))
    with pytest.raises(ValueError, match=r"int64"):
        SaliencyMix(4, mean=MEAN, std=STD)(torch.zeros(2, 3, 8, 6, dtype=torch.int64), labels, generator())
    with pytest.raises(ValueError, match="drawn for 2"):
        SaliencyMix(4).apply(pictures(3), torch.arange(3), SaliencyMix(4).sample(2, HEIGHT, WIDTH, generator()))


def test_saliencymix_works_in_mix_choice():
    choice = MixChoice([SaliencyMix(4), CutMix(4)], probs=[0.5, 0.25])
    images, labels = pictures(3), torch.arange(3)
    seen = set()
    for seed in range(20):
        drawn_params = choice.sample(3, HEIGHT, WIDTH, generator(seed))
        mixed, targets = choice.apply(images, labels, drawn_params)
        assert targets.shape == (3, 4)
        if drawn_params.index == 0:
            assert torch.equal(mixed, choice.mixers[0].apply(images, labels, drawn_params.params)[0])
        seen.add(drawn_params.index)
    assert seen == {-1, 0, 1}


def test_build_passes_mean_and_std():
    mixer = mixers.build("saliencymix", num_classes=7, mean=MEAN, std=list(STD), alpha=0.5)
    assert repr(mixer) == f"SaliencyMix(num_classes=7, alpha=0.5, per_batch=False, mean={MEAN}, std={STD})"
    members = [{"type": "SaliencyMix", "per_batch": True}, {"type": "CutMix"}]
    choice = mixers.build("MixChoice", num_classes=7, mean=MEAN, std=STD, mixers=members, probs=[0.5, 0.5])
    assert (choice.mixers[0].mean, choice.mixers[0].std, choice.num_classes) == (MEAN, STD, 7)
    own = [{"type": "SaliencyMix", "mean": (0.1, 0.2, 0.3)}]
    choice = mixers.build("MixChoice", num_classes=7, mean=MEAN, std=STD, mixers=own, probs=[0.5])
    assert (choice.mixers[0].mean, choice.mixers[0].std) == ((0.1, 0.2, 0.3), STD)
    with pytest.raises(ValueError, match="mixer SaliencyMix: mean="):
        mixers.build("SaliencyMix", num_classes=7, mean="red", std=STD)


@pytest.mark.parametrize("per_batch", [False, True])
def test_saliencymix_refuses_partners_outside_batch(per_batch):
    images = torch.zeros(3, 3, 16, 12, dtype=torch.uint8)
    drawn = SaliencyMixParams(torch.tensor([3, 1, 0]), torch.full((3, 2), 4))
    with pytest.raises(ValueError, match=r"permutation must name images 0 … 2"):
        SaliencyMix(5, per_batch=per_batch).apply(images, torch.arange(3), drawn)
