"""The crop test compared with its formula."""

import pytest
import torch

from dali_mix.metrics import CropTest


class Sums(torch.nn.Module):
    """A model whose logits are the sums of the left and right halves, easily computed by hand."""

    def forward(self, images):
        return torch.stack([images[..., :16].sum((1, 2, 3)), images[..., 16:].sum((1, 2, 3))], 1)


def test_crop_test_equals_formula():
    images = torch.randn(3, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    share = 24**2 / 32**2
    central = torch.zeros_like(images)
    for y in range(4, 28):
        for x in range(4, 28):
            central[:, :, y, x] = images[:, :, y, x]
    model = Sums()
    torch.testing.assert_close(CropTest(model)(images), (1 - share) * model(images) + share * model(central))
    assert torch.equal(images, before)
    filled = torch.where(central == 0, torch.tensor(-2.0), central)
    wanted = (1 - share) * model(images) + share * model(filled)
    torch.testing.assert_close(CropTest(model, fill=-2.0)(images), wanted)


def test_crop_test_accepts_non_square_images():
    images = torch.rand(2, 3, 41, 30, generator=torch.Generator().manual_seed(1))
    central = torch.zeros_like(images)
    for y in range(10, 30):
        for x in range(5, 25):
            central[:, :, y, x] = images[:, :, y, x]
    share = 400 / (41 * 30)
    wanted = (1 - share) * Sums()(images) + share * Sums()(central)
    torch.testing.assert_close(CropTest(Sums(), crop=20)(images), wanted)


def test_invalid_crop_is_refused():
    with pytest.raises(ValueError, match="crop=24 is larger than the images, 20×32"):
        CropTest(Sums())(torch.ones(1, 1, 20, 32))
    with pytest.raises(ValueError, match="crop=0"):
        CropTest(Sums(), crop=0)
