from pathlib import Path

import numpy as np
import pytest
import torch
from dali_mix.pipelines import SampleRandom, build
from dali_mix.pipelines.cifar import STATISTICS, Cifar, gather_numpy, gather_torch

from dali_mix import build_loader
from dali_mix.loading.cached import available_memory
from dali_mix.recordio import write_set
from tests.loading.sets import encode, picture


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory):
    """Return the prefix of a set of 20 pictures of 32×24 pixels, and the pictures."""
    prefix = tmp_path_factory.mktemp("cifar") / "set"
    pictures = [picture(32, 24, seed) for seed in range(20)]
    write_set(prefix, [(encode(pixels), seed % 2) for seed, pixels in enumerate(pictures)], classes="ab")
    return prefix, pictures


def naive(pixels, anchor, mirror, mean, std, padding):
    """Pad, crop, flip and normalize one image, pixel by pixel."""
    height, width, _ = pixels.shape
    out = np.zeros((3, height, width))
    for y in range(height):
        for x in range(width):
            row, column = y + anchor[0] - padding, (width - 1 - x if mirror else x) + anchor[1] - padding
            inside = 0 <= row < height and 0 <= column < width
            for c in range(3):
                out[c, y, x] = ((pixels[row, column, c] if inside else 0) / 255 - mean[c]) / std[c]
    return out


def test_training_pixels_match_naive_loop(rectangles):
    prefix, pictures = rectangles
    mean, std = STATISTICS["cifar100"]
    options = {"image_size": (32, 24), "padding": 5, "mean": mean, "std": std}
    one = build_loader(
        "cifar", prefix, batch_size=7, train=True, device="cpu", num_threads=1, seed=3, pipeline_options=options
    )
    one.set_epoch(2)
    drawn = build("cifar", True, options).draw(np.zeros(20), SampleRandom(3, 2, np.arange(20)))
    assert set(drawn["mirror"]) == {False, True} and drawn["anchor"].min() == 0 and drawn["anchor"].max() == 10
    for images, _, ids in one:
        for image, i in zip(images.numpy(), ids.tolist(), strict=True):
            expected = naive(pictures[i], drawn["anchor"][i], drawn["mirror"][i], mean, std, 5)
            assert abs(image - expected).max() < 1e-5


def test_evaluation_only_normalizes(rectangles):
    prefix, pictures = rectangles
    one = build_loader(
        "cifar",
        prefix,
        batch_size=7,
        train=False,
        device="cpu",
        num_threads=1,
        pipeline_options={"image_size": (32, 24)},
    )
    mean, std = (np.array(values)[:, None, None] for values in STATISTICS["cifar10"])
    for images, _, ids in one:
        for image, i in zip(images.numpy(), ids.tolist(), strict=True):
            assert abs(image - (pictures[i].transpose(2, 0, 1) / 255 - mean) / std).max() < 1e-5


def triangle(line, size):
    """Resize a line of pixels (n, C) with a triangle filter; the edge pixels are repeated.

    The radius of the filter is the ratio of the sizes, at least 1.
    """
    ratio = len(line) / size
    radius, out = max(1, ratio), []
    for place in range(size):
        centre = (place + 0.5) * ratio - 0.5
        taps = [(tap, 1 - abs(tap - centre) / radius) for tap in range(-len(line), 2 * len(line))]
        taps = [(line[min(max(tap, 0), len(line) - 1)], weight) for tap, weight in taps if weight > 0]
        out.append(sum(value * weight for value, weight in taps) / sum(weight for _, weight in taps))
    return np.array(out)


@pytest.mark.parametrize("size", [(16, 10), (20, 31)])
def test_other_sizes_are_resized_with_triangle_filter(rectangles, size):
    prefix, pictures = rectangles
    options = {"image_size": size, "padding": 3}
    one = build_loader(
        "cifar", prefix, batch_size=7, train=True, device="cpu", num_threads=1, seed=3, pipeline_options=options
    )
    drawn = build("cifar", True, options).draw(np.zeros(20), SampleRandom(3, 0, np.arange(20)))
    images, _, ids = next(iter(one))
    assert images.shape == (7, 3, *size)
    mean, std = STATISTICS["cifar10"]
    for image, i in zip(images.numpy(), ids.tolist(), strict=True):
        tall = np.stack([triangle(column, size[0]) for column in pictures[i].swapaxes(0, 1).astype(float)], axis=1)
        small = np.stack([triangle(row, size[1]) for row in tall])
        expected = naive(small, drawn["anchor"][i], drawn["mirror"][i], mean, std, 3)
        # half a grey level for rounding, and a little for DALI's arithmetic
        assert abs(image - expected).max() < 0.51 / 255 / min(std)


def test_torch_and_numpy_gather_agree():
    random = np.random.default_rng(0)
    cache = random.integers(0, 256, (6, 3, 14, 11), dtype=np.uint8)
    ids, anchor, mirror = random.integers(0, 6, 30), random.integers(0, 4, (30, 2)), random.random(30) < 0.5
    expected = gather_numpy(cache, ids, anchor, mirror, (11, 8))
    packed = torch.from_numpy(np.column_stack([ids, anchor, mirror]))
    assert np.array_equal(gather_torch(torch.from_numpy(cache), packed, (11, 8)).numpy(), expected)
    assert gather_numpy(cache, ids[:0], anchor[:0], mirror[:0], (11, 8)).shape == (0, 3, 11, 8)


@pytest.mark.gpu
def test_gpu_pixels_equal_cpu(rectangles):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    prefix, _ = rectangles
    found = []
    for device in ("cpu", "cuda"):
        one = build_loader(
            "cifar", prefix, batch_size=7, train=True, device=device, pipeline_options={"image_size": (32, 24)}
        )
        found.append([batch.images for batch in one])
    for ours, theirs in zip(*found, strict=True):
        assert theirs.is_cuda and theirs.is_contiguous(memory_format=torch.channels_last)
        assert theirs.cpu().equal(ours)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("padding", -1),
        ("padding", 33),
        ("padding", 1.5),
        ("flip", 2),
        ("image_size", 0),
        ("mean", (0, 0)),
        ("std", (1, 1, 0)),
    ],
)
def test_invalid_options_are_refused(option, value):
    with pytest.raises(ValueError, match=option):
        Cifar(train=True, **{option: value})


def test_set_larger_than_memory_is_refused(rectangles, monkeypatch):
    monkeypatch.setattr("dali_mix.loading.cached.available_memory", lambda: 2 * 4096)
    with pytest.raises(ValueError, match=r"20 images of 32×24 take .* 'cifar' is for small sets; use 'imagenet'"):
        list(
            build_loader(
                "cifar",
                rectangles[0],
                batch_size=7,
                train=True,
                device="cpu",
                pipeline_options={"image_size": (32, 24)},
            )
        )


def test_available_memory_includes_file_cache():
    figures = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    kilobytes = {name: int(figures[name].split()[0]) for name in ("MemTotal", "MemFree", "MemAvailable")}
    found = available_memory()
    assert found is not None and found < kilobytes["MemTotal"] << 10
    assert abs(found - (kilobytes["MemAvailable"] << 10)) < 1 << 30


def test_draws_are_made_once_per_epoch(rectangles, monkeypatch):
    drawn = []
    draw = Cifar.draw
    monkeypatch.setattr(Cifar, "draw", lambda self, rows, random: drawn.append(len(rows)) or draw(self, rows, random))
    options = {"image_size": (32, 24)}
    one = build_loader("cifar", rectangles[0], batch_size=3, train=True, device="cpu", pipeline_options=options)
    for _ in range(3):
        assert sorted(torch.cat([batch.ids for batch in one]).tolist()) == list(range(20))
    assert drawn == [20, 20, 20]
