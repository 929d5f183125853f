"""Behaviour common to all mixers: draws, batch sizes, pairs, gradients, rejected input."""

import functools

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from dali_mix.mixers import CutMix, Cutout, MixChoice, Mixer, MixUp, ResizeMix, SaliencyMix, SpliceMix
from tests.mixers.batches import batch
from tests.mixers.drawing import SMALL, generator
from tests.mixers.every import INPLACE, MAKERS, images, seeded


@pytest.mark.parametrize("mixer", [CutMix(4), ResizeMix(4), ResizeMix(4, interpolation="bilinear"), MixUp(4)])
def test_gradients_match_finite_differences(mixer):
    # The gradient of each output pixel must reach its source pixels; compare with finite differences.
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


@pytest.mark.parametrize("kind", [CutMix, ResizeMix])
def test_images_have_different_boxes_by_default(kind):
    assert len(kind(10).sample(64, HEIGHT, WIDTH, generator()).boxes.unique(dim=0)) > 10


@pytest.mark.parametrize("per_batch", [False, True])
@pytest.mark.parametrize("batch_size", [0, 1, 3])
@pytest.mark.parametrize(
    "kind", [CutMix, ResizeMix, MixUp, functools.partial(ResizeMix, interpolation="bilinear")], ids=str
)
def test_mixers_accept_any_batch_size(kind, batch_size, per_batch):
    images, labels = torch.rand(batch_size, 3, 9, 5), torch.arange(batch_size)
    mixed, targets = kind(4, per_batch=per_batch)(images, labels, generator())
    assert mixed.shape == images.shape
    assert targets.shape == (batch_size, 4)
    torch.testing.assert_close(targets.sum(1), torch.ones(batch_size))


@pytest.mark.parametrize("mixer", [CutMix(2), ResizeMix(2), MixUp(2), Cutout(16)], ids=repr)
def test_mixers_accept_one_pixel_images(mixer):
    mixed, _ = mixer(torch.rand(4, 3, 1, 1), torch.tensor([0, 1, 0, 1]), generator())
    assert mixed.shape == (4, 3, 1, 1)


@pytest.mark.parametrize("mixer", [CutMix(4), ResizeMix(4), MixUp(4)], ids=repr)
def test_sample_depends_on_generator(mixer):
    first, again, other = (mixer.sample(16, HEIGHT, WIDTH, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.lam, again.lam)
    assert torch.equal(first.permutation, again.permutation)
    assert not torch.equal(first.lam, other.lam)


@pytest.mark.parametrize("name", MAKERS)
def test_mixing_does_not_change_global_generator(name):
    state = torch.get_rng_state()
    MAKERS[name]()(images(), torch.arange(4), generator())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", MAKERS)
def test_params_are_on_requested_device(name):
    drawn = MAKERS[name]().sample(4, HEIGHT, WIDTH, generator(3), device="meta")
    on_cpu = MAKERS[name]().sample(4, HEIGHT, WIDTH, generator(3))
    drawn, on_cpu = getattr(drawn, "params", drawn), getattr(on_cpu, "params", on_cpu)
    drawn, on_cpu = getattr(drawn, "paste", drawn), getattr(on_cpu, "paste", on_cpu)
    tensors = {name: value for name, value in vars(drawn).items() if torch.is_tensor(value)}
    assert tensors, drawn
    for name, value in tensors.items():
        assert value.is_meta
        assert (value.shape, value.dtype) == (getattr(on_cpu, name).shape, getattr(on_cpu, name).dtype)


def test_params_dtypes_and_shapes():
    drawn = ResizeMix(4).sample(6, HEIGHT, WIDTH, generator())
    assert (drawn.permutation.dtype, drawn.boxes.dtype, drawn.lam.dtype) == (torch.int64, torch.int64, torch.float32)
    assert (drawn.permutation.shape, drawn.boxes.shape, drawn.lam.shape) == ((6,), (6, 4), (6,))


@pytest.mark.parametrize(("batch_size", "height", "width"), [(-1, 4, 4), (2, 0, 4), (2, 4, 0)])
@pytest.mark.parametrize("name", MAKERS)
def test_sample_refuses_impossible_sizes(name, batch_size, height, width):
    with pytest.raises(ValueError, match="cannot mix"):
        MAKERS[name]().sample(batch_size, height, width, generator())


def test_mixer_without_sample_or_draw_raises():
    class Half(Mixer):
        def apply(self, images, targets, params):
            return images, targets

    with pytest.raises(NotImplementedError, match="Half has neither a method sample nor draw"):
        Half().sample(2, 4, 4)


FOUR = torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(
    "labels", [FOUR, torch.eye(4), torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.int64)]
)
@pytest.mark.parametrize("name", MAKERS)
def test_mixing_does_not_change_callers_labels(name, labels):
    """See Megvii-BaseDetection/YOLOX#275 and kornia/kornia#3077."""
    given, batch = labels.clone(), images()
    for seed in range(3):
        MAKERS[name]()(batch, given, seeded(seed))
        assert torch.equal(given, labels) and torch.equal(batch, images())


@pytest.mark.parametrize("pack", [tuple, list, default_collate], ids=["tuple", "list", "collated"])
@pytest.mark.parametrize("name", MAKERS)
def test_mixers_accept_images_and_targets_as_pair(name, pack):
    mixer = MAKERS[name]()
    pair = list(zip(images(), FOUR, strict=True)) if pack is default_collate else (images(), FOUR)
    given = pack(pair)
    result = mixer(given, generator=seeded())
    wanted = mixer(images(), FOUR, seeded())
    assert type(result) is tuple and len(result) == 2
    assert all(torch.equal(one, other) for one, other in zip(result, wanted, strict=True))
    assert torch.equal(given[0], images())


def test_mixer_works_in_collate_function():
    mixer = CutMix(4)
    loader = DataLoader(
        TensorDataset(images(), FOUR), batch_size=2, collate_fn=lambda samples: mixer(default_collate(samples))
    )
    for mixed, targets in loader:
        assert mixed.shape == (2, 3, 12, 9) and targets.shape == (2, 4)


@pytest.mark.parametrize("name", INPLACE)
def test_pair_is_mixed_in_place(name):
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
def test_invalid_pair_is_refused(name, given, message):
    with pytest.raises(ValueError, match=message):
        MAKERS[name]()(given)


IMAGES = torch.rand(4, 3, 6, 5, generator=generator(0))


def test_combine_is_area():
    assert {mixer.combine for mixer in (CutMix(2), ResizeMix(2), MixUp(2), Cutout(2))} == {"area"}


def test_mismatched_batches_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 6, 5\)"):
        CutMix(2)(IMAGES[0], torch.tensor([0]), generator(0))
    with pytest.raises(ValueError, match="4 images, 3 targets"):
        CutMix(2)(IMAGES, torch.tensor([0, 1, 0]), generator(0))
    with pytest.raises(ValueError, match="drawn for 2"):
        CutMix(2).apply(IMAGES, torch.tensor([0, 1, 0, 1]), CutMix(2).sample(2, 6, 5, generator(0)))


@pytest.mark.parametrize("kind", [CutMix, MixUp])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"num_classes": 10.0}, "num_classes=10.0: must be an integer"),
        ({"num_classes": True}, "num_classes=True"),
        ({"alpha": 0}, "alpha=0"),
        ({"alpha": "1"}, "alpha='1': must be a number"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"alpha": float("inf")}, "alpha=inf"),
        ({"per_batch": "False"}, "per_batch='False': must be True or False"),
    ],
)
def test_invalid_options_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**{"num_classes": 10, **options})


def test_repr_shows_options():
    assert repr(CutMix(10, alpha=0.5)) == "CutMix(num_classes=10, alpha=0.5, per_batch=False)"


@pytest.mark.parametrize(
    "mixer", [CutMix(3), ResizeMix(3), MixUp(3), SaliencyMix(3, mean=(0, 0, 0), std=(1, 1, 1))], ids=repr
)
def test_wrong_targets_do_not_change_images_in_place(mixer):
    images = torch.rand(2, 3, 9, 7)
    before = images.clone()
    with pytest.raises(ValueError, match="class indices span"):
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
def test_inplace_changes_the_given_images(mixer):
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
@pytest.mark.parametrize("mixer", [CutMix(4), MixUp(4), SpliceMix(num_classes=4)], ids=repr)
def test_invalid_images_or_targets_are_refused(mixer, images, targets, message):
    with pytest.raises(ValueError, match=message):
        mixer(images, targets)
