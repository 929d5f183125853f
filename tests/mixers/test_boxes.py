"""Mixers for images with boxes: boxes match pixels, padding is never mixed in, covered boxes are cut or dropped."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dali_mix.mixers import BoxResizeMix, BoxSpliceMix, MixChoice, build
from dali_mix.mixers.base import unmixed
from dali_mix.mixers.boxes import kept, moved, uncovered

SIZES = [(60, 90), (64, 96), (40, 96), (64, 50)]
CANVAS = (64, 96)


def batch(seed=0):
    """Return four black images and their targets. Each image has one white box, in its own channel.

    Padding has the value 9, which must never be mixed in.
    """
    random = np.random.default_rng(seed)
    images, targets = torch.full((4, 4, *CANVAS), 9.0), []
    for index, (height, width) in enumerate(SIZES):
        images[index, :, :height, :width] = 0
        top, left = int(random.integers(0, height // 2)), int(random.integers(0, width // 2))
        bottom, right = top + height // 3, left + width // 3
        images[index, index, top:bottom, left:right] = 1
        targets.append(
            {
                "boxes": torch.tensor([[left, top, right, bottom]]).float(),
                "labels": torch.tensor([index]),
                "difficult": torch.tensor([index == 2]),
                "size": (height, width),
                "original": (2 * height, 2 * width),
            }
        )
    return images, targets


def frame_of(image, channel):
    """Return the smallest box around the bright pixels of a channel, or None for three pixels or fewer."""
    rows, columns = torch.nonzero(image[channel] > 0.5, as_tuple=True)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) > 3 else None


@pytest.mark.parametrize("mixer", [BoxResizeMix(), BoxSpliceMix()], ids=repr)
def test_mixed_boxes_frame_their_pixels(mixer):
    checked = 0
    for seed in range(40):
        images, targets = batch(seed)
        params = mixer.sample(4, *CANVAS, torch.Generator().manual_seed(seed))
        out, mixed = mixer.apply(images, targets, params)
        for own, (image, target) in enumerate(zip(out, mixed, strict=True)):
            height, width = target["size"]
            assert target["size"] == targets[own]["size"] and target["original"] == targets[own]["original"]
            assert image[:, :height, :width].max() < 1.1, "padding was mixed in"
            assert len(target["boxes"]) == len(target["labels"]) == len(target["difficult"])
            labels = target["labels"].tolist()
            for box, label, difficult in zip(target["boxes"], labels, target["difficult"], strict=True):
                assert bool(difficult) == (label == 2)
                found = frame_of(image[:, :height, :width], label)
                if found is None or labels.count(label) > 1:
                    continue
                outside = [abs(float(a) - float(b)) for a, b in zip(box, found, strict=True)]
                if isinstance(mixer, BoxSpliceMix) or label != own:  # the host's box may be partly covered
                    assert max(outside) < 1.6
                    checked += 1
    assert checked > 60


@pytest.mark.parametrize("mixer", [BoxResizeMix(), BoxSpliceMix()], ids=repr)
def test_in_place_equals_out_of_place(mixer):
    images, targets = batch()
    before = images.clone()
    params = mixer.sample(4, *CANVAS, torch.Generator().manual_seed(3))
    out, mixed = mixer.apply(images, targets, params)
    assert torch.equal(images, before) and not torch.equal(out, before)
    same, again = mixer.apply(images, targets, params, inplace=True)
    assert same is images and torch.equal(images, out)
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(mixed, again, strict=True))


def test_box_splicemix_draws_four_different_sources():
    sources = BoxSpliceMix().sample(9, *CANVAS, torch.Generator().manual_seed(4)).sources
    assert sources[:, 0].tolist() == list(range(9))
    assert all(len(set(row)) == 4 for row in sources.tolist())
    assert torch.bincount(sources.flatten()).tolist() == [4] * 9
    assert BoxSpliceMix().sample(1, *CANVAS).sources.tolist() == [[0, 0, 0, 0]]


def test_patch_is_resized_partner():
    images, targets = batch()
    images[:] = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    mixer = BoxResizeMix((0.5, 0.5))
    params = mixer.sample(4, *CANVAS, torch.Generator().manual_seed(1))
    out, _ = mixer.apply(images, targets, params)
    for own, (partner, (u, v)) in enumerate(zip(params.permutation.tolist(), params.position.tolist(), strict=True)):
        (height, width), (h, w) = SIZES[own], SIZES[partner]
        factor = 0.5 * min(height / h, width / w)
        h, w = round(h * factor), round(w * factor)
        top, left = int(u * (height - h + 1)), int(v * (width - w + 1))
        source = images[partner : partner + 1, :, : SIZES[partner][0], : SIZES[partner][1]]
        wanted = F.interpolate(source, (h, w), mode="bilinear", antialias=True)[0]
        torch.testing.assert_close(out[own, :, top : top + h, left : left + w], wanted)
        rest = torch.ones(CANVAS, dtype=torch.bool)
        rest[top : top + h, left : left + w] = False
        assert torch.equal(out[own][:, rest], images[own][:, rest])


def test_largest_position_keeps_patch_inside(monkeypatch):
    """The largest draw below 1 rounds to 1 in float32, which would place the patch one pixel outside."""
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, 1 - 2.0**-53, dtype=torch.float64))
    images, targets = batch()
    mixer = BoxResizeMix((0.5, 0.5))
    params = mixer.sample(4, *CANVAS, torch.Generator().manual_seed(1))
    out, _ = mixer.apply(images, targets, params)
    for image, (height, width) in zip(out, SIZES, strict=True):
        assert (image[:, height:] == 9).all() and (image[:, :, width:] == 9).all()


@pytest.mark.parametrize(
    ("patch", "box", "share"),
    [
        ((0, 0, 5, 5), (0, 0, 10, 10), 0.75),  # a corner is covered: the box is unchanged
        ((0, 0, 6, 10), (6, 0, 10, 10), 0.4),  # the left part is covered over the full height: cut
        ((4, -3, 20, 30), (0, 0, 4, 10), 0.4),
        ((0, 5, 10, 20), (0, 0, 10, 5), 0.5),
        ((3, 0, 8, 10), (0, 0, 10, 10), 0.5),  # a strip in the middle is covered: the box is unchanged
        ((0, 0, 8, 8), (0, 0, 10, 10), 0.36),  # a larger corner is covered
        ((20, 20, 30, 30), (0, 0, 10, 10), 1.0),
        ((-1, -1, 11, 11), None, 0.0),
    ],
)
def test_uncovered_returns_rest_of_box(patch, box, share):
    boxes, left = uncovered(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor(patch))
    assert float(left) == pytest.approx(share)
    if box is not None:
        assert boxes.tolist() == [list(map(float, box))]


@pytest.mark.parametrize(
    ("box", "patch", "wanted"),
    [
        ((0, 0, 10, 20), (0, 0, 10, 14.2), None),  # 0.29 remains
        ((0, 0, 10, 20), (0, 0, 10, 13.8), (0, 13.8, 10, 20)),  # 0.31
        ((0, 0, 10, 10), (0, 0, 10, 6.5), None),  # 0.35, cut to 3.5 pixels
        ((0, 0, 10, 3), (0, 0, 4, 3), None),  # 0.6, cut and thin
        ((0, 0, 10, 3), (0, 0, 2, 3), (0, 0, 10, 3)),  # thin, but not cut: 0.8 remains
    ],
)
def test_kept_drops_covered_or_thin_cut_boxes(box, patch, wanted):
    target = {"boxes": torch.tensor([box]).float(), "labels": torch.tensor([3]), "difficult": torch.tensor([True])}
    found = kept(target, *uncovered(target["boxes"], torch.tensor(patch)))
    assert len(found["boxes"]) == len(found["labels"]) == len(found["difficult"]) == (wanted is not None)
    if wanted is not None:
        torch.testing.assert_close(found["boxes"], torch.tensor([wanted]).float())


@pytest.mark.parametrize("mixer", [BoxResizeMix(), BoxSpliceMix()], ids=repr)
def test_uint8_images_are_rounded(mixer):
    images, targets = batch()
    images = torch.randint(0, 256, images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    params = mixer.sample(4, *CANVAS, torch.Generator().manual_seed(3))
    found, wanted = (mixer.apply(one, targets, params)[0] for one in (images, images.float()))
    assert found.dtype == torch.uint8 and torch.equal(found, wanted.round().to(torch.uint8))
    assert not torch.equal(wanted, wanted.round())


def test_small_and_covered_boxes_are_dropped():
    target = {
        "boxes": torch.tensor([[0.0, 0, 10, 40], [0, 0, 40, 40]]),
        "labels": torch.tensor([1, 2]),
        "difficult": torch.tensor([False, True]),
        "size": (40, 40),
    }
    found = moved(target, (2, 3, 12, 12))  # scaled to 0.3: the first box is 3 pixels wide
    assert found["labels"].tolist() == [2] and found["boxes"].tolist() == [[3, 2, 15, 14]]
    images = torch.zeros(2, 3, 40, 40)
    mixer = BoxResizeMix((1.0, 1.0))
    params = mixer.sample(2, 40, 40, torch.Generator().manual_seed(0))
    _, mixed = mixer.apply(images, [target, target | {"labels": torch.tensor([5, 6])}], params)
    for own, partner in enumerate(params.permutation.tolist()):  # the patch covers the complete host
        assert mixed[own]["labels"].tolist() == [[1, 2], [5, 6]][partner]


def test_images_without_boxes_are_mixed():
    images, targets = batch()
    for target in targets:
        target |= {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "difficult": torch.zeros(0, dtype=torch.bool),
        }
    for mixer in (BoxResizeMix(), BoxSpliceMix()):
        _, mixed = mixer(images, targets)
        assert all(one["boxes"].shape == (0, 4) and one["labels"].dtype == torch.int64 for one in mixed)


def test_unmixed_boxes_ignore_num_classes():
    images, targets = batch()
    mixer = BoxResizeMix(prob=0.0)
    mixer.num_classes = 4
    assert mixer(images, targets) == (images, targets)
    assert unmixed(mixer, images, targets, 4) == (images, targets)


def test_box_mixers_support_prob_and_mix_choice():
    images, targets = batch()
    never = BoxResizeMix(prob=0.0)
    out, same = never(images, targets)
    assert out is images and same is targets
    choice = MixChoice([BoxResizeMix(), BoxSpliceMix()], [0.5, 0.3])
    kinds = {choice.sample(4, *CANVAS, torch.Generator().manual_seed(seed)).index for seed in range(40)}
    assert kinds == {-1, 0, 1}
    for seed in range(10):
        choice.apply(images, targets, choice.sample(4, *CANVAS, torch.Generator().manual_seed(seed)))
    made = build("MixChoice", mixers=[{"type": "BoxResizeMix"}, {"type": "boxsplicemix"}], probs=[0.5, 0.5])
    assert made.takes_boxes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i, t: BoxResizeMix((0, 0.5)), "0 < low ≤ high ≤ 1"),
        (lambda i, t: BoxResizeMix(0.5), "needs two numbers"),
        (lambda i, t: BoxResizeMix()(i, torch.zeros(4)), "sets with boxes"),
        (lambda i, t: BoxSpliceMix()(i, [{"size": (9, 9)}] * 4), "boxes, labels, difficult and size"),
        (
            lambda i, t: BoxResizeMix()(i, [one | {"boxes": one["boxes"].to("meta")} for one in t]),
            "mix before they are moved there",
        ),
        (lambda i, t: BoxSpliceMix()(i, t[:3]), "4 images, 3 targets and params drawn for 4"),
        (lambda i, t: BoxSpliceMix()(i[:, :, :50], t), r"an image of size \(60, 90\) in a batch of \(50, 96\)"),
        (lambda i, t: MixChoice([BoxResizeMix(), build("CutMix", num_classes=3)], [0.5, 0.5]), "with other mixers"),
    ],
)
def test_box_mixers_refuse_invalid_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call(*batch())
