import math
from collections import Counter

import numpy as np
import pytest
import torch
from dali_mix.pipelines.random import SampleRandom
from dali_mix.pipelines.steps.geometry import CentreCrop, MultiScaleCrop, RandomResizedCrop
from scipy import stats
from torchvision.transforms import v2

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def naive_window(u, height, width, scale, ratio):
    """Return the window (top, left, height, width) of one record from its draws `u`, computed with a loop."""
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
def test_random_resized_crop_matches_naive_loop(scale, ratio):
    sizes = np.random.default_rng(0).integers(1, 600, (500, 2))
    ids = np.arange(500)
    drawn = RandomResizedCrop(scale, ratio).draw(sizes, SampleRandom(1, 2, ids))
    anchor, shape = drawn["anchor"], drawn["shape"]
    u = SampleRandom(1, 2, ids).uniform(22)
    expected = [naive_window(u[i], int(h), int(w), scale, ratio) for i, (h, w) in enumerate(sizes)]
    assert np.array_equal(np.hstack([anchor, shape]), expected)
    assert (anchor >= 0).all() and (shape >= 1).all() and (anchor + shape <= sizes).all()


def test_random_resized_crop_falls_back_to_centred_window():
    sizes = np.array([[1, 1], [300, 10], [1000, 100], [50, 5000]])
    drawn = RandomResizedCrop((0.99, 1.0), RATIO).draw(sizes, SampleRandom(0, 0, np.arange(4)))
    assert drawn["shape"].tolist() == [[1, 1], [13, 10], [133, 100], [50, 67]]
    assert drawn["anchor"].tolist() == [[0, 0], [143, 0], [433, 0], [0, 2466]]


def test_random_resized_crop_distribution_matches_torchvision():
    count, height, width = 3000, 300, 401
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(224, SCALE, RATIO)
    theirs = [transform.make_params([image]) for _ in range(count)]
    sizes = np.tile([height, width], (count, 1))
    drawn = RandomResizedCrop(SCALE, RATIO).draw(sizes, SampleRandom(0, 0, np.arange(count)))
    anchor, size = drawn["anchor"], drawn["shape"]
    for name, ours in (("top", anchor[:, 0]), ("left", anchor[:, 1]), ("height", size[:, 0]), ("width", size[:, 1])):
        assert stats.ks_2samp([params[name] for params in theirs], ours).pvalue > 1e-3, name
    assert 0.40 < (size.prod(axis=1) / (height * width)).mean() < 0.54


@pytest.mark.parametrize("side", [32, 224])
def test_centre_crop_matches_torchvision(side):
    sizes = np.random.default_rng(1).integers(8, 500, (60, 2))
    drawn = CentreCrop((side, side), side * 8 // 7 / side).draw(sizes, SampleRandom(0, 0, np.arange(60)))
    resized = drawn["size"]
    for (height, width), ours in zip(sizes, resized, strict=True):
        theirs = v2.functional.resize(torch.zeros(1, int(height), int(width)), [side * 8 // 7])
        assert tuple(ours) == tuple(theirs.shape[1:])
    for (height, width), (top, left) in zip(resized, drawn["anchor"], strict=True):
        numbered = torch.arange(int(height) * int(width)).reshape(1, int(height), int(width))
        assert v2.functional.center_crop(numbered, [side, side])[0, 0, 0] == top * width + left


def test_centre_crop_covers_non_square_target():
    drawn = CentreCrop((64, 96), 1.0).draw(np.array([[100, 50], [50, 100], [64, 96]]), SampleRandom(0, 0, np.arange(3)))
    assert drawn["size"].tolist() == [[192, 96], [64, 128], [64, 96]]


def test_multi_scale_crop_draws_published_windows():
    count = 100_000
    drawn = MultiScaleCrop().draw(np.tile([512, 1024], (count, 1)), SampleRandom(2, 0, np.arange(count)))
    anchor, shape = drawn["anchor"], drawn["shape"]
    scales = [1.0, 0.875, 0.75, 0.66, 0.5]
    wanted_pairs = {
        (round(512 * a), round(1024 * b)) for i, a in enumerate(scales) for j, b in enumerate(scales) if abs(i - j) <= 2
    }
    pairs = Counter(map(tuple, shape.tolist()))
    assert set(pairs) == wanted_pairs and len(wanted_pairs) == 19
    expected = count / 19
    assert (
        sum((found - expected) ** 2 / expected for found in pairs.values()) < 42.3
    )  # chi-squared with 18 degrees of freedom, p = 0.001
    assert (anchor >= 0).all() and (anchor + shape <= [512, 1024]).all()
    small = (shape == [256, 512]).all(1)
    places = Counter(map(tuple, anchor[small].tolist()))
    tops, lefts = [0, 64, 128, 192, 256], [0, 128, 256, 384, 512]
    corners = {(tops[a], lefts[b]) for a in (0, 4) for b in (0, 4)}
    middles = {(256 // 2 * a, 512 // 2 * b) for a, b in [(1, 1), (1, 0), (1, 2), (0, 1), (2, 1)]}
    quarters = {(tops[a], lefts[b]) for a in (1, 3) for b in (1, 3)}
    assert set(places) == corners | middles | quarters
    expected = small.sum() / 13
    assert sum((found - expected) ** 2 / expected for found in places.values()) < 32.9  # 12 degrees of freedom


def test_multi_scale_crop_keeps_a_pixel_of_tiny_images():
    sizes = np.array([[1, 1], [1, 5], [2, 2], [3, 1]])
    for epoch in range(20):
        drawn = MultiScaleCrop().draw(sizes, SampleRandom(0, epoch, np.arange(4)))
        anchor, shape = drawn["anchor"], drawn["shape"]
        assert (shape >= 1).all() and (anchor >= 0).all() and (anchor + shape <= sizes).all()
