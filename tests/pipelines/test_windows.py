import math

import numpy as np
import pytest
import torch
from dali_mix.pipelines.random import SampleRandom
from dali_mix.pipelines.steps import window
from scipy import stats
from torchvision.transforms import v2

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def naive_window(u, height, width, scale, ratio):
    """One record's window, by the loop everybody writes."""
    for i in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u[i])
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * u[10 + i])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(u[20] * (height - h + 1)), int(u[21] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(("scale", "ratio"), [(SCALE, RATIO), ((0.9, 1.0), (0.2, 0.3)), ((0.5, 0.6), (1.0, 1.0))])
def test_windows_equal_the_naive_loop(scale, ratio):
    sizes = np.random.default_rng(0).integers(1, 600, (500, 2))
    ids = np.arange(500)
    anchor, shape = window.random_resized_windows(sizes[:, 0], sizes[:, 1], scale, ratio, SampleRandom(1, 2, ids))
    u = SampleRandom(1, 2, ids).uniform(22)
    expected = [naive_window(u[i], int(h), int(w), scale, ratio) for i, (h, w) in enumerate(sizes)]
    assert np.array_equal(np.hstack([anchor, shape]), expected)
    assert (anchor >= 0).all() and (shape >= 1).all() and (anchor + shape <= sizes).all()


def test_no_fit_takes_the_largest_centred_window():
    height, width = np.array([1, 300, 1000, 50]), np.array([1, 10, 100, 5000])
    anchor, shape = window.random_resized_windows(height, width, (0.99, 1.0), RATIO, SampleRandom(0, 0, np.arange(4)))
    assert shape.tolist() == [[1, 1], [13, 10], [133, 100], [50, 67]]
    assert anchor.tolist() == [[0, 0], [143, 0], [433, 0], [0, 2466]]


def test_windows_are_distributed_as_torchvisions():
    count, height, width = 3000, 300, 401
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(224, SCALE, RATIO)
    theirs = [transform.make_params([image]) for _ in range(count)]
    shape = np.full(count, height), np.full(count, width)
    anchor, size = window.random_resized_windows(*shape, SCALE, RATIO, SampleRandom(0, 0, np.arange(count)))
    for name, ours in (("top", anchor[:, 0]), ("left", anchor[:, 1]), ("height", size[:, 0]), ("width", size[:, 1])):
        assert stats.ks_2samp([params[name] for params in theirs], ours).pvalue > 1e-3, name
    assert 0.40 < (size.prod(axis=1) / (height * width)).mean() < 0.54


@pytest.mark.parametrize("side", [32, 224])
def test_evaluation_sizes_and_places_are_torchvisions(side):
    sizes = np.random.default_rng(1).integers(8, 500, (60, 2))
    resized = window.covering_sizes(sizes[:, 0], sizes[:, 1], (side * 8 // 7, side * 8 // 7))
    for (height, width), ours in zip(sizes, resized, strict=True):
        theirs = v2.functional.resize(torch.zeros(1, int(height), int(width)), [side * 8 // 7])
        assert tuple(ours) == tuple(theirs.shape[1:])
    position = window.centre_crop_positions(resized, (side, side))
    start = np.rint(position.astype(np.float64) * (resized - side))
    for (height, width), (top, left) in zip(resized, start, strict=True):
        numbered = torch.arange(int(height) * int(width)).reshape(1, int(height), int(width))
        assert v2.functional.center_crop(numbered, [side, side])[0, 0, 0] == top * width + left


def test_a_target_that_is_not_square_is_just_covered():
    sizes = window.covering_sizes(np.array([100, 50, 64]), np.array([50, 100, 96]), (64, 96))
    assert sizes.tolist() == [[192, 96], [64, 128], [64, 96]]
