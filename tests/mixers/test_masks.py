"""Masks for masked supervision: strokes and holes compared with per-pixel distances, draws, masks from a folder."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from dali_mix.mixers.masks import FolderMaskParams, FolderMasks, FreeFormMasks, FreeFormParams, mask_out

HEIGHT, WIDTH = 13, 21
MEAN_COVERAGE, MIDDLE = 0.31, [0.125, 0.515]  # as stated in the docstring of FreeFormMasks


def generator(seed=7):
    return torch.Generator().manual_seed(seed)


def distance(y, x, start, end):
    """Return the distance from a point to the line segment from `start` to `end`."""
    (y0, x0), (y1, x1) = start, end
    square = (y1 - y0) ** 2 + (x1 - x0) ** 2
    at = 0.0 if square == 0 else max(0.0, min(1.0, ((y - y0) * (y1 - y0) + (x - x0) * (x1 - x0)) / square))
    return math.hypot(y - y0 - at * (y1 - y0), x - x0 - at * (x1 - x0))


def removed(params, image, y, x):
    """Return whether the pixel is removed, or None if float32 may round to either side."""
    reach = []
    for line, radius in zip(params.strokes[image].tolist(), params.stroke_radii[image].tolist(), strict=True):
        reach += [distance(y, x, start, end) - radius for start, end in itertools.pairwise(line) if radius]
    for (cy, cx), radius in zip(params.holes[image].tolist(), params.hole_radii[image].tolist(), strict=True):
        reach += [math.hypot(y - cy, x - cx) - radius] if radius else []
    nearest = min(reach, default=1.0)
    return None if abs(nearest) < 1e-4 else nearest < 0


def check_pixels(masks, params):
    assert masks.shape == (len(params.strokes), 1, params.height, params.width) and masks.dtype == torch.bool
    for image in range(len(masks)):
        for y in range(params.height):
            for x in range(params.width):
                wanted = removed(params, image, y + 0.5, x + 0.5)
                assert wanted is None or bool(masks[image, 0, y, x]) == wanted, (image, y, x)


def test_strokes_and_holes_equal_pixel_loop():
    strokes = torch.tensor(
        [
            [[[2.0, 3.0], [9.0, 15.0], [9.0, 25.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]],
            [[[-4.0, 5.0], [20.0, 5.0], [6.0, 5.0]], [[6.5, 0.0], [6.5, 0.0], [6.5, 21.0]]],
            [[[5.0, 5.0], [6.0, 6.0], [7.0, 5.0]], [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]],
        ]
    )
    params = FreeFormParams(
        HEIGHT,
        WIDTH,
        strokes,
        stroke_radii=torch.tensor([[1.7, 2.2], [0.8, 1.6], [0.0, 0.0]]),
        holes=torch.tensor([[[10.0, 4.0]], [[0.5, 20.5]], [[5.0, 5.0]]]),
        hole_radii=torch.tensor([[2.3], [0.4], [0.0]]),
    )
    masks = FreeFormMasks().masks(params)
    check_pixels(masks, params)
    assert masks[1, 0, 0, 20] and not masks[2].any()


def test_sampled_masks_equal_pixel_loop():
    params = FreeFormMasks().sample(4, HEIGHT, WIDTH, generator())
    check_pixels(FreeFormMasks().masks(params), params)


def test_free_form_params_follow_options():
    masks = FreeFormMasks(strokes=(1, 3), segments=4, length=(0.2, 0.4), stroke_width=(0.1, 0.2), turn=0.5)
    params = masks.sample(3000, 40, 90, generator())
    assert params.strokes.shape == (3000, 3, 5, 2) and params.strokes.dtype == torch.float32
    side = math.sqrt(40 * 90)
    steps = params.strokes.diff(dim=2)
    lengths = steps.norm(dim=-1)
    assert 0.2 * side - 1e-3 <= lengths.min() < 0.205 * side and 0.395 * side < lengths.max() <= 0.4 * side + 1e-3
    heading = torch.atan2(steps[..., 0], steps[..., 1])
    turns = torch.atan2(heading.diff(dim=2).sin(), heading.diff(dim=2).cos())
    assert turns.abs().max() <= 0.501 and turns.min() < -0.49 and turns.max() > 0.49
    start = params.strokes[:, :, 0]
    assert torch.allclose(start.mean((0, 1)), torch.tensor([20.0, 45.0]), atol=1.5)
    assert (start.amin((0, 1)) >= 0).all() and (start.amax((0, 1)) <= torch.tensor([40.0, 90.0])).all()
    present = (params.stroke_radii > 0).sum(1)
    counts = present.bincount(minlength=4).tolist()
    assert counts[0] == 0 and min(counts[1:]) > 900, "one, two and three strokes must be equally frequent"
    widths = 2 * params.stroke_radii[params.stroke_radii > 0]
    assert widths.min() >= 0.1 * side and widths.max() <= 0.2 * side
    assert (params.hole_radii > 0).sum(1).bincount().tolist() == pytest.approx([750] * 4, abs=110)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
def test_coverage_matches_docstring(height, width):
    share = FreeFormMasks()(torch.empty(600, 1, height, width), generator()).float().mean((1, 2, 3)).numpy()
    assert share.mean() == pytest.approx(MEAN_COVERAGE, abs=0.02)
    assert np.percentile(share, [5, 95]) == pytest.approx(MIDDLE, abs=0.04)
    assert share.min() > 0


def test_masks_depend_only_on_generator():
    images = torch.rand(3, 3, HEIGHT, WIDTH)
    state = torch.get_rng_state()
    first, again, other = (FreeFormMasks()(images, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[0], first[1]), "two images have the same mask"
    assert torch.equal(state, torch.get_rng_state())
    assert FreeFormMasks()(images[:0], generator()).shape == (0, 1, HEIGHT, WIDTH)
    assert not FreeFormMasks(strokes=(0, 0), holes=(0, 0))(images, generator()).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strokes": (3, 1)}, "strokes=1: must be an integer of at least 3"),
        ({"strokes": (1.0, 2)}, "strokes=.*integer"),
        ({"holes": (-1, 2)}, "holes="),
        ({"length": (0.3, 0.1)}, "length="),
        ({"stroke_width": (0.1, float("inf"))}, "stroke_width="),
        ({"hole_width": (float("nan"), 0.2)}, "hole_width="),
        ({"segments": 0}, "segments=0"),
        ({"turn": 4}, "turn=4"),
    ],
)
def test_free_form_refuses_invalid_options(options, message):
    with pytest.raises(ValueError, match=message):
        FreeFormMasks(**options)


def test_free_form_params_are_on_requested_device():
    drawn = FreeFormMasks().sample(2, HEIGHT, WIDTH, generator(), device="meta")
    assert drawn.strokes.is_meta and drawn.stroke_radii.is_meta and drawn.holes.is_meta and drawn.hole_radii.is_meta


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    grey = (rng.random((26, 42)) < 0.3).astype(np.uint8) * 255
    Image.fromarray(grey).save(tmp_path / "a.png")
    faint = (rng.random((13, 21)) < 0.5).astype(np.uint8)  # 1 also counts as above 0
    Image.fromarray(faint).save(tmp_path / "b.PNG")
    colour = np.zeros((5, 4, 3), np.uint8)
    colour[2:, 1:] = (90, 20, 200)
    Image.fromarray(colour).save(tmp_path / "c.png")
    deep = np.zeros((6, 7), np.uint16)
    deep[1, 2] = 3
    Image.fromarray(deep).save(tmp_path / "d.png")
    (tmp_path / "notes.txt").write_text("no mask")
    return tmp_path, {"a.png": grey > 0, "b.PNG": faint > 0, "c.png": colour.any(-1), "d.png": deep > 0}


def test_folder_masks_are_resized_by_nearest_pixel(folder):
    path, wanted = folder
    source = FolderMasks(path)
    assert source.names == ("a.png", "b.PNG", "c.png", "d.png") and len(source) == 4
    for height, width in ((HEIGHT, WIDTH), (20, 9)):  # two sizes from the same object
        masks = source.masks(FolderMaskParams(height, width, torch.tensor([3, 0, 2, 1, 0])))
        assert masks.shape == (5, 1, height, width) and masks.dtype == torch.bool
        for mask, name in zip(masks[:, 0], ("d.png", "a.png", "c.png", "b.PNG", "a.png"), strict=True):
            full = wanted[name]
            for y in range(height):
                for x in range(width):
                    assert mask[y, x] == full[y * full.shape[0] // height, x * full.shape[1] // width], (name, y, x)


def test_folder_masks_are_drawn_uniformly_and_read_once(folder, monkeypatch):
    source = FolderMasks(folder[0])
    index = source.sample(20_000, 8, 8, generator()).index
    assert index.bincount().tolist() == pytest.approx([5000] * 4, abs=250)
    monkeypatch.setattr(Image, "open", None)
    first = source(torch.rand(6, 3, 8, 10), generator())
    kept = source._resized[1]
    assert torch.equal(first, source(torch.rand(6, 3, 8, 10), generator()))
    assert source._resized[1] is kept
    assert source(torch.rand(0, 3, 8, 10), generator()).shape == (0, 1, 8, 10)


def test_missing_or_empty_mask_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        FolderMasks(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no \.png"):
        FolderMasks(tmp_path)


def test_folder_masks_repr_shows_length(folder):
    assert repr(FolderMasks(folder[0])) == f"FolderMasks({str(folder[0])!r}: 4 masks)"


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40], ids=["empty", "text", "zeros"]
)
def test_file_that_is_not_png_is_refused(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.png: cannot be read as a PNG"):
        FolderMasks(tmp_path)


def test_truncated_png_is_refused(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"x\.png: cannot be read as a PNG"):
        FolderMasks(tmp_path)


def test_mask_without_removed_pixels_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png: no pixel is above 0"):
        FolderMasks(tmp_path)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("fill", [0.0, 7, (1, 2, 3)], ids=str)
def test_mask_out_fills_masked_pixels(fill, dtype, channels_last):
    images = (torch.rand(2, 3, HEIGHT, WIDTH, generator=generator()) * 200).to(dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    masks = torch.rand(2, 1, HEIGHT, WIDTH, generator=generator()) < 0.4
    out = mask_out(images, masks, fill)
    colour = fill if isinstance(fill, tuple) else (fill,) * 3
    assert out.dtype == dtype and out.stride() == images.stride()
    for i in range(2):
        for c in range(3):
            for y in range(HEIGHT):
                for x in range(WIDTH):
                    assert out[i, c, y, x] == (colour[c] if masks[i, 0, y, x] else before[i, c, y, x])
    assert torch.equal(images, before)


def test_mask_out_gradients_reach_only_unmasked_pixels():
    images = torch.rand(2, 3, HEIGHT, WIDTH, requires_grad=True)
    masks = torch.rand(2, 1, HEIGHT, WIDTH) < 0.5
    mask_out(images, masks, (0.1, 0.2, 0.3)).sum().backward()
    assert torch.equal(images.grad, (~masks).float().expand_as(images))


@pytest.mark.parametrize(
    ("masks", "fill", "message"),
    [
        (torch.zeros(2, 1, 5, 4), 0.0, "float32 do not fit"),
        (torch.zeros(2, 1, 4, 5, dtype=torch.bool), 0.0, r"\(2, 1, 4, 5\)"),
        (torch.zeros(2, 5, 4, dtype=torch.bool), 0.0, r"need \(B,1,H,W\)"),
        (torch.zeros(2, 1, 5, 4, dtype=torch.bool), (1, 2), "each of 3 channels"),
    ],
)
def test_mask_out_refuses_invalid_masks_or_fill(masks, fill, message):
    with pytest.raises(ValueError, match=message):
        mask_out(torch.rand(2, 3, 5, 4), masks, fill)
