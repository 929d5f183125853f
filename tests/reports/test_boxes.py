"""Boxes on images: colours of found and missed objects, drawn files, galleries of sets with boxes."""

import numpy as np
import pytest
import torch
from PIL import Image

from dali_mix.cli.main import main
from dali_mix.metrics import DetectionMetrics
from dali_mix.recordio import RecordSet, write_set
from dali_mix.reports import gallery
from dali_mix.reports.boxes import Drawings, outlined, pixels_of, sheet
from tests.recordio.odd_images import ODD
from tests.reports.pictures import encode


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    """Pack six grey images, 80 × 120 (height × width); all but the last have one box. Return the set."""
    samples = []
    for index in range(6):
        label = [2, 6, index % 2, 0.25, 0.25, 0.75, 0.75, 0]
        samples.append((encode(np.full((80, 120, 3), 100, np.uint8)), label[: 2 if index == 5 else None]))
    prefix = tmp_path_factory.mktemp("boxed") / "set"
    write_set(prefix, samples, task="detection", classes=["cat", "dog"])
    return RecordSet(prefix)


def test_outline_lies_inside_box_border():
    image = np.asarray(outlined(np.zeros((40, 50, 3), np.uint8), np.array([[10.0, 5, 30, 25]]), ["#ff0000"], width=1))
    rows, columns = np.nonzero(image[:, :, 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 24, 10, 29)
    assert not image[10:20, 15:25].any()


def test_sheet_shows_found_wrong_and_missed_boxes(boxed, tmp_path):
    metrics, box = DetectionMetrics(2), torch.tensor([[30.0, 20, 90, 60]])
    true = {
        "boxes": box,
        "labels": torch.tensor([0]),
        "difficult": torch.tensor([False]),
    }
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)}
    found = {"boxes": box, "scores": torch.tensor([0.9]), "labels": torch.tensor([0])}
    wrong = {"boxes": torch.tensor([[0.0, 0, 20, 20]]), "scores": torch.tensor([0.8]), "labels": torch.tensor([0])}
    unsure = found | {"scores": torch.tensor([0.4])}
    metrics.update([found, nothing, wrong, unsure, found, nothing], [true] * 6, torch.arange(6))
    assert [len(part) for part in metrics.matched(2)] == [1, 1, 1, 1]
    states = [metrics.matched(number)[2].tolist() for number in range(6)]
    taken = [metrics.matched(number)[3].tolist() for number in range(6)]
    assert states == [[1], [], [0], [], [1], []]
    assert taken == [[True], [False], [False], [False], [True], [False]]
    out = sheet(metrics, boxed, tmp_path / "boxes.png")
    image = np.asarray(Image.open(out).convert("RGB")).astype(int)
    for color in (GREEN, ORANGE, RED):
        assert (np.abs(image - color).max(axis=2) < 12).sum() > 100, color


GREEN, ORANGE, RED = (44, 160, 44), (255, 140, 0), (224, 24, 45)


@pytest.mark.parametrize(
    ("guess", "difficult", "colors"),
    [
        ("right", False, {GREEN}),
        ("none", False, {RED}),
        ("none", True, set()),
        ("right", True, set()),
        ("wrong", False, {ORANGE, RED}),
        ("wrong", True, {ORANGE}),
    ],
)
def test_sheet_colors_of_single_image(boxed, tmp_path, guess, difficult, colors):
    metrics = DetectionMetrics(2)
    places = {"right": [[30.0, 20, 90, 60]], "wrong": [[0.0, 0, 20, 20]], "none": []}[guess]
    found = {"boxes": torch.tensor(places).reshape(-1, 4), "scores": torch.full((len(places),), 0.9)}
    found["labels"] = torch.zeros(len(places))
    true = {"boxes": torch.tensor([[30.0, 20, 90, 60]]), "labels": torch.tensor([0])}
    metrics.update([found], [true | {"difficult": torch.tensor([difficult])}], torch.arange(1))
    image = np.asarray(Image.open(sheet(metrics, boxed, tmp_path / "boxes.png")).convert("RGB")).astype(int)
    drawn = {color for color in (GREEN, ORANGE, RED) if (np.abs(image - color).max(axis=2) < 12).sum() > 50}
    assert drawn == colors


def test_drawings_write_files_with_unique_names(tmp_path, boxed):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.png").write_bytes(boxed.encoded(0).tobytes())
    drawings = Drawings(tmp_path / "out", ("cat", "dog"))
    boxes, scores, labels = torch.tensor([[30.0, 20, 90, 60]]), torch.tensor([0.9]), torch.tensor([1])
    names = [drawings.write(tmp_path / folder / "one.png", boxes, scores, labels).name for folder in ("a", "b")]
    assert names == ["one.png", "one-2.png"]
    image = np.asarray(Image.open(tmp_path / "out" / "one.png"))
    assert image.shape == (80, 120, 3) and (image[40, 30] != 100).any() and (image[40, 60] == 100).all()


@pytest.mark.parametrize(("data", "turn"), ODD.values(), ids=ODD)
def test_pixels_of_odd_files_are_upright(data, turn):
    assert pixels_of(data).shape == ((20, 12, 3) if turn >= 5 else (12, 20, 3))


def test_gallery_of_detection_set(boxed, tmp_path):
    assert main(["gallery", str(boxed.prefix), "--out", str(tmp_path / "g.png"), "--rows", "3"]) == 0
    first = (tmp_path / "g.png").read_bytes()
    with Image.open(tmp_path / "g.png") as image:
        assert image.width > 700  # three columns
    gallery(boxed, ["boxresizemix", "boxsplicemix:prob=1.0"], tmp_path / "again.png", rows=3)
    assert (tmp_path / "again.png").read_bytes() == first


@pytest.mark.parametrize("mixer", ["cutmix", "mixup"])
def test_mixer_without_box_support_is_refused(boxed, tmp_path, mixer):
    with pytest.raises(ValueError, match=r"is a detection set: mixer \w+ does not support boxes"):
        gallery(boxed, [mixer], tmp_path / "g.png")
    assert not (tmp_path / "g.png").exists()


def test_box_mixer_on_classification_set_is_refused(tmp_path, two_colors):
    with pytest.raises(ValueError, match="mixer BoxResizeMix is for sets with boxes"):
        gallery(two_colors, ["boxresizemix"], tmp_path / "g.png")
