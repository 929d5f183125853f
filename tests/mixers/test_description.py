"""Descriptions of mixed images."""

import pytest
import torch

from dali_mix.mixers import CutMix, Mixer, PasteParams, SpliceMixParams, build
from dali_mix.mixers.description import MixedImage
from tests.mixers.test_base_prob import MAKE

IMAGES = torch.rand(8, 3, 24, 20, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 4


def mixed(mixer, seed=0):
    params = mixer.sample(8, 24, 20, torch.Generator().manual_seed(seed))
    return *mixer.apply(IMAGES, LABELS, params), mixer.describe(IMAGES, params)


def outside_mask(box):
    top, left, height, width = (round(side) for side in box)
    mask = torch.ones(24, 20, dtype=torch.bool)
    mask[top : top + height, left : left + width] = False
    return mask


@pytest.mark.parametrize("prob", [0.5, 1.0])
@pytest.mark.parametrize("name", MAKE)
def test_describe_covers_every_returned_image(name, prob):
    for seed in range(6):
        images, _, described = mixed(MAKE[name](prob=prob), seed)
        assert len(described) == len(images)
        assert [image.own for image in described[:8]] == list(range(8))


@pytest.mark.parametrize("name", ["CutMix", "ResizeMix", "SaliencyMix", "Cutout"])
def test_images_change_only_inside_described_boxes(name):
    images, _, described = mixed(MAKE[name]())
    assert sum(len(image.boxes) for image in described) > 4
    for i, image in enumerate(described):
        for box in image.boxes:
            assert torch.equal(images[i][:, outside_mask(box)], IMAGES[i][:, outside_mask(box)])
            assert not torch.equal(images[i], IMAGES[i]) or image.partner == i
        assert image.boxes or torch.equal(images[i], IMAGES[i])


@pytest.mark.parametrize("name", ["CutMix", "ResizeMix", "SaliencyMix", "MixUp", "ResizeMixPlus"])
def test_described_lam_matches_targets(name):
    _, targets, described = mixed(MAKE[name]())
    hot = torch.eye(4)
    for target, image in zip(targets, described, strict=True):
        wanted = image.lam * hot[LABELS[image.own]] + (1 - image.lam) * hot[LABELS[image.partner]]
        torch.testing.assert_close(target, wanted)


@pytest.mark.parametrize("per_batch", [False, True])
def test_saliencymix_describes_peak_inside_its_box(per_batch):
    mixer = build("SaliencyMix", num_classes=4, mean=[0.5], std=[0.5], per_batch=per_batch)
    peaks = [divmod(int(one.argmax()), 20) for one in mixer.saliency(IMAGES)]
    _, _, described = mixed(mixer)
    for image in described:
        assert image.peak == peaks[described[0].partner if per_batch else image.partner]
        for top, left, height, width in image.boxes:
            assert top <= image.peak[0] < top + height and left <= image.peak[1] < left + width


def test_splicemix_describes_its_cells():
    grid = SpliceMixParams(2, 1, torch.tensor([[0, 3], [5, 5]]), torch.tensor([[False, True], [False, False]]))
    mixer = build("SpliceMix", num_classes=4)
    described = mixer.describe(IMAGES, grid)[8:]
    cells = ((0, 0, 12, 20), (12, 0, 12, 20))
    assert described == [
        MixedImage(None, boxes=cells, note="2×1, 1 dropped"),
        MixedImage(None, boxes=cells, note="2×1"),
    ]
    few = mixer.describe(IMAGES[:3], mixer.sample(3, 24, 20, torch.Generator()))
    assert [image.note for image in few] == ["batch too small"] * 3


class Swap(Mixer[PasteParams]):
    """A third-party mixer built from CutMix."""

    def sample(self, batch_size, height, width, generator=None, device="cpu"):
        return CutMix(4).sample(batch_size, height, width, generator, device)

    def apply(self, images, targets, params, *, inplace=False):
        return CutMix(4).apply(images, targets, params, inplace=inplace)


def test_third_party_mixer_with_paste_params_is_described():
    params = CutMix(4).sample(8, 24, 20, torch.Generator().manual_seed(0))
    assert Swap().describe(IMAGES, params) == CutMix(4).describe(IMAGES, params)
    assert Swap().describe(IMAGES, object()) == [MixedImage(own) for own in range(8)]


def test_in_place_is_false_for_apply_without_inplace():
    class Mine(CutMix):
        def apply(self, images, targets, params):
            return super().apply(images, targets, params)

    class Keeping(CutMix):
        def sample(self, *args, **options):
            return super().sample(*args, **options)

    assert not Mine.in_place
    assert Keeping.in_place and CutMix.in_place
