"""`normalize` compared with float64 and between CPU and GPU."""

import numpy as np
import pytest
import torch
from dali_mix.pipelines import normalize
from dali_mix.pipelines.base import IMAGENET_MEAN, IMAGENET_STD


def levels(count: int, height: int = 40, width: int = 57) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(count).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


@pytest.mark.parametrize("count", [0, 1, 3, 70])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_normalize_matches_float64(count, memory):
    images = levels(count)
    kept = images.clone()
    out = normalize(images.contiguous(memory_format=memory), IMAGENET_MEAN, IMAGENET_STD)
    mean, std = (np.array(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    assert out.dtype == torch.float32 and out.shape == images.shape and out.is_contiguous()
    np.testing.assert_allclose(out.numpy(), (images.numpy() / 255 - mean) / std, atol=1e-6)
    assert images.equal(kept)


def test_normalize_is_one_product_and_one_sum():
    images = levels(9)
    scale = torch.tensor([1 / (255 * value) for value in IMAGENET_STD], dtype=torch.float64).float()
    shift = torch.tensor([-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)], dtype=torch.float64)
    expected = images.float() * scale[:, None, None] + shift.float()[:, None, None]
    assert normalize(images, IMAGENET_MEAN, IMAGENET_STD).equal(expected)


def test_normalize_zeroes_padding():
    images, sizes = levels(3), np.array([[40, 57], [1, 5], [39, 57]], np.int32)
    out, whole = (
        normalize(images, (0.5, 0.4, 0.3), (1.0, 0.5, 0.25), sizes),
        normalize(images, (0.5, 0.4, 0.3), (1, 0.5, 0.25)),
    )
    for image, full, (height, width) in zip(out, whole, sizes.tolist(), strict=True):
        assert image[:, :height, :width].equal(full[:, :height, :width])
        assert not image[:, height:].any() and not image[:, :, width:].any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_gpu_gives_identical_bits(memory):
    images, sizes = levels(33).contiguous(memory_format=memory), np.random.default_rng(0).integers(1, 40, (33, 2))
    for given in (None, sizes):
        out = normalize(images.cuda(), IMAGENET_MEAN, IMAGENET_STD, given)
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert out.cpu().equal(normalize(images, IMAGENET_MEAN, IMAGENET_STD, given))
