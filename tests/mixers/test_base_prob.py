"""`prob`: the probability that a mixer mixes a batch."""

import copy
from dataclasses import dataclass

import pytest
import torch

from dali_mix import mixers
from dali_mix.engine.train.objectives import SpliceMixConsistency
from dali_mix.mixers import CutMix, Cutout, MixChoice, Mixer, MixUp, ResizeMix, SaliencyMix, SpliceMix, Unmixed, build

IMAGES = torch.rand(8, 3, 12, 10, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 4
MAKE = {
    "CutMix": lambda **prob: CutMix(4, **prob),
    "ResizeMix": lambda **prob: ResizeMix(4, **prob),
    "MixUp": lambda **prob: MixUp(4, **prob),
    "Cutout": lambda **prob: Cutout(4, **prob),
    "SaliencyMix": lambda **prob: SaliencyMix(4, mean=[0.5], std=[0.5], **prob),
    "ResizeMixPlus": lambda **prob: mixers.ResizeMixPlus(4, **prob),
    "SpliceMix": lambda **prob: SpliceMix(num_classes=4, **prob),
    "MixChoice": lambda **prob: MixChoice([CutMix(4), MixUp(4)], [0.4, 0.4], **prob),
}


def generator(seed):
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class CountParams:
    count: int


class Dark(Mixer[CountParams]):
    """A third-party mixer without `inplace` whose attribute `prob` is not a constructor argument."""

    def __init__(self, num_classes):
        self.num_classes, self.prob = num_classes, 0.0

    def sample(self, batch_size, height, width, generator=None, device="cpu"):
        return CountParams(batch_size)

    def apply(self, images, targets, params):
        return images * 0, torch.nn.functional.one_hot(targets, self.num_classes).float()


def test_make_covers_every_registered_mixer():
    assert set(MAKE) == {name for name, kind in mixers.MIXERS.items() if not kind.takes_boxes}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", MAKE)
def test_prob_matches_mix_choice_of_one_mixer(name, seed):
    ours = MAKE[name](prob=0.5)(IMAGES, LABELS, generator(seed))
    choice = MixChoice([MAKE[name]()], probs=[0.5])(IMAGES, LABELS, generator(seed))
    assert torch.equal(ours[0], choice[0])
    assert torch.equal(ours[1], choice[1])
    assert ours[1].dtype == choice[1].dtype


@pytest.mark.parametrize("name", MAKE)
def test_prob_is_share_of_mixed_batches(name):
    mixer, draws = MAKE[name](prob=0.3), generator(0)
    unmixed = [isinstance(mixer.sample(4, 12, 10, draws), Unmixed) for _ in range(300)]
    assert 180 < sum(unmixed) < 240


@pytest.mark.parametrize("name", MAKE)
def test_unmixed_batch_keeps_images_and_target_format(name):
    mixer = MAKE[name](prob=0)
    images, targets = mixer(IMAGES, LABELS, generator(0))
    assert images is IMAGES
    kind = LABELS if mixer.num_classes is None else torch.nn.functional.one_hot(LABELS, 4).float()
    assert torch.equal(targets, kind)
    assert targets.dtype == kind.dtype


@pytest.mark.parametrize("name", MAKE)
def test_prob_one_makes_no_extra_draw(name):
    always, plain = generator(3), generator(3)
    MAKE[name](prob=1.0).sample(8, 12, 10, always)
    MAKE[name]().sample(8, 12, 10, plain)
    assert torch.equal(always.get_state(), plain.get_state())


def test_repr_shows_prob_below_one():
    assert repr(CutMix(4, prob=0.25)) == "CutMix(num_classes=4, alpha=1.0, per_batch=False, prob=0.25)"
    assert repr(CutMix(4, prob=1)) == "CutMix(num_classes=4, alpha=1.0, per_batch=False)"


@pytest.mark.parametrize("prob", [-0.1, 1.5, float("nan"), "0.5", True, None])
@pytest.mark.parametrize(
    "make", [lambda prob: CutMix(4, prob=prob), lambda prob: build("cutmix", num_classes=4, prob=prob)]
)
def test_invalid_prob_is_refused(make, prob):
    with pytest.raises(ValueError, match="prob="):
        make(prob)


def test_unmixed_batches_are_validated():
    params = CutMix(4, prob=0).sample(8, 12, 10)
    with pytest.raises(ValueError, match="do not fit together"):
        CutMix(4).apply(IMAGES[:3], LABELS[:3], params)
    with pytest.raises(ValueError, match="share memory"):
        CutMix(4, prob=0)(IMAGES[:1].expand(8, -1, -1, -1), LABELS, inplace=True)


def test_build_passes_prob_to_third_party_mixer():
    name = f"{__name__}:Dark"
    assert not build(name, num_classes=4)(IMAGES, LABELS)[0].any()  # its own attribute `prob` has no effect
    assert build(name, num_classes=4, prob=0)(IMAGES, LABELS)[0] is IMAGES
    mixed = build("MixChoice", num_classes=4, mixers=[{"type": name, "prob": 0.0}], probs=[1.0])
    assert mixed(IMAGES, LABELS)[0] is IMAGES
    with pytest.raises(ValueError, match="mixer Dark: prob=2"):
        build(name, num_classes=4, prob=2)


def test_sample_override_calling_super_draws_prob_once():
    class Own(CutMix):
        def sample(self, *args, **options):
            return super().sample(*args, **options)

    for seed in range(8):
        ours, wanted = (kind(4, prob=0.5)(IMAGES, LABELS, generator(seed)) for kind in (Own, CutMix))
        assert torch.equal(ours[0], wanted[0])


def test_splicemix_consistency_refuses_prob():
    objective = SpliceMixConsistency(torch.nn.Identity(), torch.nn.Identity())
    with pytest.raises(ValueError, match="omit prob"):
        objective.check(SpliceMix(num_classes=4, prob=0.5))
    with pytest.raises(ValueError, match="needs model multilabel"):  # raised by the next check
        objective.check(SpliceMix(num_classes=4))


def test_deepcopy_keeps_prob():  # deepcopy uses the pickle protocol, like DataLoader workers
    assert isinstance(copy.deepcopy(CutMix(4, prob=0.0)).sample(4, 8, 8), Unmixed)
