"""Saliency of images with one channel, and mixers with other numbers of channels."""

import pytest
import torch

from dali_mix.mixers import ResizeMixPlus, SaliencyMix
from tests.mixers.every import MAKERS, MEAN, STD, images, seeded

FOUR = torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize("per_batch", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_grey_saliency_equals_three_equal_channels(dtype, per_batch):
    grey = (images(channels=1) * 255).byte()
    mean, std = (0.13,), (0.31,)
    if dtype != torch.uint8:
        grey = ((grey / 255 - mean[0]) / std[0]).to(dtype)
    mixer = SaliencyMix(4, per_batch=per_batch, mean=mean, std=std)
    coloured = grey.expand(-1, 3, -1, -1).contiguous()
    assert torch.equal(mixer.saliency(grey), mixer.saliency(coloured))
    mixed, targets = mixer(grey, FOUR, seeded())
    wanted, targets_wanted = mixer(coloured, FOUR, seeded())
    assert mixed.shape == grey.shape and torch.equal(mixed, wanted[:, :1]) and torch.equal(targets, targets_wanted)
    assert not torch.equal(mixed, grey)


@pytest.mark.parametrize("channels", [2, 4, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("options", [{}, {"mean": MEAN, "std": STD}], ids=str)
def test_saliencymix_refuses_other_channel_counts(options, channels, dtype):
    with pytest.raises(ValueError, match=rf"\(4, {channels}, 12, 9\): saliency is defined on"):
        SaliencyMix(4, **options)(images(channels).mul(255).to(dtype), FOUR)


@pytest.mark.parametrize("channels", [2, 4, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("name", ["CutMix", "ResizeMix", "MixUp", "Cutout", "SpliceMix"])
def test_other_mixers_accept_any_number_of_channels(name, channels, dtype):
    batch = images(channels).mul(255).to(dtype)
    assert MAKERS[name]()(batch, FOUR)[0].shape[1:] == batch.shape[1:]


@pytest.mark.parametrize("channels", [2, 4, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_resizemix_plus_refuses_other_channel_counts(channels, dtype):
    with pytest.raises(ValueError, match="RandAugment takes"):
        ResizeMixPlus(4, mean=MEAN, std=STD)(images(channels).mul(255).to(dtype), FOUR)


def test_grey_images_need_single_mean_and_std():
    with pytest.raises(ValueError, match=r"one channel, and mean=.* differ by channel: pass \[one\] number"):
        SaliencyMix(4, mean=(0.5, 0.4, 0.3), std=STD)(images(channels=1), FOUR)
    with pytest.raises(ValueError, match=r"saliency of torch\.float32 images needs the mean and std"):
        SaliencyMix(4)(images(channels=1), FOUR)
