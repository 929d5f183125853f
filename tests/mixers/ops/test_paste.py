"""Pasting gives the same pixels for every backend, dtype and memory format, in place and out of place."""

import pytest
import torch

from dali_mix.mixers import CutMix, PasteParams
from dali_mix.mixers.kernels import threads, torch_paste
from dali_mix.mixers.ops import paste
from dali_mix.mixers.ops.blend import blend
from tests.mixers import oracles
from tests.mixers.batches import HEIGHT, WIDTH, backend, batch, boxes_for
from tests.mixers.drawing import SMALL

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int64, torch.bool]


@pytest.fixture
def many_threads(monkeypatch):
    """Process batches of a few kB on several threads, like large batches."""
    monkeypatch.setattr(threads, "_COST_OF_A_THREAD", 256)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_numba_and_torch_paste_agree(dtype, channels_last, many_threads):
    images = batch(7, dtype, channels_last)
    permutation, boxes = torch.tensor([3, 0, 2, 6, 5, 4, 1]), boxes_for(7)
    assert backend("paste", images) == "numba_paste"
    for ours, wanted in (
        (paste.paste_boxes(images, permutation, boxes), torch_paste.paste(images, permutation, boxes)),
        (
            paste.paste_resized(images, permutation, boxes, "nearest"),
            torch_paste.paste_nearest(images, permutation, boxes),
        ),
        (paste.erase_boxes(images, boxes), torch_paste.erase(images, boxes)),
    ):
        assert torch.equal(ours, wanted)
        assert ours.stride() == images.stride()
        assert ours.dtype == dtype


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(33, 61), (64, 20), (1, 17), (16, 1), (7, 300)])
def test_paste_nearest_equals_torch_for_any_shape(height, width, channels, channels_last, many_threads):
    images = batch(9, torch.float32, channels_last, height, width, channels)
    permutation, boxes = torch.tensor([3, 0, 2, 6, 5, 4, 1, 8, 7]), boxes_for(9, height, width)
    boxes[-2:] = torch.tensor([[0, 0, height, width], [height - 1, width - 1, 1, 1]])
    wanted = torch_paste.paste_nearest(images, permutation, boxes)
    assert torch.equal(paste.paste_resized(images, permutation, boxes, "nearest"), wanted)
    own = images.clone()
    assert torch.equal(paste.paste_resized(own, permutation, boxes, "nearest", inplace=True), wanted)
    assert torch.equal(own, wanted)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("height", "width", "channels"), [(33, 61, 3), (64, 20, 1), (1, 17, 3), (16, 1, 4)])
def test_paste_bilinear_equals_torch_interpolate(height, width, channels, channels_last):
    images = batch(6, torch.float32, channels_last, height, width, channels) / 255
    permutation, boxes = torch.tensor([1, 2, 3, 4, 5, 0]), boxes_for(6, height, width)
    ours = paste.paste_resized(images, permutation, boxes, "bilinear")
    torch.testing.assert_close(ours, torch_paste.paste_bilinear(images, permutation, boxes), rtol=0, atol=1e-6)
    for i, (top, left, box_h, box_w) in enumerate(boxes.tolist()):
        # torch 2.14 on a CPU gives wrong rows if the result is one pixel wide; the oracle checks those.
        if box_h and box_w > 1:
            whole = images[permutation[i]][None]
            wanted = torch.nn.functional.interpolate(whole, (box_h, box_w), mode="bilinear", antialias=True)[0]
            got = ours[i, :, top : top + box_h, left : left + box_w]
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


BOXES, LAM = boxes_for(7), torch.tensor([0.3, 1.0, 0.0, 0.75, 0.5, 0.9, 0.1])


@pytest.mark.parametrize(
    "partners",
    [
        [1, 2, 3, 4, 5, 6, 0],  # a single cycle
        [1, 0, 3, 2, 5, 4, 6],  # pairs and a fixed point
        [0, 1, 2, 3, 4, 5, 6],
        [3, 3, 3, 0, 0, 5, 5],  # not a permutation: several images share a partner
    ],
)
@pytest.mark.parametrize(
    "change",
    [
        lambda images, partners, **inplace: paste.paste_boxes(images, partners, BOXES, **inplace),
        lambda images, partners, **inplace: paste.paste_resized(images, partners, BOXES, "nearest", **inplace),
        lambda images, partners, **inplace: paste.paste_resized(images, partners, BOXES, "bilinear", **inplace),
        lambda images, partners, **inplace: paste.erase_boxes(images, BOXES, **inplace),
        lambda images, partners, **inplace: blend(images, partners, LAM, **inplace),
    ],
    ids=["paste", "nearest", "bilinear", "erase", "blend"],
)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_in_place_equals_out_of_place(dtype, channels_last, change, partners, many_threads):
    images, partners = batch(7, dtype, channels_last), torch.tensor(partners)
    wanted = change(images, partners)
    own = images.clone()
    assert change(own, partners, inplace=True) is own
    assert torch.equal(own, wanted)
    odd = torch.cat([images, images], 3)[..., ::2]  # neither contiguous nor channels_last, so torch operations are used
    wanted = change(odd.clone(memory_format=torch.contiguous_format), partners)
    assert backend("paste", odd) == "torch_paste"
    assert change(odd, partners, inplace=True) is odd
    if dtype == torch.uint8:  # float32 and float64 sums may round differently
        assert (odd.int() - wanted.int()).abs().max() <= 1
    else:
        torch.testing.assert_close(odd, wanted, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=0)


def test_in_place_paste_equals_pixel_loop():
    images, boxes = batch(5), boxes_for(5)
    permutation = [4, 2, 1, 0, 3]
    wanted = oracles.cutmix(images, permutation, boxes.tolist())
    assert torch.equal(paste.paste_boxes(images, torch.tensor(permutation), boxes, inplace=True), wanted)


@pytest.mark.parametrize("partners", [[0, 1, 3], [0, -1, 2]])
def test_paste_refuses_partners_outside_batch(partners):
    with pytest.raises(ValueError, match=r"must name images 0 … 2"):
        paste.paste_boxes(batch(3), torch.tensor(partners), boxes_for(3))


MOST = 2**63 - 1  # sums overflow
OUTSIDE = [[HEIGHT, 0, 1, 1], [0, WIDTH - 1, 1, 2], [-1, 0, 2, 2], [0, 0, -1, 2], [MOST, 0, 1, 1]]
OUTSIDE += [[0, 0, MOST, MOST], [1, 1, 2, MOST], [2**62, 0, 2**62, 4], [MOST] * 4]


@pytest.mark.parametrize("box", OUTSIDE, ids=str)
@pytest.mark.parametrize(
    "change",
    [
        lambda images, permutation, boxes: paste.paste_boxes(images, permutation, boxes),
        lambda images, permutation, boxes: paste.paste_resized(images, permutation, boxes, "nearest"),
        lambda images, permutation, boxes: paste.paste_resized(images, permutation, boxes, "bilinear"),
        lambda images, permutation, boxes: paste.erase_boxes(images, boxes),
    ],
    ids=["paste", "nearest", "bilinear", "erase"],
)
def test_boxes_outside_image_are_refused(change, box):
    with pytest.raises(ValueError, match="reach outside"):
        change(batch(3), torch.tensor([1, 2, 0]), torch.tensor([box] * 3))


def test_blend_refuses_wrong_number_of_partners_or_lam():
    images, permutation = batch(3), torch.tensor([1, 2, 0])
    with pytest.raises(ValueError, match=r"permutation has shape \(2,\) for 3 images"):
        blend(images, permutation[:2], torch.rand(3))
    with pytest.raises(ValueError, match=r"lam has shape \(2,\) for 3 images"):
        blend(images, permutation, torch.rand(2))


@pytest.mark.parametrize("channels_last", [False, True])
def test_single_channel_paste_has_contiguous_strides(channels_last):
    images = batch(4, channels_last=channels_last, channels=1)
    mixed = paste.paste_boxes(images, torch.tensor([2, 3, 1, 0]), boxes_for(4))
    assert mixed.is_contiguous() and mixed.stride() == (HEIGHT * WIDTH, HEIGHT * WIDTH, WIDTH, 1)


SMALL_LABELS = torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize("permutation", [[0, 1, 2, 4], [0, 1, 2, -1], [0.0, 1, 2, 3]])
def test_cutmix_refuses_invalid_permutation(permutation):
    boxes = torch.tensor([[0, 0, 1, 1]] * 4)
    with pytest.raises(ValueError, match="permutation"):
        CutMix(4).apply(SMALL, SMALL_LABELS, PasteParams(torch.tensor(permutation), boxes, torch.ones(4)))
