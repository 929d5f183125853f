"""Options of the wrong kind: each is a ValueError that says what was given."""

import pytest

from dali_mix.mixers import CutMix, Cutout, MixChoice, ResizeMix, ResizeMixPlus, SaliencyMix, SpliceMix


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CutMix(10.0), "num_classes=10.0: must be a whole number"),
        (lambda: CutMix(True), "num_classes=True"),
        (lambda: CutMix(10, alpha="1"), "alpha='1': must be a number"),
        (lambda: CutMix(10, per_batch="False"), "per_batch='False': must be True or False"),
        (lambda: ResizeMix(10, scale=("a", "b")), "scale='a': must be a number"),
        (lambda: Cutout(1.5), "size=1.5: must be a whole number of at least 1"),
        (lambda: SaliencyMix(10, mean=(123, 116, 103), std=(58, 57, 57)), "divide both by 255"),
        (lambda: SaliencyMix(10, mean=(0.5, 0.5)), "give both"),
        (lambda: ResizeMixPlus(10, mean=0.5, std=0.5), "three numbers"),
        (lambda: ResizeMixPlus(10, mean=(float("nan"),) * 3, std=(0.2,) * 3), "must be a finite number"),
        (lambda: ResizeMixPlus(10, magnitude="14"), "magnitude='14': must be a number"),
        (lambda: SpliceMix(None), "must be lists"),
        (lambda: SpliceMix(["2x3"], counts=1), "must be lists"),
        (lambda: MixChoice(CutMix(2), [0.5]), "a list of mixers"),
        (lambda: MixChoice([CutMix], [0.5]), "MixChoice holds mixers"),
        (lambda: MixChoice([CutMix(2)], ["1"]), "probs='1'"),
    ],
)
def test_constructors_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()
