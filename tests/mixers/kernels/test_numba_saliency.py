"""Grey levels of normalized images: compiled loops and torch both recover every level."""

import numpy as np
import pytest
import torch
from dali_mix.pipelines.base import IMAGENET_MEAN, IMAGENET_STD
from dali_mix.pipelines.cifar import STATISTICS

from dali_mix.mixers import fine_grained_saliency
from tests.mixers.drawing import generator
from tests.mixers.ties import MEAN, STD, fused_levels, grey_levels, near_ties

LEVELS = torch.arange(256, dtype=torch.uint8).expand(1, 3, 256, 256)
NORMALIZATIONS = [
    (IMAGENET_MEAN, IMAGENET_STD),
    *STATISTICS.values(),
    ((0, 0, 0), (1, 1, 1)),
    ((0.5, 0.4, 0.45), (0.2, 0.25, 0.23)),
]


def normalized(dtype, mean, std):
    mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return ((LEVELS / 255 - mean) / std).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize(("mean", "std"), NORMALIZATIONS)
def test_every_grey_level_is_recovered(mean, std, dtype):
    assert torch.equal(grey_levels(normalized(dtype, mean, std), mean, std), LEVELS)


@pytest.mark.parametrize(("mean", "std"), NORMALIZATIONS)
def test_grey_levels_of_pipeline_normalization_are_recovered(mean, std):
    """The pipelines normalize with one multiplication and one addition."""
    factor, summand = (np.float32([[1 / (255 * s), -m / s] for m, s in zip(mean, std, strict=True)])).T
    scaled = LEVELS.float() * torch.tensor(factor)[:, None, None] + torch.tensor(summand)[:, None, None]
    assert torch.equal(grey_levels(scaled, mean, std), LEVELS)


@pytest.mark.parametrize(("mean", "std"), NORMALIZATIONS)
def test_bfloat16_grey_level_is_off_by_at_most_one(mean, std):
    off = (grey_levels(normalized(torch.bfloat16, mean, std), mean, std).int() - LEVELS.int()).abs()
    assert off.max() <= (1 if max(std) > 0.25 else 0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch_size", [0, 1, 8])
def test_floats_are_rounded_and_clamped_to_grey_levels(batch_size, memory_format):
    images = torch.randn(batch_size, 3, 91, 120, generator=generator()) * 2
    wanted = (images.double().permute(0, 2, 3, 1) * torch.tensor(STD) + torch.tensor(MEAN)) * 255
    wanted = wanted.round().clamp(0, 255).permute(0, 3, 1, 2)
    levels = grey_levels(images.contiguous(memory_format=memory_format), MEAN, STD)
    assert levels.is_contiguous() and levels.dtype == torch.uint8
    off = (levels.double() - wanted).abs()
    assert off.numel() == 0 or (off.max() <= 1 and off.mean() < 1e-4)  # float32 rounding near .5


def test_saliency_of_normalized_images_uses_grey_levels():
    images = near_ties()
    wanted = fine_grained_saliency(grey_levels(images))
    assert torch.equal(fine_grained_saliency(images.requires_grad_(), MEAN, STD), wanted)
    assert (grey_levels(images.detach()) != fused_levels(images)).sum() > 50, "the pixels do not depend on the rounding"
