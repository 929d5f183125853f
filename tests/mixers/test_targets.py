"""Targets of every kind through the mixers, MixChoice, and mixers by name."""

import pytest
import torch

from dali_mix import mixers
from dali_mix.mixers import CutMix, Cutout, MixChoice, MixUp, MixUpParams, ResizeMix, kernels
from dali_mix.mixers.kernels import numba_per_image
from dali_mix.mixers.ops.targets import mix_area, mix_union, to_soft


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


IMAGES = torch.rand(4, 3, 6, 5, generator=generator())
HALF = MixUpParams(torch.tensor([1, 0, 3, 2]), torch.tensor([0.5, 1.0, 0.0, 0.25]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_class_numbers_become_rows(dtype):
    soft = to_soft(torch.tensor([2, 0], dtype=dtype), 3)
    assert torch.equal(soft, torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    assert soft.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.int64])
def test_rows_keep_their_rank(dtype):
    rows = torch.tensor([[1, 0, 0], [0, 1, 1]], dtype=dtype)
    assert torch.equal(to_soft(rows, 3), rows.float())


@pytest.mark.parametrize(
    ("targets", "num_classes", "message"),
    [
        (torch.tensor([0, 3]), 3, r"0 … 3, outside 0 … 2"),
        (torch.tensor([-1, 2]), 3, r"-1 … 2, outside"),
        (torch.tensor([0.0, 1.0]), 3, r"float32"),
        (torch.tensor([True, False]), 3, r"bool"),
        (torch.zeros(2, 4), 3, r"4 columns.*num_classes=3"),
        (torch.zeros(2, 2, 3), 3, r"\(2, 2, 3\)"),
        (torch.tensor([0, 1]), None, r"without num_classes"),
    ],
)
def test_targets_that_cannot_be_mixed(targets, num_classes, message):
    with pytest.raises(ValueError, match=message):
        MixUp(num_classes)(IMAGES[:2], targets, generator())


def test_soft_targets_are_averaged():
    soft = torch.tensor([[0.9, 0.1], [0.2, 0.8], [1.0, 0.0], [0.4, 0.6]])
    _, mixed = MixUp(2).apply(IMAGES, soft, HALF)
    torch.testing.assert_close(mixed, torch.tensor([[0.55, 0.45], [0.2, 0.8], [0.4, 0.6], [0.85, 0.15]]))


def test_area_keeps_an_ignored_entry_ignored_while_its_image_is_seen():
    hot = torch.tensor([[1.0, -1, 0], [-1, 0, 1], [1, 1, -1], [-1, 0, 0]])
    mixed = mix_area(hot, HALF.permutation, HALF.lam)
    # Row 1 shows only itself (lam 1), row 2 only its partner (lam 0).
    wanted = torch.tensor([[-1, -1, 0.5], [-1, 0, 1], [-1, 0, 0], [-1, 0.75, -1]])
    assert torch.equal(mixed, wanted)


def test_union_shows_what_either_shows():
    first = torch.tensor([1.0, 1, 1, 0, 0, 0, -1, -1, -1])
    second = torch.tensor([1.0, 0, -1, 1, 0, -1, 1, 0, -1])
    assert torch.equal(mix_union(first, second), torch.tensor([1.0, 1, 1, 1, 0, -1, 1, -1, -1]))


def test_every_mixer_says_how_targets_combine():
    assert {mixer.combine for mixer in (CutMix(2), ResizeMix(2), MixUp(2), Cutout(2))} == {"area"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CutMix(0), "num_classes=0"),
        (lambda: CutMix(2, alpha=0), "alpha=0"),
        (lambda: MixUp(2, alpha=float("nan")), "alpha=nan"),
        (lambda: ResizeMix(2, scale=(0.8, 0.1)), "scale="),
        (lambda: ResizeMix(2, scale=(0.0, 0.5)), "scale="),
        (lambda: ResizeMix(2, scale=(0.5, 1.5)), "scale="),
        (lambda: ResizeMix(2, interpolation="cubic"), "cubic"),
        (lambda: Cutout(0), "size=0"),
        (lambda: MixChoice([], []), "one share per mixer"),
        (lambda: MixChoice([CutMix(2)], [0.5, 0.5]), "1 mixers, 2 probs"),
        (lambda: MixChoice([CutMix(2)], [1.5]), "sum to at most 1"),
        (lambda: MixChoice([CutMix(2), MixUp(2)], [-0.5, 0.5]), "≥ 0"),
        (lambda: MixChoice([CutMix(2)], [float("nan")]), "≥ 0"),
        (lambda: MixChoice([CutMix(2), MixUp(3)], [0.5, 0.5]), "different num_classes"),
    ],
)
def test_constructors_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_batches_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(3, 6, 5\)"):
        CutMix(2)(IMAGES[0], torch.tensor([0]), generator())
    with pytest.raises(ValueError, match="4 images, 3 targets"):
        CutMix(2)(IMAGES, torch.tensor([0, 1, 0]), generator())
    with pytest.raises(ValueError, match="drawn for 2"):
        CutMix(2).apply(IMAGES, torch.tensor([0, 1, 0, 1]), CutMix(2).sample(2, 6, 5, generator()))


def test_choice_draws_its_shares():
    choice = MixChoice([CutMix(4), MixUp(4)], probs=[0.5, 0.2])
    gen = generator(5)
    drawn = [choice.sample(1, 4, 4, gen).index for _ in range(10_000)]
    shares = [drawn.count(index) / len(drawn) for index in (0, 1, -1)]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.015)


def test_choice_does_what_it_chose():
    choice = MixChoice([CutMix(4), MixUp(4), Cutout(2)], probs=[0.3, 0.3, 0.2])
    labels = torch.tensor([0, 1, 2, 3])
    seen = set()
    for seed in range(40):
        drawn = choice.sample(4, 6, 5, generator(seed))
        mixed, targets = choice.apply(IMAGES, labels, drawn)
        assert targets.shape == (4, 4) and targets.dtype == torch.float32
        if drawn.index == -1:
            assert torch.equal(mixed, IMAGES)
            assert torch.equal(targets, torch.eye(4))
        else:
            wanted, _ = choice.mixers[drawn.index].apply(IMAGES, labels, drawn.params)
            assert torch.equal(mixed, wanted)
        seen.add(drawn.index)
    assert seen == {-1, 0, 1, 2}


def test_choice_refuses_params_of_another_batch_also_where_it_mixes_nothing():
    choice = MixChoice([CutMix(4)], probs=[0.0])
    with pytest.raises(ValueError, match="drawn for 3"):
        choice.apply(IMAGES, torch.arange(4), choice.sample(3, 6, 5, generator()))


def test_choice_of_mixers_that_leave_targets_alone():
    labels = torch.tensor([0, 1, 2, 3])
    assert MixChoice([Cutout(2)], probs=[0.5])(IMAGES, labels, generator())[1] is labels


def test_choice_refuses_different_ways_of_combining():
    class Union(CutMix):
        combine = "union"

    with pytest.raises(ValueError, match=r"CutMix: area, Union: union"):
        MixChoice([CutMix(2), Union(2)], probs=[0.5, 0.5])


def test_build_by_name():
    mixer = mixers.build("resizemix", num_classes=7, scale=(0.2, 0.3))
    assert isinstance(mixer, ResizeMix) and mixer.num_classes == 7 and mixer.scale == (0.2, 0.3)
    assert isinstance(mixers.build("Cutout", num_classes=7, size=4), Cutout)
    choice = mixers.build(
        "MixChoice",
        num_classes=7,
        mixers=[{"type": "CutMix", "alpha": 0.5}, {"type": "cutout", "size": 2}],
        probs=[0.5, 0.1],
    )
    assert [type(member) for member in choice.mixers] == [CutMix, Cutout]
    assert choice.num_classes == 7 and choice.mixers[0].alpha == 0.5
    assert set(mixers.MIXERS) >= {"CutMix", "ResizeMix", "MixUp", "Cutout", "MixChoice"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resizmix", {}, r"no mixer is called 'resizmix' \(did you mean ResizeMix"),
        ("zzzzzz", {}, r"there are CutMix, ResizeMix"),
        ("CutMix", {"aplha": 1.0}, r"aplha.*it takes num_classes, alpha, per_batch"),
        ("Cutout", {}, r"size"),
        ("MixChoice", {"mixers": [{"alpha": 1.0}], "probs": [1.0]}, r"no type"),
    ],
)
def test_build_refuses(name, options, message):
    with pytest.raises(ValueError, match=message):
        mixers.build(name, num_classes=4, **options)


def test_options_are_readable():
    assert repr(CutMix(10, alpha=0.5)) == "CutMix(num_classes=10, alpha=0.5, per_batch=False)"


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_class_numbers_mix_as_their_rows_do(dtype):
    gen = torch.Generator().manual_seed(5)
    labels, permutation = torch.randint(5, (4000,), generator=gen), torch.randperm(4000, generator=gen)
    lam = torch.rand(4000, generator=gen)
    lam[:200], lam[200:400] = 0, 1
    permutation[400:410] = torch.arange(400, 410)
    mixed = mix_area(labels.to(dtype), permutation, lam, 5)
    assert torch.equal(mixed, mix_area(torch.eye(5)[labels], permutation, lam))
    equal = labels == labels[permutation]
    assert torch.equal(mixed[equal], torch.eye(5)[labels[equal]]), "exactly 1 where both are of a class"
    places = torch.arange(4000)[~equal]
    assert torch.equal(mixed[places, labels[~equal]], lam[~equal])
    assert torch.equal(mixed[places, labels[permutation][~equal]], (1 - lam)[~equal])


def test_class_numbers_mix_with_and_without_loops_alike(monkeypatch):
    gen = torch.Generator().manual_seed(6)
    labels, permutation = torch.randint(5, (60,), generator=gen), torch.randperm(30, generator=gen)
    given = labels[::2], permutation, torch.rand(60, generator=gen)[::2]  # two of them strided
    assert kernels.pick("mix_classes", labels[:30], given[2]) is numba_per_image.mix_classes
    mixed = mix_area(*given, 5)
    assert mixed.dtype == torch.float32
    monkeypatch.setattr(kernels, "_load", lambda name: None)
    assert torch.equal(mixed, mix_area(*given, 5))


@pytest.mark.parametrize("partners", [[1, 2], [5, 0], [0, -3]])
@pytest.mark.parametrize("loops", [True, False])
def test_partners_that_do_not_exist_are_refused(partners, loops, monkeypatch):
    if not loops:
        monkeypatch.setattr(kernels, "_load", lambda name: None)
    with pytest.raises(ValueError, match=r"permutation must name images 0 … 1"):
        mix_area(torch.tensor([0, 1]), torch.tensor(partners), torch.rand(2), 3)


@pytest.mark.parametrize("targets", [torch.tensor([0, 1, 2]), torch.eye(3)])
@pytest.mark.parametrize(("partners", "shares"), [(2, 3), (3, 2), (4, 3), (3, 1)])
def test_mix_area_refuses_other_numbers_of_samples(targets, partners, shares):
    with pytest.raises(ValueError, match="do not fit 3 targets"):
        mix_area(targets, torch.zeros(partners, dtype=torch.long), torch.rand(shares), 3)


def test_class_numbers_mixed_pass_gradients_to_their_shares():
    lam = torch.tensor([0.25, 0.5, 0.75], requires_grad=True)
    mixed = mix_area(torch.tensor([0, 1, 1]), torch.tensor([1, 2, 0]), lam, 3)
    (mixed * torch.tensor([1.0, 10, 100])).sum().backward()
    assert lam.grad.tolist() == [-9, 0, 9]


@pytest.mark.parametrize(
    ("targets", "classes", "message"),
    [
        (torch.tensor([0, 3]), 3, "class numbers span 0 … 3, outside 0 … 2"),
        (torch.tensor([0, -1]), 3, "class numbers span -1 … 0"),
        (torch.tensor([0, 1]), None, "without num_classes"),
        (torch.tensor([0.0, 1.0]), 3, "torch.float32"),
        (torch.zeros(2, 4), 3, "4 columns"),
    ],
)
def test_mix_area_refuses(targets, classes, message):
    with pytest.raises(ValueError, match=message):
        mix_area(targets, torch.tensor([1, 0]), torch.rand(2), classes)


def test_wrong_targets_leave_the_images_as_they_were():
    for mixer in (CutMix(3), ResizeMix(3), MixUp(3), mixers.SaliencyMix(3, mean=(0, 0, 0), std=(1, 1, 1))):
        images = torch.rand(2, 3, 9, 7)
        before = images.clone()
        with pytest.raises(ValueError, match="class numbers span"):
            mixer(images, torch.tensor([0, 3]), inplace=True)
        assert torch.equal(images, before)
