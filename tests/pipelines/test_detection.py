"""Detection pipeline: independence of the batch, padding, and comparison with DALI's operators."""

import io

import numpy as np
import pytest
import torch
from dali_mix.pipelines import SampleRandom, build
from dali_mix.pipelines.kernels import fused
from dali_mix.pipelines.steps import PhotometricDistort
from PIL import Image
from torchvision.transforms import v2

from dali_mix import build_loader
from dali_mix.recordio import RecordSet, write_set
from tests.loading.sets import boxed_set, encode, picture

SMALL = {"shorter": (48, 64), "longest": 96, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
EVERYTHING = {"zoom_out": 0.5, "iou_crop": 0.7, "photometric": 0.5}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Write smooth pictures of various aspect ratios with one to five boxes. The fourth picture has none."""
    random, samples = np.random.default_rng(1), []
    for index in range(23):
        height, width = random.integers(30, 200, 2)
        low, high = np.sort(random.uniform(0, 1, (2, 1 + index % 5, 2)), axis=0)
        boxes = np.column_stack([random.integers(0, 3, len(low)), low, high, np.arange(len(low)) == 1])
        boxes = boxes[: 0 if index == 3 else None]
        samples.append((encode(picture(height, width, index)), [2, 6, *boxes.ravel()]))
    prefix = tmp_path_factory.mktemp("photos") / "set"
    write_set(prefix, samples, task="detection", classes="abc")
    return RecordSet(prefix)


def batches(records, *, train=True, batch_size=4, epoch=0, **options):
    loader = build_loader(
        "detection",
        records,
        batch_size=batch_size,
        train=train,
        device="cpu",
        num_threads=1,
        pipeline_options={**SMALL, **options},
    )
    loader.set_epoch(epoch)
    return list(loader)


def by_id(made):
    """Return a dict from record to (valid pixels, padding, target)."""
    found = {}
    for images, targets, ids in made:
        for image, target, number in zip(images.numpy(), targets, ids.tolist(), strict=True):
            height, width = target["size"]
            padding = np.concatenate([image[:, height:].ravel(), image[:, :height, width:].ravel()])
            assert number not in found
            found[number] = image[:, :height, :width].copy(), padding, target
    return found


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("fuse", [True, False])
def test_records_do_not_depend_on_batch(photos, train, fuse):
    options = {"fuse": fuse, **(EVERYTHING if train else {})}
    alone, many = (by_id(batches(photos, train=train, batch_size=size, **options)) for size in (1, 7))
    assert alone.keys() == many.keys() == set(range(len(photos)))
    for number, (pixels, _, target) in alone.items():
        np.testing.assert_array_equal(many[number][0], pixels)
        for name in ("boxes", "labels", "difficult"):
            assert many[number][2][name].equal(target[name])
        assert not many[number][1].any(), "the padding is not zero"
        assert many[number][2]["original"] == tuple(photos.table[number][["height", "width"]].tolist())


@pytest.mark.parametrize("train", [True, False])
def test_fused_operator_matches_stock_graph(photos, train):
    assert fused.available()
    ours, stock = (by_id(batches(photos, train=train, batch_size=5, fuse=fuse)) for fuse in (True, False))
    for number, (pixels, _, _) in ours.items():
        assert np.abs(pixels - stock[number][0]).max() * 255 < 1.01  # values near .5 may round differently
        assert not stock[number][1].any()
    assert any(padding.size for _, padding, _ in ours.values())
    assert any((pixels != stock[number][0]).any() for number, (pixels, _, _) in ours.items()), "same operators"


def test_evaluation_pixels_and_boxes_match_reference(photos):
    encoded = photos.encoded
    for number, (pixels, _, target) in by_id(batches(photos, train=False)).items():
        height, width = target["original"]
        factor = min(64 / min(height, width), 96 / max(height, width))
        assert target["size"] == (int(height * factor + 1e-9), int(width * factor + 1e-9))
        image = Image.open(io.BytesIO(encoded(number).tobytes())).resize(
            target["size"][::-1], Image.Resampling.BILINEAR
        )
        assert np.abs(pixels - np.asarray(image).transpose(2, 0, 1) / 255).mean() * 255 < 1
        label = photos.labels(np.array([number]))[0]
        np.testing.assert_allclose(target["boxes"].numpy(), label[:, 1:5] * np.tile(target["size"][::-1], 2), atol=1e-3)
        assert target["labels"].tolist() == label[:, 0].tolist()
        assert target["difficult"].tolist() == (label[:, 5] > 0).tolist()


@pytest.mark.parametrize("options", [{}, {"zoom_out": 1.0}, {"iou_crop": 1.0}, EVERYTHING], ids=str)
@pytest.mark.parametrize("fuse", [True, False])
def test_boxes_stay_on_their_objects(tmp_path, options, fuse):
    """The boxes of white rectangles on black match the pixels in the batches. Zoom-out also fills with black."""
    boxed_set(tmp_path / "set", 40, 260)
    checked = 0
    for epoch in (0, 1):
        made = by_id(batches(RecordSet(tmp_path / "set"), batch_size=8, epoch=epoch, fuse=fuse, **options))
        for pixels, _, target in made.values():
            rows, columns = np.nonzero(pixels.mean(axis=0) > 0.35)
            if len(target["boxes"]) and len(rows) > 20:
                found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert np.abs(target["boxes"][0].numpy() - np.array(found)).max() < 2.0
                checked += 1
    assert checked > 55


def test_training_batches_have_one_orientation(photos):
    taller = photos.table["height"] > photos.table["width"]
    for train in (True, False):
        mixed = [len(set(taller[ids.numpy()].tolist())) > 1 for _, _, ids in batches(photos, train=train)]
        assert sum(mixed) <= (1 if train else len(mixed))
        assert train or any(mixed)


def test_canvas_is_smallest_multiple_of_32(photos):
    for images, targets, _ in batches(photos, **EVERYTHING):
        largest = np.array([target["size"] for target in targets]).max(axis=0)
        assert tuple(images.shape[2:]) == tuple((-(-largest // 32) * 32).tolist())


def test_dropped_boxes_are_counted(photos):
    loader = build_loader(
        "detection", photos, batch_size=4, train=True, device="cpu", pipeline_options={**SMALL, "iou_crop": 1.0}
    )
    seen = sum(len(target["boxes"]) for batch in loader for target in batch.targets)
    total = sum(len(label) for label in photos.labels(np.arange(len(photos))))
    assert loader.dropped_boxes == total - seen > 0


def test_photometric_distortion_spread_matches_torchvision():
    """Check the mean of the levels of a flat image, and compare their spread with torchvision's.

    The colour is chosen to need no clipping, because torchvision clips between the changes.
    """
    draws = PhotometricDistort(1.0).draw(np.ones((20_000, 2)), SampleRandom(0, 0, np.arange(20_000)))
    colour = np.array([120.0, 110.0, 100.0])
    out = (draws["matrix"] + draws["mean"]) @ colour + draws["offset"]
    unchanged = np.abs(out - colour).max(axis=1) < 1e-3
    assert unchanged.mean() == pytest.approx(
        0.5**4 * (1 - 0.5 * 5 / 6), abs=0.005
    )  # 1 channel order in 6 is the identity
    assert out.mean() == pytest.approx(110, abs=0.7)
    torch.manual_seed(0)
    image = torch.from_numpy(colour).to(torch.uint8)[:, None, None].expand(3, 4, 4)
    transform = v2.RandomPhotometricDistort()
    theirs = np.array([transform(image)[:, 0, 0].numpy() for _ in range(4000)])
    assert out.std() == pytest.approx(theirs.std(), rel=0.1)


def test_set_without_boxes_keeps_labels(tmp_path):
    samples = [(encode(picture(40 + index, 60, index)), index % 2) for index in range(6)]
    write_set(tmp_path / "set", samples, classes="ab")
    made = batches(tmp_path / "set", batch_size=3, iou_crop=1.0)
    assert sorted(int(label) for batch in made for label in batch.targets) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("options", [{"shorter": 5}, {"shorter": 700, "longest": 500}, {"flip": 2}, {"zoom_out": -1}])
def test_invalid_options_are_refused(options):
    (name,) = options.keys() - {"shorter"} or {"shorter"}
    with pytest.raises(ValueError, match=f"{name}="):
        build("detection", True, options)
