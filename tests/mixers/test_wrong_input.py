"""What users get wrong with mixers: every mistake is a ValueError that says what was given."""

import pytest
import torch

from dali_mix.mixers import (
    CutMix,
    Cutout,
    MixChoice,
    MixUp,
    PasteParams,
    ResizeMix,
    ResizeMixPlus,
    SaliencyMix,
    SpliceMix,
)


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
        (lambda: ResizeMixPlus(10, mean=(float("nan"),) * 3, std=(0.2,) * 3), "must be finite"),
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


IMAGES = torch.rand(4, 3, 8, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (IMAGES.numpy(), LABELS, "images are a ndarray"),
        (list(IMAGES), LABELS, "images are a list"),
        (IMAGES > 0.5, LABELS, "torch.bool"),
        (IMAGES, LABELS.tolist(), "targets are a list"),
        (IMAGES, torch.tensor(3), "targets are a single number"),
        (IMAGES, LABELS[:, None], r"squeeze\(1\)"),
    ],
)
def test_batches_refused(images, targets, message):
    for mixer in (CutMix(4), MixUp(4), SpliceMix(num_classes=4)):
        with pytest.raises(ValueError, match=message):
            mixer(images, targets)


def test_partners_outside_the_batch():
    boxes = torch.tensor([[0, 0, 1, 1]] * 4)
    for permutation in (torch.tensor([0, 1, 2, 4]), torch.tensor([0, 1, 2, -1]), torch.tensor([0.0, 1, 2, 3])):
        with pytest.raises(ValueError, match="permutation"):
            CutMix(4).apply(IMAGES, LABELS, PasteParams(permutation, boxes, torch.ones(4)))


def test_resizemixplus_wants_to_know_how_images_were_normalized():
    with pytest.raises(ValueError, match="give ResizeMixPlus the mean and std"):
        ResizeMixPlus(4)(IMAGES * 4 - 2, LABELS)
    with pytest.raises(ValueError, match=r"torch\.int64: ResizeMixPlus takes uint8"):
        ResizeMixPlus(4)((IMAGES * 255).long(), LABELS)
    assert len(ResizeMixPlus(4)(IMAGES, LABELS)[0]) == 8


def test_mean_and_std_from_arrays_and_tensors():
    for values in ([0.5, 0.4, 0.3], torch.tensor([0.5, 0.4, 0.3]).numpy(), torch.tensor([0.5, 0.4, 0.3])):
        assert SaliencyMix(4, mean=values, std=values).mean == pytest.approx((0.5, 0.4, 0.3))
