"""MixChoice: its shares, and what it refuses."""

import pytest
import torch

from dali_mix.mixers import CutMix, Cutout, MixChoice, MixUp
from tests.mixers.drawing import generator

IMAGES = torch.rand(4, 3, 6, 5, generator=generator(0))


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
        choice.apply(IMAGES, torch.arange(4), choice.sample(3, 6, 5, generator(0)))


def test_choice_of_mixers_that_leave_targets_alone():
    labels = torch.tensor([0, 1, 2, 3])
    assert MixChoice([Cutout(2)], probs=[0.5])(IMAGES, labels, generator(0))[1] is labels


def test_choice_refuses_different_ways_of_combining():
    class Union(CutMix):
        combine = "union"

    with pytest.raises(ValueError, match=r"CutMix: area, Union: union"):
        MixChoice([CutMix(2), Union(2)], probs=[0.5, 0.5])


class Plain(CutMix):
    """By a third party: `apply` knows nothing of `inplace`."""

    def apply(self, images, targets, params):
        return super().apply(images, targets, params)


@pytest.mark.parametrize("seed", range(4))
def test_a_mixer_without_inplace_is_one_of_a_choice(seed):
    labels = torch.tensor([0, 1, 2, 3])
    (ours, targets), (theirs, their_targets) = (
        MixChoice([kind(4), MixUp(4)], [0.8, 0.2])(IMAGES, labels, generator(seed)) for kind in (CutMix, Plain)
    )
    assert torch.equal(ours, theirs) and torch.equal(targets, their_targets)
    assert not MixChoice([Plain(4), MixUp(4)], [0.5, 0.5]).in_place


@pytest.mark.parametrize(
    ("mixers", "probs", "message"),
    [
        ([], [], "one share per mixer"),
        ([CutMix(2)], [0.5, 0.5], "1 mixers, 2 probs"),
        ([CutMix(2)], [1.5], r"probs=1\.5: must be a finite number from 0 to 1"),
        ([CutMix(2), MixUp(2)], [0.5, 0.6], "sum to at most 1"),
        ([CutMix(2), MixUp(2)], [-0.5, 0.5], r"probs=-0\.5: must be a finite number from 0 to 1"),
        ([CutMix(2)], [float("nan")], "probs=nan: must be a finite number from 0 to 1"),
        ([CutMix(2)], ["1"], "probs='1'"),
        ([CutMix(2), MixUp(3)], [0.5, 0.5], "different num_classes"),
        (CutMix(2), [0.5], "a list of mixers"),
        ([CutMix], [0.5], "MixChoice holds mixers"),
    ],
)
def test_choice_refuses(mixers, probs, message):
    with pytest.raises(ValueError, match=message):
        MixChoice(mixers, probs)
