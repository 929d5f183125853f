"""CutMix, ResizeMix, MixUp and Cutout against per-pixel loops, with injected draws, on images that are not square."""

import pytest
import torch

from dali_mix.mixers import CutMix, Cutout, CutoutParams, MixUp, MixUpParams, PasteParams, ResizeMix
from dali_mix.mixers.kernels import torch_paste
from tests.mixers import oracles

HEIGHT, WIDTH = 11, 7
PERMUTATION = [2, 0, 1, 3, 4]
# A corner, a full-width band, the whole image, one pixel, nothing.
BOXES = [[0, 0, 4, 3], [5, 0, 3, 7], [0, 0, 11, 7], [10, 6, 1, 1], [3, 2, 0, 0]]
LABELS = [0, 3, 1, 2, 3]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.uint8]


def pictures(count=5, dtype=torch.float32, channels_last=False):
    images = torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))
    images = (images * 255).to(dtype) if dtype == torch.uint8 else (images * 4 - 2).to(dtype)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def params(boxes=BOXES):
    boxes = torch.tensor(boxes)
    lam = 1 - (boxes[:, 2] * boxes[:, 3]).double() / (HEIGHT * WIDTH)
    return PasteParams(torch.tensor(PERMUTATION), boxes, lam.float())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cutmix_equals_the_loop(dtype, channels_last):
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
    # What runs on a GPU, run here: the same to the bit.
    gathered = torch_paste.paste(images, params().permutation, params().boxes)
    assert torch.equal(gathered, wanted)
    assert gathered.stride() == images.stride()


NOT_EMPTY = [*BOXES[:4], [2, 1, 9, 5]]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_resizemix_nearest_equals_the_loop(dtype, channels_last):
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


@pytest.mark.parametrize("full", [26, 62, 224, 256])
def test_resizemix_nearest_takes_the_pixels_torch_takes(full):
    # Sides where torch's float32 ratio and the integer quotient differ are among these.
    ramp = torch.arange(full, dtype=torch.float32)
    for size in range(1, full + 1):
        wanted = torch.nn.functional.interpolate(ramp[None, None], size=size, mode="nearest")[0, 0]
        ours = torch_paste.nearest_source(torch.arange(size), torch.tensor(size), full)
        assert torch.equal(ramp[ours], wanted), (full, size)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.uint8, 0.5001)]
)
def test_resizemix_bilinear_equals_the_loop(dtype, within, channels_last):
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


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float32, 5e-7), (torch.float16, 1e-3), (torch.bfloat16, 8e-3), (torch.uint8, 0.5001)]
)
def test_mixup_equals_the_loop(dtype, within, channels_last):
    images = pictures(dtype=dtype, channels_last=channels_last)
    before = images.clone()
    lam = [0.3, 1.0, 0.0, 0.75, 0.5]
    drawn = MixUpParams(torch.tensor(PERMUTATION), torch.tensor(lam))
    mixed, targets = MixUp(4).apply(images, torch.tensor(LABELS), drawn)
    wanted = oracles.mixup(images, PERMUTATION, drawn.lam.double().tolist())
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed.double(), wanted, rtol=0, atol=within)
    assert torch.equal(mixed[1], images[1]), "lam = 1 keeps the image to the bit"
    assert torch.equal(mixed[2], images[1]), "lam = 0 takes the partner to the bit"
    assert torch.equal(images, before)
    assert mixed.stride() == images.stride()
    wanted_targets = oracles.targets_area(LABELS, PERMUTATION, drawn.lam.double().tolist(), 4)
    torch.testing.assert_close(targets.double(), wanted_targets, rtol=0, atol=1e-7)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cutout_equals_the_loop(dtype, channels_last):
    images = pictures(dtype=dtype, channels_last=channels_last)
    before = images.clone()
    labels = torch.tensor(LABELS)
    mixed, targets = Cutout(4).apply(images, labels, CutoutParams(torch.tensor(BOXES)))
    assert mixed.dtype == dtype
    assert torch.equal(mixed, oracles.cutout(images, BOXES))
    assert torch.equal(images, before)
    assert mixed.stride() == images.stride()
    assert targets is labels


@pytest.mark.parametrize("mixer", [CutMix(4), ResizeMix(4), ResizeMix(4, interpolation="bilinear"), MixUp(4)])
def test_gradients_pass(mixer):
    # Each output pixel's gradient must arrive at the pixels it came from: checked by finite differences.
    generator = torch.Generator().manual_seed(5)
    drawn = mixer.sample(3, 5, 4, generator)
    images = torch.rand(3, 1, 5, 4, generator=generator, requires_grad=True)
    labels = torch.tensor([0, 1, 2])
    mixed, _ = mixer.apply(images, labels, drawn)
    weights = torch.rand(mixed.shape, generator=generator)
    (mixed * weights).sum().backward()
    base = images.detach()
    with torch.no_grad():
        for index in range(0, base.numel(), 7):
            moved = base.clone()
            moved.view(-1)[index] += 1.0
            change = ((mixer.apply(moved, labels, drawn)[0] - mixed) * weights).sum()
            torch.testing.assert_close(images.grad.view(-1)[index], change, rtol=1e-4, atol=1e-5)


def test_soft_targets_may_carry_gradients():
    soft = torch.rand(5, 4, requires_grad=True)
    _, targets = CutMix(4).apply(pictures(), soft, params())
    targets.sum().backward()
    assert soft.grad is not None


def test_a_share_may_carry_gradients():
    images, lam = pictures(), torch.full((5,), 0.25, requires_grad=True)
    mixed, _ = MixUp(4).apply(images, torch.tensor(LABELS), MixUpParams(torch.tensor(PERMUTATION), lam))
    mixed.sum().backward()
    wanted = images.sum((1, 2, 3)) - images[PERMUTATION].sum((1, 2, 3))
    torch.testing.assert_close(lam.grad, wanted, rtol=1e-4, atol=1e-3)
