"""In-place mixing of views, and refusal of batches that must not be changed."""

import numpy as np
import pytest
import torch

from tests.mixers.every import INPLACE, MAKERS, images, seeded

FOUR = torch.tensor([0, 1, 2, 3])


def unwritable_batch(way):
    """Return four images that share memory or must not be changed for another reason."""
    if way == "one image":
        return images(count=1).expand(4, -1, -1, -1)
    if way == "one channel":
        return images(channels=1).expand(-1, 3, -1, -1)
    if way == "one row":
        return images()[:, :, :1].expand(-1, -1, 12, -1)
    if way == "windows":  # each image starts two rows below the previous one
        return torch.rand(3 * 18 * 9).as_strided((4, 3, 12, 9), (18, 162, 9, 1))
    if way == "broadcast by numpy":
        return torch.from_numpy(
            np.lib.stride_tricks.as_strided(images(count=1).numpy(), (4, 3, 12, 9), (0, 432, 36, 4))
        )
    if way == "gradients":
        return images().requires_grad_()
    if way == "result of a model":
        return images().requires_grad_() * 2
    with torch.inference_mode():
        return images()


@pytest.mark.parametrize("name", INPLACE)
@pytest.mark.parametrize(
    "way",
    [
        *("one image", "one channel", "one row", "windows", "broadcast by numpy", "gradients", "result of a model"),
        "inference",
    ],
)
def test_in_place_is_refused_for_unwritable_batch(name, way):
    batch = unwritable_batch(way)
    before = batch.detach().clone()
    mixer = MAKERS[name]()
    for seed in range(3):  # includes a MixChoice that chooses no mixer
        with pytest.raises(ValueError, match="cannot be mixed in place"):
            mixer(batch, FOUR, seeded(seed), inplace=True)
    assert torch.equal(batch.detach(), before)
    mixed, _ = mixer(batch, FOUR, seeded())  # out of place, the batch can be mixed
    wanted, _ = mixer(before, FOUR, seeded())
    assert torch.allclose(mixed.detach(), wanted)


@pytest.mark.parametrize("name", INPLACE)
@pytest.mark.parametrize("way", ["crop", "every other", "channels_last", "permuted", "one", "none"])
def test_in_place_works_on_views_without_overlap(name, way):
    batch = {
        "crop": lambda: torch.rand(4, 3, 20, 20)[:, :, 4:16, 4:13],
        "every other": lambda: torch.rand(8, 3, 12, 18)[::2, :, :, ::2],
        "channels_last": lambda: images().to(memory_format=torch.channels_last),
        "permuted": lambda: torch.rand(12, 9, 4, 3).permute(2, 3, 0, 1),
        "one": lambda: images(count=1),
        "none": lambda: images(count=0),
    }[way]()
    labels, mixer = FOUR[: len(batch)], MAKERS[name]()
    wanted, _ = mixer(batch.clone(), labels, seeded())
    mixed, _ = mixer(batch, labels, seeded(), inplace=True)
    assert mixed is batch and torch.allclose(mixed, wanted)
