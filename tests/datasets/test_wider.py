"""WIDER-Attribute: one cropped record per person, unspecified attributes and rejected input."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.recordio import RecordSet
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded

Capture = pytest.CaptureFixture[str]
HEIGHT, WIDTH = 60, 100
NAMES = [f"attribute {number}" for number in range(14)]
MIXED = [1, -1, 0, *[-1] * 10, 1]
NONE = [-1] * 14


def person(box: list[float], attributes: list[int]) -> dict[str, Any]:
    return {"attribute": attributes, "bbox": box}


TRAINVAL = [
    ("train/0--Parade/a.jpg", [person([10.4, 4.6, 29.2, 50.6], MIXED), person([-3.4, -2, 20, 30], NONE)]),
    ("val/1--Handshaking/b.jpg", [person([79.6, 40.4, 40, 40], MIXED)]),
]
TEST = [("test/2--Demo/c.jpg", [person([0, 0, 100, 60], MIXED)]), ("test/2--Demo/d.jpg", [])]


def wider(root: Path, kind: str = "JPEG") -> Path:
    (root / "Annotations").mkdir(parents=True)
    for part, images in (("trainval", TRAINVAL), ("test", TEST)):
        entries = [{"file_name": name, "scene_id": 0, "targets": people} for name, people in images]
        content = {"images": entries, "attribute_id_map": {str(n): name for n, name in enumerate(NAMES)}}
        (root / "Annotations" / f"wider_attribute_{part}.json").write_text(json.dumps(content))
        for number, (name, _) in enumerate(images):
            file = root / "Image" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(kind, HEIGHT, WIDTH, seed=number))
    return root


def pack(root: Path, out: Path, *options: str) -> int:
    return main(["pack", "wider", "--root", str(root), "--out", str(out), "--quiet", *options])


def refused(root: Path, capsys: Capture, *options: str) -> str:
    assert pack(root, root / "refused", *options) == 1
    return capsys.readouterr().err


def expected_targets(unspecified: int) -> list[list[float]]:
    mixed = [1, 0, unspecified, *[0] * 10, 1]
    return [mixed, [0] * 14, mixed]


def test_trainval_targets(tmp_path: Path, capsys: Capture) -> None:
    root = wider(tmp_path / "wider")
    assert pack(root, tmp_path / "set", "--split", "trainval", "--no-shuffle") == 0
    assert "WIDER-Attribute trainval has 3 persons here, 28,345 as published" in capsys.readouterr().err
    records = RecordSet(tmp_path / "set")
    assert records.info.classes == tuple(NAMES) and records.info.task == "multilabel"
    assert records.labels(np.arange(3)).tolist() == expected_targets(0)
    assert list(verify_set(tmp_path / "set")) == []


@pytest.mark.parametrize(
    ("split", "names", "unspecified"),
    [("train", [TRAINVAL[0][0]] * 2, 0), ("val", [TRAINVAL[1][0]], -1), ("test", [TEST[0][0]], -1)],
)
def test_unspecified_attributes_per_split(tmp_path: Path, split: str, names: list[str], unspecified: int) -> None:
    listing = LAYOUTS["wider"](wider(tmp_path / "wider"), split, Options())
    assert list(listing.names) == [f"Image/{name}" for name in names]
    assert np.asarray(listing.labels)[0].tolist() == expected_targets(unspecified)[0]


def slice_by_hand(image: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    rows = [[image[row, column] for column in range(left, right)] for row in range(top, bottom)]
    return np.array(rows)


def test_crops_match_person_boxes(tmp_path: Path) -> None:
    root = wider(tmp_path / "wider", kind="PNG")  # lossless, despite the suffix .jpg
    assert pack(root, tmp_path / "set", "--split", "trainval", "--no-shuffle", "--encoding", "png") == 0
    records = RecordSet(tmp_path / "set")
    image = [np.asarray(Image.open(root / "Image" / name)) for name, _ in TRAINVAL]
    expected = [
        slice_by_hand(image[0], 10, 5, 40, 55),  # ends at 39.6 and 55.2: corners are rounded, not side lengths
        slice_by_hand(image[0], 0, 0, 17, 28),  # right edge at 16.6
        slice_by_hand(image[1], 80, 40, 100, 60),
    ]
    for row, pixels in enumerate(expected):
        found = np.asarray(Image.open(io.BytesIO(records.encoded(row).tobytes())))
        assert np.array_equal(found, pixels)
        assert (records.table["height"][row], records.table["width"][row]) == pixels.shape[:2]


def test_crops_are_encoded_once_at_quality_95(tmp_path: Path) -> None:
    root = wider(tmp_path / "wider")
    assert pack(root, tmp_path / "set", "--split", "test") == 0
    records = RecordSet(tmp_path / "set")
    image = cv2.imread(str(root / "Image" / TEST[0][0]))
    assert records.encoded(0).tobytes() == cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    assert records.info.report["reencoded"] == 1
    assert pack(root, tmp_path / "small", "--split", "trainval", "--resize", "10", "--no-shuffle") == 0
    table = RecordSet(tmp_path / "small").table
    assert list(zip(table["height"].tolist(), table["width"].tolist(), strict=True)) == [(17, 10), (16, 10), (10, 10)]


def rewrite(root: Path, edit: Any) -> Path:
    file = root / "Annotations" / "wider_attribute_trainval.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (["images"], {}, "no list 'images' in it"),
        (["images", 1, "file_name"], "../x.jpg", "images[1]: field 'file_name': '../x.jpg' is not a path below"),
        (
            ["images", 1, "file_name"],
            "train\\0--Parade\\a.jpg",
            "images[1]: field 'file_name' is 'train/0--Parade/a.jpg', as in images[0] already; join them",
        ),
        (["images", 1, "file_name"], None, "images[1]: field 'file_name' is None"),
        (["images", 0, "targets"], 5, "images[0]: no list 'targets' in it"),
        (["images", 0, "targets", 1, "attribute"], [1] * 13, "images[0]: targets[1]: field 'attribute' is [1, 1"),
        (["images", 0, "targets", 1, "attribute"], [-2] * 14, "targets[1]: field 'attribute' is [-2, -2"),
        (["images", 0, "targets", 1, "attribute"], [2] * 14, "images[0]: targets[1]: field 'attribute' is [2, 2"),
        (["images", 0, "targets", 1, "bbox"], [1, 2, 3], "images[0]: targets[1]: field 'bbox' is [1, 2, 3]"),
        (["images", 0, "targets", 1, "bbox"], [1, 2, -3, 4], "images[0]: targets[1]: field 'bbox' is [1, 2, -3, 4]"),
        (["attribute_id_map"], {"0": "Male"}, "field 'attribute_id_map' does not name the attributes 0 to 13"),
    ],
)
def test_malformed_annotations_are_refused(
    tmp_path: Path, capsys: Capture, path: list[Any], value: Any, reason: str
) -> None:
    root = wider(tmp_path)

    def edit(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    file = rewrite(root, edit)
    error = refused(root, capsys, "--split", "trainval")
    assert f"{file}: " in error and reason in error


def test_box_outside_image_and_missing_files_are_named(tmp_path: Path, capsys: Capture) -> None:
    root = wider(tmp_path)
    for x, y in ((-30, 0), (0, -30), (0, 60), (100, 0)):
        box = [float(x), float(y), 20.0, 20.0]
        edit = {"bbox": box}
        file = rewrite(root, lambda content, edit=edit: content["images"][0]["targets"][1].update(edit))
        error = refused(root, capsys, "--split", "trainval")
        assert f"a.jpg: the box {box} (x, y, width, height) contains no pixel of the 100x60 image" in error
    assert f"listed at {file}: images[0]: targets[1] (--skip-bad" in error
    assert pack(root, tmp_path / "set", "--split", "trainval", "--skip-bad") == 0
    assert RecordSet(tmp_path / "set").info.count == 2
    (root / "Image" / TRAINVAL[0][0]).unlink()
    assert "a.jpg: no such file, listed at" in refused(root, capsys, "--split", "train")
    assert "has the splits train, val, trainval, test" in refused(root, capsys, "--split", "dev")
    file.unlink()
    error = refused(root, capsys, "--split", "train")
    assert "wider_attribute_trainval.json: no such file; fetch it, or correct --root" in error
