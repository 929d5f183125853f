"""Steps that support boxes, compared with per-box loops and with torchvision's transforms."""

import numpy as np
import pytest
import torch
from dali_mix.pipelines.random import SampleRandom
from dali_mix.pipelines.steps import Flip, IoUCrop, ShorterSide, ZoomOut
from scipy import stats
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

SIZES = np.random.default_rng(0).integers(20, 700, (300, 2)).astype(np.int32)


def randoms(count=300, epoch=0):
    return SampleRandom(7, epoch, np.arange(count))


def boxes_in(size, count, seed):
    random = np.random.default_rng(seed)
    low, high = np.sort(random.uniform(0, 1, (2, count, 2)), axis=0)
    return np.concatenate([low, high], axis=1) * np.tile(size[::-1], 2)


def draws_at(draws, index):
    return {name: values[index] for name, values in draws.items()}


def through_v2(function, boxes, size, *args, **options):
    """Apply a functional of torchvision to the boxes of an image of `size`."""
    made = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=tuple(size.tolist()))
    return function(made, *args, **options).numpy()


@pytest.mark.parametrize(("shorter", "longest"), [(600, 1000), ((480, 512, 800), 1333), (800, 800)])
def test_shorter_side_draws_expected_sizes(shorter, longest):
    step = ShorterSide(shorter, longest)
    drawn = step.draw(SIZES, randoms())["size"]
    choices = np.atleast_1d(shorter)
    for size, found in zip(SIZES, drawn, strict=True):
        wanted = []
        for side in choices:
            factor = min(side / size.min(), longest / size.max())
            wanted.append([int(size[0] * factor + 1e-9), int(size[1] * factor + 1e-9)])
        assert found.tolist() in wanted
    if len(choices) > 1:
        landscape = SIZES[:, 0] <= SIZES[:, 1]
        sides = {side for side in drawn.min(axis=1)[landscape].tolist() if side in choices}
        assert sides == {480, 512, 800}


@pytest.mark.parametrize("index", range(0, 40, 3))
def test_resized_and_flipped_boxes_match_torchvision(index):
    size, boxes = SIZES[index], boxes_in(SIZES[index], 9, index)
    step = ShorterSide((300, 500), 640)
    draws = draws_at(step.draw(SIZES, randoms()), index)
    wanted = through_v2(v2.functional.resize, boxes, size, draws["size"].tolist())
    np.testing.assert_allclose(step.map_boxes(boxes, size, draws), wanted, atol=0.01)
    wanted = through_v2(v2.functional.horizontal_flip, boxes, size)
    np.testing.assert_allclose(Flip(1.0).map_boxes(boxes, size, {"mirror": 1}), wanted, atol=1e-9)


def test_zoom_out_moves_boxes_with_image():
    step = ZoomOut(0.5, (0.5, 0.5, 0.5), (1.0, 4.0))
    draws = step.draw(SIZES, randoms())
    grown = (draws["shape"] != SIZES).any(axis=1)
    assert 0.4 < grown.mean() < 0.6
    assert (draws["anchor"] <= 0).all() and (SIZES - draws["anchor"] <= draws["shape"]).all()
    factor = (draws["shape"] / SIZES)[grown]
    assert 1.0 <= factor.min() < 1.2 and 3.8 < factor.max() <= 4.0
    for index in np.flatnonzero(grown)[:20].tolist():
        boxes, drawn = boxes_in(SIZES[index], 5, index), draws_at(draws, index)
        top, left = -drawn["anchor"]
        bottom, right = drawn["shape"] - SIZES[index] - [top, left]
        wanted = through_v2(v2.functional.pad, boxes, SIZES[index], [int(x) for x in (left, top, right, bottom)])
        np.testing.assert_allclose(step.map_boxes(boxes, SIZES[index], drawn), wanted, atol=1e-9)


def test_zoom_out_clips_boxes_to_cropped_image():
    draws = {"shape": np.array([60, 80]), "anchor": np.array([-7, -3])}
    found = ZoomOut(1.0, (0, 0, 0)).map_boxes(np.array([[-10.0, -5, 30, 70]]), np.array([40, 50]), draws)
    assert found.tolist() == [[3, 7, 33, 47]]


def test_zoom_out_respects_largest_side():
    drawn = ZoomOut(1.0, (0, 0, 0)).draw(np.array([[3000, 4000], [9000, 20]], np.int32), randoms(2))
    assert drawn["shape"].max() <= 9000 and (drawn["shape"] >= [[3000, 4000], [9000, 20]]).all()


def test_iou_crop_keeps_an_object():
    step = IoUCrop(1.0)
    boxes = [boxes_in(size, 1 + index % 6, index) for index, size in enumerate(SIZES)]
    draws = step.draw_from_boxes(SIZES, boxes, randoms())
    cut = (draws["shape"] != SIZES).any(axis=1)
    assert 0.6 < cut.mean() < 0.9
    assert (draws["anchor"] >= 0).all() and (draws["anchor"] + draws["shape"] <= SIZES).all()
    least = []
    for index in np.flatnonzero(cut).tolist():
        (top, left), (height, width) = draws["anchor"][index].tolist(), draws["shape"][index].tolist()
        window = np.array([left, top, left + width, top + height])
        assert 0.5 <= width / height <= 2
        kept, wanted = [], []
        for box in boxes[index]:
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            if window[0] < x < window[2] and window[1] < y < window[3]:
                kept.append(box)
                wanted.append(np.clip(box - np.tile(window[:2], 2), 0, [width, height, width, height]))
        assert kept, "a window without an object"
        overlaps = box_iou(torch.from_numpy(np.array(kept)), torch.from_numpy(window[None].astype(float)))
        least.append(float(overlaps.max()))
        found = np.clip(
            step.map_boxes(boxes[index], SIZES[index], draws_at(draws, index)), 0, [width, height, width, height]
        )
        found = found[(found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1])]
        np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert (np.array(least) > 0.5).mean() > 0.2  # without the condition, most overlaps would be small


@pytest.mark.parametrize("size", [(300, 400), (200, 600), (600, 200)])
def test_iou_crop_distribution_matches_torchvision(size):
    """Compare the share of cut images and the areas and aspect ratios of windows for one object near the centre."""
    count, sizes = 4000, np.array([size], np.int32)
    box = np.array([[0.3, 0.27, 0.65, 0.77]]) * np.tile(size[::-1], 2)
    drawn = IoUCrop(1.0).draw_from_boxes(sizes.repeat(count, axis=0), [box] * count, randoms(count))["shape"]
    torch.manual_seed(0)
    transform, image = v2.RandomIoUCrop(), torch.zeros(3, *size, dtype=torch.uint8)
    target = {"boxes": tv_tensors.BoundingBoxes(torch.from_numpy(box), format="XYXY", canvas_size=size)}
    theirs = np.array([transform(image, target)[0].shape[1:] for _ in range(1000)])
    areas, ratios, cut = (
        [function(made) for made in (drawn, theirs)]
        for function in (
            lambda made: made.prod(axis=1) / sizes.prod(),
            lambda made: made[:, 1] / made[:, 0],
            lambda made: (made != sizes).any(axis=1),
        )
    )
    assert cut[0].mean() == pytest.approx(cut[1].mean(), abs=0.04)
    assert areas[0][cut[0]].mean() == pytest.approx(areas[1][cut[1]].mean(), abs=0.03)
    for ours, other in (areas, ratios):
        assert stats.ks_2samp(ours, other).pvalue > 1e-3


@pytest.mark.parametrize("boxes", [np.empty((0, 4)), np.array([[-5.0, -5.0, 0.0, 0.0]])], ids=["none", "outside"])
def test_iou_crop_without_objects_keeps_image(boxes):
    drawn = IoUCrop(1.0).draw_from_boxes(SIZES, [boxes] * len(SIZES), randoms())
    assert np.array_equal(drawn["shape"], SIZES) and not drawn["anchor"].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShorterSide([], 100), r"shorter=\[\]"),
        (lambda: ShorterSide(8, 100), "shorter=8: must be an integer from 16"),
        (lambda: ShorterSide((600, 800), 700), "longest=700: must be an integer from 800"),
        (lambda: ZoomOut(0.5, (0, 0, 0), (0.5, 2)), "zoom="),
        (lambda: IoUCrop(1.5), "iou_crop=1.5"),
        (lambda: IoUCrop(0.5, (0.0, 1.0)), "iou_crop scale="),
    ],
)
def test_invalid_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
