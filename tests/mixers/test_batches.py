"""Batches as other code hands them over: packed pairs, images of one channel, memory that must not be written to."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from dali_mix.mixers import CutMix, Cutout, MixChoice, MixUp, ResizeMix, ResizeMixPlus, SaliencyMix, SpliceMix

MEAN, STD = (0.5,) * 3, (0.25,) * 3
MAKERS = {
    "CutMix": lambda: CutMix(4),
    "ResizeMix": lambda: ResizeMix(4),
    "ResizeMix bilinear": lambda: ResizeMix(4, interpolation="bilinear"),
    "MixUp": lambda: MixUp(4, alpha=1.0),
    "Cutout": lambda: Cutout(4),
    "SaliencyMix": lambda: SaliencyMix(4, mean=MEAN, std=STD),
    "MixChoice": lambda: MixChoice([CutMix(4), MixUp(4)], [0.3, 0.3]),
    "ResizeMixPlus": lambda: ResizeMixPlus(4),
    "SpliceMix": lambda: SpliceMix(num_classes=4),
}
INPLACE = [name for name in MAKERS if name not in ("ResizeMixPlus", "SpliceMix")]
LABELS = torch.tensor([0, 1, 2, 3])


def images(channels=3, count=4):
    return torch.rand(count, channels, 12, 9, generator=torch.Generator().manual_seed(0))


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "labels", [LABELS, torch.eye(4), torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.int64)]
)
@pytest.mark.parametrize("name", MAKERS)
def test_labels_of_the_caller_are_left_alone(name, labels):
    """Megvii-BaseDetection/YOLOX#275, kornia/kornia#3077."""
    given, batch = labels.clone(), images()
    for seed in range(3):
        MAKERS[name]()(batch, given, seeded(seed))
        assert torch.equal(given, labels) and torch.equal(batch, images())


@pytest.mark.parametrize("pack", [tuple, list, default_collate], ids=["tuple", "list", "collated"])
@pytest.mark.parametrize("name", MAKERS)
def test_a_pair_as_one_argument(name, pack):
    mixer = MAKERS[name]()
    pair = list(zip(images(), LABELS, strict=True)) if pack is default_collate else (images(), LABELS)
    given = pack(pair)
    result = mixer(given, generator=seeded())
    wanted = mixer(images(), LABELS, seeded())
    assert type(result) is tuple and len(result) == 2
    assert all(torch.equal(one, other) for one, other in zip(result, wanted, strict=True))
    assert torch.equal(given[0], images())


def test_in_a_collate_function():
    mixer = CutMix(4)
    loader = DataLoader(
        TensorDataset(images(), LABELS), batch_size=2, collate_fn=lambda samples: mixer(default_collate(samples))
    )
    for mixed, targets in loader:
        assert mixed.shape == (2, 3, 12, 9) and targets.shape == (2, 4)


@pytest.mark.parametrize("name", INPLACE)
def test_a_pair_in_place(name):
    batch = images()
    mixed, _ = MAKERS[name]()([batch, LABELS], generator=seeded(), inplace=True)
    assert mixed is batch


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((images(), LABELS, LABELS), "3 values and no targets"),
        ([images()], "1 values and no targets"),
        (images(), r"a Tensor and no targets: call mixer\(images, targets\), or mixer\(\(images, targets\)\)"),
        ({"images": images(), "targets": LABELS}, "a dict and no targets"),
        ((LABELS, images()), "images have shape"),
        ((images(), None), "targets are a NoneType"),
    ],
)
@pytest.mark.parametrize("name", ["CutMix", "SpliceMix", "MixChoice"])
def test_what_is_no_pair(name, given, message):
    with pytest.raises(ValueError, match=message):
        MAKERS[name]()(given)


def shared(way):
    """Four images whose values share memory, or that may not be changed for another reason."""
    if way == "one image":
        return images(count=1).expand(4, -1, -1, -1)
    if way == "one channel":
        return images(channels=1).expand(-1, 3, -1, -1)
    if way == "one row":
        return images()[:, :, :1].expand(-1, -1, 12, -1)
    if way == "windows":  # each image begins two rows below the one before
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
def test_in_place_where_values_cannot_be_changed(name, way):
    batch = shared(way)
    before = batch.detach().clone()
    mixer = MAKERS[name]()
    for seed in range(3):  # MixChoice also where it chooses nothing
        with pytest.raises(ValueError, match="cannot be mixed in place"):
            mixer(batch, LABELS, seeded(seed), inplace=True)
    assert torch.equal(batch.detach(), before)
    mixed, _ = mixer(batch, LABELS, seeded())  # out of place it is a batch like any other
    wanted, _ = mixer(before, LABELS, seeded())
    assert torch.allclose(mixed.detach(), wanted)


@pytest.mark.parametrize("name", INPLACE)
@pytest.mark.parametrize("way", ["crop", "every other", "channels_last", "permuted", "one", "none"])
def test_in_place_on_views_that_share_nothing(name, way):
    batch = {
        "crop": lambda: torch.rand(4, 3, 20, 20)[:, :, 4:16, 4:13],
        "every other": lambda: torch.rand(8, 3, 12, 18)[::2, :, :, ::2],
        "channels_last": lambda: images().to(memory_format=torch.channels_last),
        "permuted": lambda: torch.rand(12, 9, 4, 3).permute(2, 3, 0, 1),
        "one": lambda: images(count=1),
        "none": lambda: images(count=0),
    }[way]()
    labels, mixer = LABELS[: len(batch)], MAKERS[name]()
    wanted, _ = mixer(batch.clone(), labels, seeded())
    mixed, _ = mixer(batch, labels, seeded(), inplace=True)
    assert mixed is batch and torch.allclose(mixed, wanted)


@pytest.mark.parametrize("per_batch", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_saliency_of_grey_images_is_that_of_three_equal_channels(dtype, per_batch):
    grey = (images(channels=1) * 255).byte()
    mean, std = (0.13,), (0.31,)
    if dtype != torch.uint8:
        grey = ((grey / 255 - mean[0]) / std[0]).to(dtype)
    mixer = SaliencyMix(4, per_batch=per_batch, mean=mean, std=std)
    coloured = grey.expand(-1, 3, -1, -1).contiguous()
    assert torch.equal(mixer.saliency(grey), mixer.saliency(coloured))
    mixed, targets = mixer(grey, LABELS, seeded())
    wanted, targets_wanted = mixer(coloured, LABELS, seeded())
    assert mixed.shape == grey.shape and torch.equal(mixed, wanted[:, :1]) and torch.equal(targets, targets_wanted)
    assert not torch.equal(mixed, grey)


@pytest.mark.parametrize("channels", [2, 4, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_other_numbers_of_channels(channels, dtype):
    batch = images(channels).mul(255).to(dtype)
    for mixer in (SaliencyMix(4), SaliencyMix(4, mean=MEAN, std=STD)):
        with pytest.raises(ValueError, match=rf"\(4, {channels}, 12, 9\): saliency is defined on"):
            mixer(batch, LABELS)
    for name in ("CutMix", "ResizeMix", "MixUp", "Cutout", "SpliceMix"):
        assert MAKERS[name]()(batch, LABELS)[0].shape[1:] == batch.shape[1:]
    with pytest.raises(ValueError, match="RandAugment takes"):
        ResizeMixPlus(4, mean=MEAN, std=STD)(batch, LABELS)


def test_grey_images_and_the_mean_of_colours():
    with pytest.raises(ValueError, match=r"one channel, and mean=.* differ by channel: give \[one\] number"):
        SaliencyMix(4, mean=(0.5, 0.4, 0.3), std=STD)(images(channels=1), LABELS)
    with pytest.raises(ValueError, match="give it the mean"):
        SaliencyMix(4)(images(channels=1), LABELS)
