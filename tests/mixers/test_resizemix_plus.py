"""ResizeMix+: each view is a batch mixed by ResizeMix and augmented by kornia's RandAugment."""

import copy

import pytest
import torch
from kornia.augmentation.auto import RandAugment

from dali_mix import mixers
from dali_mix.mixers import MixChoice, MixUp, ResizeMix, ResizeMixPlus
from tests.mixers.drawing import SMALL

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
LABELS = torch.tensor([0, 1, 2, 3, 1])


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


def pictures(count=5, dtype=torch.float32):
    images = torch.rand(count, 3, 14, 9, generator=generator(3))
    return (images * 255).to(dtype) if dtype == torch.uint8 else images.to(dtype)


def per_channel(values):
    return torch.tensor(values)[:, None, None]


@pytest.mark.parametrize("seed", range(12))  # the seeds cover every operation
def test_views_equal_kornia_randaugment_of_mixed_batch(seed):
    images = pictures()
    mixer = ResizeMixPlus(4)
    drawn = mixer.sample(5, 14, 9, generator(seed))
    assert all(len(view) == 2 and view[0].name != view[1].name for view in drawn.views)
    mixed, mixed_targets = ResizeMix(4).apply(images, LABELS, drawn.paste)
    views = [RandAugment(n=2, m=14)(mixed, params=copy.deepcopy(view)) for view in drawn.views]
    out, targets = mixer.apply(images, LABELS, drawn)
    torch.testing.assert_close(out, torch.cat(views), rtol=0, atol=1e-6)
    assert torch.equal(targets, torch.cat([mixed_targets, mixed_targets]))
    assert not torch.equal(out[:5], out[5:]), "both views are equal"
    # The same params give the same result, even with another mixer and after other draws.
    mixer.sample(5, 14, 9, generator(99))
    assert torch.equal(out, mixer.apply(images, LABELS, drawn)[0])
    assert torch.equal(out, ResizeMixPlus(4).apply(images, LABELS, drawn)[0])


def test_draws_depend_only_on_generator():
    state = torch.get_rng_state()
    first, again, other = (ResizeMixPlus(4)(pictures(), LABELS, generator(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state()), "the global generator was changed"


def test_operations_are_drawn_uniformly():
    mixer, gen, counts = ResizeMixPlus(4), generator(), torch.zeros(15)
    for _ in range(1500):
        for view in mixer.sample(1, 8, 8, gen).views:
            for item in view:
                counts[int(item.name.rsplit("_", 1)[1])] += 1
    # 6,000 draws, 400 expected for each operation, with a standard deviation below 20.
    assert counts.sum() == 6000 and counts.min() > 320 and counts.max() < 480


def test_operations_use_magnitude_14_by_default():
    mixer, gen, seen = ResizeMixPlus(4), generator(), {}
    for _ in range(120):
        for view in mixer.sample(64, 100, 200, gen).views:
            for item in view:
                seen[item.data[0].name.rsplit("_", 1)[0]] = item.data[0].data
    assert len(seen) == 15
    assert seen["Rotate"]["degrees"].abs().unique().tolist() == pytest.approx([14.0])
    assert set(seen["Rotate"]["degrees"].sign().tolist()) == {-1.0, 1.0}
    assert seen["ShearX"]["shear_x"].abs().unique().tolist() == pytest.approx([25.2])
    assert seen["TranslateX"]["translate_x"].abs().unique().tolist() == pytest.approx([200 * 1.4 / 30])
    assert seen["TranslateY"]["translate_y"].abs().unique().tolist() == pytest.approx([100 * 1.4 / 30])
    for name, key in (("Contrast", "contrast_factor"), ("Brightness", "brightness_factor"), ("Sharpness", "sharpness")):
        assert seen[name][key].unique().tolist() == pytest.approx([0.94])
    assert seen["Posterize"]["bits_factor"].unique().tolist() == [6]
    assert seen["Solarize"]["thresholds"].unique().tolist() == pytest.approx([14 / 30])
    assert seen["SolarizeAdd"]["additions"].unique().tolist() == pytest.approx([0.43 * 14 / 30])


@pytest.mark.parametrize("seed", range(6))
def test_normalized_images_are_augmented_like_pixels(seed):
    # Integer grey levels, so posterize and equalize get the same input in both forms.
    pixels = pictures(dtype=torch.uint8)
    normalized = (pixels.float() / 255 - per_channel(MEAN)) / per_channel(STD)
    drawn = ResizeMixPlus(4).sample(5, 14, 9, generator(seed))
    plain, _ = ResizeMixPlus(4).apply(pixels.float() / 255, LABELS, drawn)
    out, _ = ResizeMixPlus(4, mean=MEAN, std=STD).apply(normalized, LABELS, drawn)
    difference = (out * per_channel(STD) + per_channel(MEAN) - plain).abs()
    # Values at a threshold may fall on either side.
    assert (difference > 1e-5).float().mean() < 0.02
    levels, _ = ResizeMixPlus(4).apply(pixels, LABELS, drawn)
    assert levels.dtype == torch.uint8
    assert (levels.float() - plain * 255).abs().max() <= 0.501


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_dtype_and_memory_format_are_kept(dtype, channels_last):
    images = pictures(dtype=dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    out, targets = ResizeMixPlus(4, views=3)(images, LABELS, generator())
    assert out.dtype == dtype and out.shape == (15, 3, 14, 9) and targets.shape == (15, 4)
    assert out.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert torch.equal(images, before)
    assert out.float().min() >= 0 and out.float().max() <= (255 if dtype == torch.uint8 else 1)


@pytest.mark.parametrize("count", [0, 1])
def test_empty_and_single_image_batches(count):
    out, targets = ResizeMixPlus(4)(pictures(count), LABELS[:count], generator())
    assert len(out) == len(targets) == 2 * count


def test_gradients_pass_through_rotation():
    images = pictures().requires_grad_()
    mixer = ResizeMixPlus(4, views=1, num_ops=1)
    for seed in range(30):
        drawn = mixer.sample(5, 14, 9, generator(seed))
        if drawn.views[0][0].data[0].name.startswith("Rotate"):
            mixer.apply(images, LABELS, drawn)[0].sum().backward()
            assert images.grad.abs().sum() > 0
            return
    raise AssertionError("no rotation in 30 draws")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResizeMixPlus(4, num_ops=0), "num_ops=0"),
        (lambda: ResizeMixPlus(4, num_ops=16), "num_ops=16"),
        (lambda: ResizeMixPlus(4, magnitude=30), "magnitude=30"),
        (lambda: ResizeMixPlus(4, views=0), "views=0"),
        (lambda: ResizeMixPlus(4, mean=MEAN), "pass both"),
        (lambda: ResizeMixPlus(4, mean=MEAN, std=(0.1, 0.1)), "three numbers"),
        (lambda: ResizeMixPlus(4, mean=MEAN, std=(0.1, 0.0, 0.1)), "std above 0"),
        (lambda: ResizeMixPlus(4, scale=(0.5, 0.1)), "scale="),
        (lambda: ResizeMixPlus(4)(torch.rand(2, 1, 8, 8), LABELS[:2]), r"takes \(B,3,H,W\)"),
        (lambda: ResizeMixPlus(4)(torch.rand(2, 3, 2, 8), LABELS[:2]), "sides of at least 3"),
        (lambda: ResizeMixPlus(4).apply(pictures(2), LABELS[:2], ResizeMixPlus(4).sample(3, 14, 9)), "drawn for 3"),
    ],
)
def test_resizemix_plus_refuses_invalid_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_resizemix_plus_works_in_build_and_mix_choice():
    mixer = mixers.build("ResizeMixPlus", num_classes=7, mean=MEAN, std=STD, views=3)
    assert isinstance(mixer, ResizeMixPlus) and (mixer.num_classes, mixer.mean, mixer.std) == (7, MEAN, STD)
    choice = mixers.build(
        "MixChoice", num_classes=4, mean=MEAN, std=STD, mixers=[{"type": "ResizeMixPlus"}], probs=[0.5]
    )
    assert choice.mixers[0].std == STD
    choice = MixChoice([ResizeMixPlus(4), MixUp(4)], probs=[0.5, 0.5])
    for seed in range(8):
        drawn = choice.sample(5, 14, 9, generator(seed))
        out, targets = choice.apply(pictures(), LABELS, drawn)
        assert len(out) == len(targets) == (10, 5)[drawn.index]


SMALL_LABELS = torch.tensor([0, 1, 2, 3])


def test_resizemix_plus_requires_mean_and_std_if_normalized():
    with pytest.raises(ValueError, match="pass ResizeMixPlus the mean and std"):
        ResizeMixPlus(4)(SMALL * 4 - 2, SMALL_LABELS)
    with pytest.raises(ValueError, match=r"torch\.int64: ResizeMixPlus takes uint8"):
        ResizeMixPlus(4)((SMALL * 255).long(), SMALL_LABELS)
    assert len(ResizeMixPlus(4)(SMALL, SMALL_LABELS)[0]) == 8
