"""MixChoice: probabilities, chosen mixers and rejected arguments."""

from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
import torch

from dali_mix.mixers import CutMix, Cutout, MixChoice, Mixer, MixUp
from tests.mixers.drawing import generator

IMAGES = torch.rand(4, 3, 6, 5, generator=generator(0))


def test_choice_draws_mixers_with_their_probs():
    choice = MixChoice([CutMix(4), MixUp(4)], probs=[0.5, 0.2])
    gen = generator(5)
    drawn = [choice.sample(1, 4, 4, gen).index for _ in range(10_000)]
    shares = [drawn.count(index) / len(drawn) for index in (0, 1, -1)]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.015)


def test_choice_applies_drawn_mixer():
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


def test_choice_checks_batch_size_even_if_unmixed():
    choice = MixChoice([CutMix(4)], probs=[0.0])
    with pytest.raises(ValueError, match="drawn for 3"):
        choice.apply(IMAGES, torch.arange(4), choice.sample(3, 6, 5, generator(0)))


def test_choice_of_cutout_returns_targets_unchanged():
    labels = torch.tensor([0, 1, 2, 3])
    assert MixChoice([Cutout(2)], probs=[0.5])(IMAGES, labels, generator(0))[1] is labels


def test_choice_refuses_mixers_with_different_combine():
    class Union(CutMix):
        combine = "union"

    with pytest.raises(ValueError, match=r"CutMix: area, Union: union"):
        MixChoice([CutMix(2), Union(2)], probs=[0.5, 0.5])


class Plain(CutMix):
    """A third-party mixer whose `apply` has no `inplace` argument."""

    def apply(self, images, targets, params):
        return super().apply(images, targets, params)


@pytest.mark.parametrize("seed", range(4))
def test_choice_accepts_mixer_without_inplace(seed):
    labels = torch.tensor([0, 1, 2, 3])
    (ours, targets), (theirs, their_targets) = (
        MixChoice([kind(4), MixUp(4)], [0.8, 0.2])(IMAGES, labels, generator(seed)) for kind in (CutMix, Plain)
    )
    assert torch.equal(ours, theirs) and torch.equal(targets, their_targets)
    assert not MixChoice([Plain(4), MixUp(4)], [0.5, 0.5]).in_place


@pytest.mark.parametrize(
    ("mixers", "probs", "message"),
    [
        ([], [], "one probability per mixer"),
        ([CutMix(2)], [0.5, 0.5], "1 mixers, 2 probs"),
        ([CutMix(2)], [1.5], r"probs=1\.5: must be a finite number from 0 to 1"),
        ([CutMix(2), MixUp(2)], [0.5, 0.6], "sum to at most 1"),
        ([CutMix(2), MixUp(2)], [-0.5, 0.5], r"probs=-0\.5: must be a finite number from 0 to 1"),
        ([CutMix(2)], [float("nan")], "probs=nan: must be a finite number from 0 to 1"),
        ([CutMix(2)], ["1"], "probs='1'"),
        ([CutMix(2), MixUp(3)], [0.5, 0.5], "different num_classes"),
        (CutMix(2), [0.5], "lists of mixers"),
        ([CutMix], [0.5], "MixChoice takes mixers"),
    ],
)
def test_choice_refuses_invalid_arguments(mixers, probs, message):
    with pytest.raises(ValueError, match=message):
        MixChoice(mixers, probs)


@dataclass(slots=True)
class Slots:
    lam: torch.Tensor
    other: torch.Tensor = field(init=False)


class Named(NamedTuple):
    lam: torch.Tensor


@pytest.mark.parametrize("method", ["sample", "draw"])
@pytest.mark.parametrize("kind", [Slots, Named, list, dict])
def test_params_of_any_type_are_on_requested_device(kind, method):
    def params(device):
        lam = torch.zeros(2, device=device)
        if kind is Slots:
            drawn = Slots(lam)
            drawn.other = lam
            return drawn
        return Named(lam) if kind is Named else [lam] if kind is list else {"lam": lam}

    methods = {
        "apply": lambda self, images, targets, params: (images, targets),
        "sample": lambda self, batch_size, height, width, generator, device: params(device),
        "draw": lambda self, batch_size, height, width, generator: params("cpu"),
    }
    own = type("Own", (Mixer,), {name: methods[name] for name in ("apply", method)})()
    drawn = MixChoice([own], [1.0]).sample(2, 4, 4, device="meta").params
    assert type(drawn) is kind
    parts = [drawn.lam, drawn.other] if kind is Slots else drawn.values() if kind is dict else drawn
    assert all(part.is_meta for part in parts)
