"""Saliency maps of torch and of compiled loops, compared with OpenCV and with a loop in plain Python."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from dali_mix.mixers import fine_grained_saliency
from dali_mix.mixers.kernels import torch_saliency
from dali_mix.mixers.ops.saliency import peaks
from tests.mixers.opencv_env import DATA, opencv_maps, opencv_python
from tests.mixers.pictures import drawn, drawn_pictures, photo_crops

PICTURES = drawn_pictures()


@pytest.fixture(autouse=True)
def one_thread():
    """Use one torch thread, because more threads slow down the processing of many small images."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch(*pictures):
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def assert_opencv(picture, wanted):
    """Compare the map of a picture with OpenCV's map `wanted`.

    Where the sum of on and off exceeds 255, OpenCV's 8 bits wrap and ours are 255.
    """
    images = batch(picture)
    sums = torch_saliency._sums(images)
    assert np.array_equal(sums[0].numpy() & 255, wanted)
    clamped = sums.clamp(max=255).to(torch.uint8)
    assert torch.equal(fine_grained_saliency(images), clamped)


def saliency_by_loop(picture):
    """Compute the map pixel by pixel with lists and Python integers, and with float32 where OpenCV uses it."""
    height, width, _ = picture.shape
    grey = [[(9798 * int(r) + 19235 * int(g) + 3735 * int(b) + 16384) // 32768 for r, g, b in row] for row in picture]

    def mirrored(index, size):
        if size == 1:
            return 0
        return -index if index < 0 else 2 * (size - 1) - index if index >= size else index

    for _ in range(2):
        blurred = [[0] * width for _ in range(height)]
        for y in range(height):
            for x in range(width):
                total = 0
                for dy, down in ((-1, 1), (0, 2), (1, 1)):
                    for dx, across in ((-1, 1), (0, 2), (1, 1)):
                        total += down * across * grey[mirrored(y + dy, height)][mirrored(x + dx, width)]
                blurred[y][x] = (total + 8) // 16
        grey = blurred
    on, off = [[0] * width for _ in range(height)], [[0] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            for radius in (12, 24, 48, 28, 56, 112):
                rows = range(max(0, y - radius + 1), min(height, y + radius + 1))
                cols = range(max(0, x - radius + 1), min(width, x + radius + 1))
                others = [grey[v][u] for v in rows for u in cols if (v, u) != (y, x)]
                if others:
                    surround = np.float32(sum(others)) / np.float32(len(others))
                    on[y][x] += max(0, math.floor(np.float32(grey[y][x]) - surround))
                    off[y][x] += max(0, math.floor(surround - np.float32(grey[y][x])))
    out = np.zeros((height, width), np.int64)
    for sums in (on, off):
        most = max(map(max, sums))
        for y in range(height):
            for x in range(width):
                out[y, x] += int(255 * float(np.float32(sums[y][x]) / np.float32(most))) if most else 0
    return np.minimum(out, 255).astype(np.uint8)


@pytest.mark.parametrize("name", PICTURES)
def test_equals_opencv_on_drawn_pictures(name):
    with np.load(DATA) as maps:
        assert set(maps) == set(PICTURES)
        assert_opencv(PICTURES[name], maps[name])


def test_sum_above_255_is_clamped():
    sums = torch_saliency._sums(batch(PICTURES["bowl_180x200"]))
    assert (sums > 255).sum() > 10
    with np.load(DATA) as maps:
        assert maps["bowl_180x200"][(sums > 255)[0]].max() < 60, "OpenCV's most salient pixels did not wrap"
    row, column = peaks(fine_grained_saliency(batch(PICTURES["bowl_180x200"])))
    assert abs(row.item() - 90) <= 4 and abs(column.item() - 100) <= 4
    torch_maps = torch_saliency.saliency(batch(PICTURES["bowl_180x200"]))
    assert torch.equal(torch_maps, sums.clamp(max=255).to(torch.uint8)), "the sum wraps in torch operations"


def test_equals_opencv_on_200_photo_crops():
    """OpenCV itself runs in a separate environment."""
    python = opencv_python()
    if python is None:
        pytest.skip("opencv-contrib needs its own environment, and no Python with venv was found")
    crops = photo_crops(200, seed=1)
    assert len({crop.shape for crop in crops.values()}) > 100
    found = opencv_maps(python, crops)
    for name, crop in crops.items():
        assert_opencv(crop, found[name])
    with np.load(DATA) as kept:  # the stored maps equal OpenCV's
        for name, wanted in opencv_maps(python, PICTURES).items():
            assert np.array_equal(kept[name], wanted), name


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 3), (5, 1), (13, 9), (9, 26), (31, 14)])
def test_saliency_equals_pixel_loop(size):
    for seed in (1, 2):
        picture = drawn(*size, seed)
        wanted = saliency_by_loop(picture)
        assert np.array_equal(torch_saliency.saliency(batch(picture))[0].numpy(), wanted)
        assert np.array_equal(fine_grained_saliency(batch(picture))[0].numpy(), wanted)


def test_integer_scaling_equals_opencv_float_scaling():
    """The integer formula equals OpenCV's truncated float64 product of a float32 quotient for every possible sum."""
    for most in range(1, 6 * 255 + 1):
        values = np.arange(most + 1)
        opencvs = 255.0 * (values.astype(np.float32) / np.float32(most)).astype(np.float64)
        assert np.array_equal(255 * values // most, opencvs.astype(np.uint8))
    found = torch_saliency._to_byte(torch.from_numpy(values.astype(np.float32))[None, None])
    assert np.array_equal(found[0, 0].numpy(), 255 * values // most)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch_size", [0, 1, 3, 8])
def test_maps_do_not_depend_on_other_images(batch_size, channels_last):
    torch.set_num_threads(3)  # a batch of 8 is split between threads; smaller batches use one thread
    images = torch.zeros(0, 3, 120, 90, dtype=torch.uint8)
    if batch_size:
        images = batch(*(drawn(120, 90, seed) for seed in range(batch_size)))
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    for compute in (fine_grained_saliency, torch_saliency.saliency):
        maps = compute(images)
        assert (maps.shape, maps.dtype) == ((batch_size, 120, 90), torch.uint8)
        assert maps.is_contiguous()
        for image, found in zip(images, maps, strict=True):
            assert torch.equal(compute(image[None].contiguous())[0], found)
    assert torch.equal(images, before)


def test_views_and_expanded_images_equal_contiguous():
    wide = batch(drawn(40, 60, 1), drawn(40, 60, 2))
    view = wide[:, :, 3:33, 10:50]
    assert torch.equal(fine_grained_saliency(view), fine_grained_saliency(view.contiguous()))
    assert torch.equal(fine_grained_saliency(view.flip(1)), torch_saliency.saliency(view.flip(1)))
    grey = wide[:, :1].expand(-1, 3, -1, -1)
    assert torch.equal(fine_grained_saliency(grey), fine_grained_saliency(grey.contiguous()))


@pytest.mark.parametrize("level", [0, 7, 255])
def test_constant_image_has_no_saliency(level):
    assert not fine_grained_saliency(torch.full((2, 3, 20, 30), level, dtype=torch.uint8)).any()


def test_saliency_works_without_numba_jit(tmp_path):
    """A subprocess disables numba with NUMBA_DISABLE_JIT; torch operations give OpenCV's map."""
    np.save(tmp_path / "image.npy", batch(PICTURES["drawn_48x64"]).numpy())
    code = """
import sys
import numpy as np, torch
from dali_mix.mixers import fine_grained_saliency, kernels
images = torch.from_numpy(np.load(sys.argv[1]))
assert kernels.pick("saliency", images).__module__ == "dali_mix.mixers.kernels.torch_saliency"
np.save(sys.argv[2], fine_grained_saliency(images).numpy())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "image.npy"), str(tmp_path / "map.npy")]
    subprocess.run(command, env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True, timeout=120)
    with np.load(DATA) as maps:
        assert np.array_equal(np.load(tmp_path / "map.npy")[0], maps["drawn_48x64"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"\(3, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r"\(2, 1, 8, 8\)"),
        (torch.zeros(2, 3, 0, 8, dtype=torch.uint8), r"\(2, 3, 0, 8\)"),
        (torch.zeros(2, 3, 8, 8), r"float32.*uint8"),
    ],
)
def test_saliency_refuses_wrong_shape_or_dtype(images, message):
    with pytest.raises(ValueError, match=message):
        fine_grained_saliency(images)


def test_peaks_return_first_maximum_in_row_major_order():
    maps = torch.zeros(4, 5, 7, dtype=torch.uint8)
    maps[0, 2, 6] = maps[0, 3, 0] = maps[0, 4, 6] = 9
    maps[1, 4, 6] = 255
    maps[2, 1, 3] = maps[2, 1, 5] = 1
    rows, columns = peaks(maps)
    assert rows.tolist() == [2, 4, 1, 0]
    assert columns.tolist() == [6, 6, 3, 0]
    assert rows.dtype == columns.dtype == torch.int64
    assert [index.shape for index in peaks(maps[:0])] == [(0,), (0,)]


@pytest.mark.parametrize(
    ("images", "mean", "message"),
    [
        (torch.zeros(1, 1, 40, 40), (0.5,) * 3, r"takes \(B,3,H,W\)"),
        (torch.zeros(1, 3, 4, 4), (0.5,), "three numbers"),
        (torch.zeros(1, 3, 4, 4), None, "needs the mean and std"),
        (torch.zeros(1, 3, 4, 5, dtype=torch.int32), (0.5,) * 3, "int32: saliency takes uint8"),
    ],
)
def test_saliency_refuses_images_without_grey_levels(images, mean, message):
    with pytest.raises(ValueError, match=message):
        fine_grained_saliency(images, mean, mean)


def test_mean_and_std_are_ignored_for_uint8():
    images = batch(PICTURES["drawn_48x64"])
    assert torch.equal(fine_grained_saliency(images, (0.5,) * 3, (0.2,) * 3), fine_grained_saliency(images))
