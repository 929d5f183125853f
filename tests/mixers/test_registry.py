"""Building mixers by name."""

import pytest

from dali_mix import mixers
from dali_mix.mixers import CutMix, Cutout, Mixer, ResizeMix
from dali_mix.mixers.registry import build


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
        ("zzzzzz", {}, r"choose from CutMix, ResizeMix"),
        ("CutMix", {"aplha": 1.0}, r"aplha.*it takes num_classes, alpha, per_batch"),
        ("Cutout", {}, r"size"),
        ("MixChoice", {"mixers": [{"alpha": 1.0}], "probs": [1.0]}, r"no type"),
    ],
)
def test_build_refuses_wrong_name_or_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        mixers.build(name, num_classes=4, **options)


class Half(Mixer):
    def __init__(self, loud=False):
        super().__init__()

    def apply(self, images, targets, params):
        return images, targets


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Half has neither a method sample nor draw"),
        ({"loud": "False"}, "Half: loud='False': must be True"),
    ],
)
def test_build_refuses_invalid_custom_mixer(options, message):
    with pytest.raises(ValueError, match=message):
        mixers.build(f"{__name__}:Half", **options)


def test_member_options_override_defaults_of_choice():
    member = {"type": "SaliencyMix", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    members, numbers = [member, {"type": "SaliencyMix"}], {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    choice = build("MixChoice", mixers=members, probs=[0.5, 0.5], num_classes=4, **numbers)
    own, offered = choice.mixers
    assert own.mean == (0.1, 0.2, 0.3) and own.std == (0.4, 0.5, 0.6) and own.num_classes == 4
    assert offered.mean == (0.5,) * 3 and offered.std == (0.2,) * 3
