"""Boxes and crops on photographs with an EXIF orientation."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from dali_mix.cli.main import main
from dali_mix.datasets import Listing, PackOptions, Transform
from dali_mix.datasets.packer import pack_listing
from dali_mix.datasets.trees import FolderTree
from dali_mix.recordio import RecordSet

Capture = pytest.CaptureFixture[str]


X, Y, W, H = 5, 6, 20, 10  # of the red object, in pixels of the stored image


def photo(turn: int, height: int = 48, width: int = 64) -> bytes:
    pixels = np.full((height, width, 3), 40, np.uint8)
    pixels[Y : Y + H, X : X + W] = (250, 30, 30)
    exif = Image.Exif()
    exif[0x0112] = turn
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", exif=exif)
    return out.getvalue()


def write_dataset(root: Path, layout: str, turns: list[int], size: tuple[int, int], stated: bool = True) -> None:
    """Write a dataset in `layout` with one image per EXIF orientation in `turns`.

    The box of each image refers to the stored pixels. The annotations include the image size only if `stated`.
    """
    height, width = size
    images = {f"{number}.png": photo(turn, height, width) for number, turn in enumerate(turns)}
    folder = {"coco": "val", "voc": "JPEGImages", "list": "."}[layout]
    (root / folder).mkdir(parents=True)
    for name, data in images.items():
        (root / folder / name).write_bytes(data)
    if layout == "coco":
        sides = {"width": width, "height": height} if stated else {}
        content = {
            "images": [{"id": row, "file_name": name, **sides} for row, name in enumerate(images)],
            "categories": [{"id": 1, "name": "red"}],
            "annotations": [
                {"id": row, "image_id": row, "category_id": 1, "bbox": [X, Y, W, H], "iscrowd": 0}
                for row in range(len(images))
            ],
        }
        (root / "annotations").mkdir()
        (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    elif layout == "voc":
        (root / "ImageSets" / "Main").mkdir(parents=True)
        (root / "Annotations").mkdir()
        (root / "ImageSets" / "Main" / "val.txt").write_text("\n".join(name[:-4] for name in images))
        size_text = f"<size><width>{width}</width><height>{height}</height></size>" if stated else ""
        box = f"<xmin>{X + 1}</xmin><ymin>{Y + 1}</ymin><xmax>{X + W}</xmax><ymax>{Y + H}</ymax>"
        text = f"<annotation>{size_text}<object><name>red</name><bndbox>{box}</bndbox></object></annotation>"
        for name in images:
            (root / "Annotations" / f"{name[:-4]}.xml").write_text(text)
    else:
        box = [0, X / width, Y / height, (X + W) / width, (Y + H) / height]
        (root / "val.json").write_text(json.dumps([{"path": name, "boxes": [box]} for name in images]))


def pack(root: Path, layout: str, out: Path, *options: str) -> int:
    more = ["--classes", "auto"] if layout == "voc" else []
    command = ["pack", layout, "--root", str(root), "--split", "val", "--task", "detection", "--out", str(out)]
    return main([*command, *more, *options])


def found(records: RecordSet, row: int) -> np.ndarray:
    """Return the image of a record, turned by its EXIF orientation as in an image viewer."""
    with Image.open(io.BytesIO(records.encoded(row).tobytes())) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def check_boxes(records: RecordSet) -> None:
    for row, boxes in enumerate(records.labels(np.arange(len(records)))):
        picture = found(records, row)
        x1, y1, x2, y2 = np.round(boxes[0, 1:5] * np.tile(picture.shape[1::-1], 2)).astype(int)
        red = (picture[:, :, 0] > 150) & (picture[:, :, 1] < 100)
        expected = np.zeros_like(red)
        expected[y1:y2, x1:x2] = True
        assert (red == expected).mean() > 0.99, row


@pytest.mark.parametrize("layout", ["coco", "voc", "list"])
@pytest.mark.parametrize("size", [(48, 64), (40, 40)])
@pytest.mark.parametrize("options", [[], ["--encoding", "png"], ["--resize", "24"]])
def test_exif_ignore_turns_boxes_with_pixels(
    tmp_path: Path, capsys: Capture, layout: str, size: tuple[int, int], options: list[str]
) -> None:
    write_dataset(tmp_path / "in", layout, list(range(1, 9)), size)
    assert pack(tmp_path / "in", layout, tmp_path / "set", "--exif", "ignore", *options) == 0
    captured = capsys.readouterr()
    assert "note" not in captured.err and "turned_by_exif 7" in captured.out
    records = RecordSet(tmp_path / "set")
    check_boxes(records)
    assert records.info.options["exif"] == "ignore" and records.info.report["turned_by_exif"] == 7


def test_missing_size_is_that_of_stored_pixels(tmp_path: Path) -> None:
    write_dataset(tmp_path / "in", "voc", [1, 6, 8], (48, 64), stated=False)
    assert pack(tmp_path / "in", "voc", tmp_path / "set", "--exif", "ignore") == 0
    check_boxes(RecordSet(tmp_path / "set"))


@pytest.mark.parametrize("layout", ["coco", "voc", "list"])
@pytest.mark.parametrize(("turns", "count"), [([1, 1], 0), ([3, 1], 1), ([2, 4, 3, 1], 3)])
def test_note_counts_rotated_images_with_boxes(
    tmp_path: Path, capsys: Capture, layout: str, turns: list[int], count: int
) -> None:
    write_dataset(tmp_path / "in", layout, turns, (48, 64))
    assert pack(tmp_path / "in", layout, tmp_path / "set") == 0
    error = capsys.readouterr().err
    assert (f"note: {count} images with boxes are rotated by EXIF" in error) == (count > 0)
    assert ("--exif ignore" in error) == (count > 0)
    assert pack(tmp_path / "in", layout, tmp_path / "set", "--force", "--exif", "apply") == 0
    assert "note:" not in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["coco", "voc"])
@pytest.mark.parametrize("turn", [5, 6, 7, 8])
def test_wrong_size_error_suggests_exif_option(tmp_path: Path, capsys: Capture, layout: str, turn: int) -> None:
    write_dataset(tmp_path / "in", layout, [turn], (48, 64))
    assert pack(tmp_path / "in", layout, tmp_path / "set") == 1
    assert "drawn on the pixels as stored, pack with --exif ignore" in capsys.readouterr().err
    assert pack(tmp_path / "in", layout, tmp_path / "set", "--exif", "ignore") == 0
    (tmp_path / "in").rename(tmp_path / "stored")
    write_dataset(tmp_path / "in", layout, [turn], (64, 48))
    for path in (tmp_path / "in").rglob("*.png"):
        path.write_bytes(photo(turn, 48, 64))  # the annotation has the displayed size, 64 high and 48 wide
    assert pack(tmp_path / "in", layout, tmp_path / "other", "--exif", "ignore") == 1
    assert "drawn on the rotated image, pack with --exif apply" in capsys.readouterr().err
    assert pack(tmp_path / "in", layout, tmp_path / "other", "--exif", "apply") == 0


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_ignore_turns_crops_with_pixels(tmp_path: Path, turn: int) -> None:
    (tmp_path / "0.png").write_bytes(photo(turn))
    crops = [(float(X), float(Y), float(W), float(H))]
    listing = Listing(
        FolderTree(tmp_path), ["0.png"], [np.ones(1, np.float32)], ("red",), "own", "val", "multilabel", crops=crops
    )
    pack_listing(listing, tmp_path / "set", PackOptions(Transform(encoding="png"), exif="ignore"))
    picture = found(RecordSet(tmp_path / "set"), 0)
    assert picture.shape[:2] == ((H, W) if turn < 5 else (W, H)) and (picture[:, :, 0] > 200).all()


def test_exif_is_refused_for_multilabel(tmp_path: Path, capsys: Capture) -> None:
    write_dataset(tmp_path / "in", "coco", [3], (48, 64))
    command = ["pack", "coco", "--root", str(tmp_path / "in"), "--split", "val", "--out", str(tmp_path / "set")]
    assert main([*command, "--exif", "ignore", "--quiet"]) == 1
    assert "--exif is for boxes, and multilabel labels have none: leave it out" in capsys.readouterr().err
