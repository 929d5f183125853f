"""What every mixer promises: draws, batch sizes, pairs, gradients, what is refused."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from dali_mix import mixers
from dali_mix.mixers import CutMix, Cutout, MixChoice, MixUp, ResizeMix, SpliceMix
from tests.mixers.batches import batch
from tests.mixers.drawing import SMALL, generator
from tests.mixers.every import INPLACE, MAKERS, images, seeded


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


HEIGHT, WIDTH = 48, 32


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


FOUR = torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(
    "labels", [FOUR, torch.eye(4), torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.int64)]
)
@pytest.mark.parametrize("name", MAKERS)
def test_labels_of_the_caller_are_left_alone(name, labels):
    """Megvii-BaseDetection/YOLOX#275, kornia/kornia#3077."""
    given, batch = labels.clone(), images()
    for seed in range(3):
        MAKERS[name]()(batch, given, seeded(seed))
        assert torch.equal(given, labels) and torch.equal(batch, images())


@pytest.mark.parametrize("pack", [tuple, list, default_collate], ids=["tuple", "list", "collated"])
@pytest.mark.parametrize("name", MAKERS)
def test_a_pair_as_one_argument(name, pack):
    mixer = MAKERS[name]()
    pair = list(zip(images(), FOUR, strict=True)) if pack is default_collate else (images(), FOUR)
    given = pack(pair)
    result = mixer(given, generator=seeded())
    wanted = mixer(images(), FOUR, seeded())
    assert type(result) is tuple and len(result) == 2
    assert all(torch.equal(one, other) for one, other in zip(result, wanted, strict=True))
    assert torch.equal(given[0], images())


def test_in_a_collate_function():
    mixer = CutMix(4)
    loader = DataLoader(
        TensorDataset(images(), FOUR), batch_size=2, collate_fn=lambda samples: mixer(default_collate(samples))
    )
    for mixed, targets in loader:
        assert mixed.shape == (2, 3, 12, 9) and targets.shape == (2, 4)


@pytest.mark.parametrize("name", INPLACE)
def test_a_pair_in_place(name):
    batch = images()
    mixed, _ = MAKERS[name]()([batch, FOUR], generator=seeded(), inplace=True)
    assert mixed is batch


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((images(), FOUR, FOUR), "3 values and no targets"),
        ([images()], "1 values and no targets"),
        (images(), r"a Tensor and no targets: call mixer\(images, targets\), or mixer\(\(images, targets\)\)"),
        ({"images": images(), "targets": FOUR}, "a dict and no targets"),
        ((FOUR, images()), "images have shape"),
        ((images(), None), "targets are a NoneType"),
    ],
)
@pytest.mark.parametrize("name", ["CutMix", "SpliceMix", "MixChoice"])
def test_what_is_no_pair(name, given, message):
    with pytest.raises(ValueError, match=message):
        MAKERS[name]()(given)


IMAGES = torch.rand(4, 3, 6, 5, generator=generator(0))


def test_every_mixer_says_how_targets_combine():
    assert {mixer.combine for mixer in (CutMix(2), ResizeMix(2), MixUp(2), Cutout(2))} == {"area"}


def test_batches_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(3, 6, 5\)"):
        CutMix(2)(IMAGES[0], torch.tensor([0]), generator(0))
    with pytest.raises(ValueError, match="4 images, 3 targets"):
        CutMix(2)(IMAGES, torch.tensor([0, 1, 0]), generator(0))
    with pytest.raises(ValueError, match="drawn for 2"):
        CutMix(2).apply(IMAGES, torch.tensor([0, 1, 0, 1]), CutMix(2).sample(2, 6, 5, generator(0)))


def test_options_are_readable():
    assert repr(CutMix(10, alpha=0.5)) == "CutMix(num_classes=10, alpha=0.5, per_batch=False)"


def test_wrong_targets_leave_the_images_as_they_were():
    for mixer in (CutMix(3), ResizeMix(3), MixUp(3), mixers.SaliencyMix(3, mean=(0, 0, 0), std=(1, 1, 1))):
        images = torch.rand(2, 3, 9, 7)
        before = images.clone()
        with pytest.raises(ValueError, match="class numbers span"):
            mixer(images, torch.tensor([0, 3]), inplace=True)
        assert torch.equal(images, before)


MIXERS = [
    CutMix(5),
    ResizeMix(5),
    ResizeMix(5, interpolation="bilinear"),
    MixUp(5),
    Cutout(6),
    MixChoice([CutMix(5), ResizeMix(5)], probs=[0.5, 0.5]),
]


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda mixer: type(mixer).__name__)
def test_inplace_option(mixer):
    images, labels = batch(6), torch.arange(6) % 5
    wanted, wanted_targets = mixer(images, labels, torch.Generator().manual_seed(4))
    kept = images.clone()
    mixed, targets = mixer(images, labels, torch.Generator().manual_seed(4), inplace=True)
    assert mixed is images
    assert not torch.equal(images, kept)
    assert torch.equal(mixed, wanted)
    assert torch.equal(targets, wanted_targets)
    with pytest.raises(ValueError, match="require gradients"):
        mixer(images.requires_grad_(), labels, torch.Generator().manual_seed(4), inplace=True)


SMALL_LABELS = torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (SMALL.numpy(), SMALL_LABELS, "images are a ndarray"),
        (list(SMALL), SMALL_LABELS, "images are a list"),
        (SMALL > 0.5, SMALL_LABELS, "torch.bool"),
        (SMALL, SMALL_LABELS.tolist(), "targets are a list"),
        (SMALL, torch.tensor(3), "targets are a single number"),
        (SMALL, SMALL_LABELS[:, None], r"squeeze\(1\)"),
    ],
)
def test_batches_refused(images, targets, message):
    for mixer in (CutMix(4), MixUp(4), SpliceMix(num_classes=4)):
        with pytest.raises(ValueError, match=message):
            mixer(images, targets)
