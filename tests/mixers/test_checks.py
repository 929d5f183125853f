"""What the constructors of mixers refuse."""

import pytest
import torch

from dali_mix.mixers import CutMix, Cutout, MixChoice, MixUp, ResizeMix, SaliencyMix


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
        (lambda: MixChoice([CutMix(2)], [1.5]), r"probs=1\.5: must be a finite number from 0 to 1"),
        (lambda: MixChoice([CutMix(2), MixUp(2)], [0.5, 0.6]), "sum to at most 1"),
        (lambda: MixChoice([CutMix(2), MixUp(2)], [-0.5, 0.5]), r"probs=-0\.5: must be a finite number from 0 to 1"),
        (lambda: MixChoice([CutMix(2)], [float("nan")]), "probs=nan: must be a finite number from 0 to 1"),
        (lambda: MixChoice([CutMix(2), MixUp(3)], [0.5, 0.5]), "different num_classes"),
    ],
)
def test_constructors_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_mean_and_std_from_arrays_and_tensors():
    for values in ([0.5, 0.4, 0.3], torch.tensor([0.5, 0.4, 0.3]).numpy(), torch.tensor([0.5, 0.4, 0.3])):
        assert SaliencyMix(4, mean=values, std=values).mean == pytest.approx((0.5, 0.4, 0.3))
