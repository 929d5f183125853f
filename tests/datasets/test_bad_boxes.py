"""`--bad-boxes`: boxes beyond the image or without area raise an error, are clipped, or are dropped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_mix.cli.main import main
from dali_mix.datasets import pack
from dali_mix.recordio import RecordSet
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded

HEIGHT, WIDTH = 40, 80
GOOD = (8, 4, 40, 20)
# Box (x1, y1, x2, y2 in pixels) → the clipped box, or None if nothing remains.
BAD: dict[tuple[int, ...], tuple[int, ...] | None] = {
    (-8, 4, 40, 20): (0, 4, 40, 20),
    (8, -4, 40, 20): (8, 0, 40, 20),
    (8, 4, 120, 20): (8, 4, 80, 20),
    (8, 4, 40, 60): (8, 4, 40, 40),
    (-80, -40, 160, 80): (0, 0, 80, 40),
    (100, 4, 120, 20): None,
    (8, 44, 40, 60): None,
    (40, 4, 8, 20): None,
    (8, 20, 40, 4): None,
}
# Image names: one image with all boxes, one with only a bad box, one with only a good box.
BOXES = {"all": [GOOD, *BAD], "gone": [(100, 4, 120, 20)], "good": [GOOD]}
CLIPPED = {name: [BAD.get(box, box) for box in boxes] for name, boxes in BOXES.items()}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_images(folder: Path, data: bytes = encoded("JPEG", HEIGHT, WIDTH), suffix: str = "jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in BOXES:
        (folder / f"{name}.{suffix}").write_bytes(data)


def voc(root: Path) -> dict[str, Any]:
    write_images(root / "JPEGImages")
    for name, boxes in BOXES.items():
        objects = "".join(
            f"<object><name>cat</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax>"
            f"<ymax>{y2}</ymax></bndbox></object>"
            for x1, y1, x2, y2 in boxes
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        write(root / "Annotations" / f"{name}.xml", f"<annotation>{size}{objects}</annotation>")
    return {"layout": "voc", "task": "detection"}


def coco(root: Path) -> dict[str, Any]:
    write_images(root / "train")
    images = [
        {"id": row, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH} for row, name in enumerate(BOXES)
    ]
    notes = [
        {"image_id": row, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for row, boxes in enumerate(BOXES.values())
        for x1, y1, x2, y2 in boxes
    ]
    content = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "cat"}]}
    write(root / "train" / "_annotations.coco.json", json.dumps(content))
    return {"layout": "coco", "task": "detection"}


def yolo(root: Path) -> dict[str, Any]:
    write_images(root / "images" / "train")
    for name, boxes in BOXES.items():
        lines = (
            f"0 {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} {(x2 - x1) / WIDTH} {(y2 - y1) / HEIGHT}\n"
            for x1, y1, x2, y2 in boxes
        )
        write(root / "labels" / "train" / f"{name}.txt", "".join(lines))
    write(root / "data.yaml", "train: images/train\nnames: [cat]\n")
    return {"layout": "yolo"}


def entries(suffix: str = "jpg") -> str:
    shares = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    rows = {name: [[0, *(np.array(box) / shares).tolist()] for box in boxes] for name, boxes in BOXES.items()}
    return json.dumps([{"path": f"{name}.{suffix}", "boxes": boxes} for name, boxes in rows.items()])


def json_list(root: Path) -> dict[str, Any]:
    write_images(root)
    write(root / "train.json", entries())
    return {"layout": "list"}


LAYOUTS: list[Callable[[Path], dict[str, Any]]] = [voc, coco, yolo, json_list]


def boxes_of(prefix: Path) -> list[list[list[float]]]:
    """Return the boxes of each record in pixels."""
    records = RecordSet(prefix)
    shares = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    return [(label[:, 1:5] * shares).round(3).tolist() for label in records.labels(np.arange(len(records)))]


@pytest.mark.parametrize("make", LAYOUTS)
@pytest.mark.parametrize("how", ["clip", "drop"])
def test_bad_boxes_are_clipped_or_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], dict[str, Any]], how: str
) -> None:
    options = make(tmp_path / "root")
    command = ["pack", options["layout"], "--root", str(tmp_path / "root"), "--out", str(tmp_path / "set")]
    command += ["--no-shuffle", "--bad-boxes", how, *(["--task", "detection"] if "task" in options else [])]
    if make is voc:
        write(tmp_path / "names", "cat\n")
        command += ["--classes", str(tmp_path / "names")]
    assert main(command) == 0
    printed = capsys.readouterr()
    if how == "clip":
        wanted = [list(dict.fromkeys(filter(None, boxes))) for boxes in CLIPPED.values()]
        clipped, dropped = 5, 5
    else:
        wanted = [[GOOD], [], [GOOD]]
        clipped, dropped = 0, 10
    # Of boxes that are equal after clipping, one is kept.
    assert boxes_of(tmp_path / "set") == [[list(map(float, box)) for box in boxes] for boxes in wanted]
    report = RecordSet(tmp_path / "set").info.report
    assert report.get("bad_boxes_clipped", 0) == clipped and report["bad_boxes_dropped"] == dropped
    assert f"{dropped} bad boxes were left out" in printed.err
    assert f"bad_boxes_dropped {dropped}" in printed.out
    assert ("5 boxes that left their image were clipped" in printed.err) == (how == "clip")
    assert list(verify_set(tmp_path / "set")) == []


@pytest.mark.parametrize("make", LAYOUTS)
def test_bad_boxes_are_errors_by_default(tmp_path: Path, make: Callable[[Path], dict[str, Any]]) -> None:
    options = make(tmp_path / "root") | {"classes": ["cat"], "root": tmp_path / "root", "out": tmp_path / "set"}
    for given in ({}, {"bad_boxes": "error"}):
        with pytest.raises(ValueError, match=r"^10 mistakes .*") as refused:
            pack(**options, **given)
        assert str(refused.value).count("(bad_boxes clips or drops such boxes)") == 10


@pytest.mark.parametrize("make", [voc, coco, yolo])
def test_image_with_all_boxes_dropped_is_unlabelled(tmp_path: Path, make: Callable[[Path], dict[str, Any]]) -> None:
    options = make(tmp_path / "root") | {"classes": ["cat"], "root": tmp_path / "root", "out": tmp_path / "set"}
    info = pack(**options, bad_boxes="clip", unlabelled="drop")
    assert info.count == 2 and info.report["unlabelled_dropped"] == 1


def test_box_within_tolerance_is_clipped_not_dropped(tmp_path: Path) -> None:
    write_images(tmp_path / "root")
    write(tmp_path / "root" / "train.json", '[{"path": "all.jpg", "boxes": [[0, 0, 0, 1, 1.025]]}]')  # by one pixel
    info = pack("list", root=tmp_path / "root", out=tmp_path / "set", bad_boxes="drop")
    assert info.report["clipped_boxes"] == 1 and "bad_boxes_dropped" not in info.report


def test_bad_boxes_does_not_hide_other_mistakes(tmp_path: Path) -> None:
    options = yolo(tmp_path / "root")
    write(tmp_path / "root" / "labels" / "train" / "good.txt", "0 nan .5 .2 .2\n7 .5 .5 9 .2\n")
    with pytest.raises(ValueError, match=r"^2 mistakes .*\n.* line 1: .*not finite.*\n.*class 7 is out of range"):
        pack(**options, root=tmp_path / "root", out=tmp_path / "set", bad_boxes="drop")


def test_bad_boxes_applies_to_converted_images(tmp_path: Path) -> None:
    gif = encoded("GIF", HEIGHT, WIDTH)
    write_images(tmp_path / "root", gif, "gif")
    write(tmp_path / "root" / "train.json", entries("gif"))
    given = {"layout": "list", "root": tmp_path / "root", "out": tmp_path / "set", "encoding": "png"}
    with pytest.raises(ValueError, match="10 mistakes"):
        pack(**given)
    assert pack(**given, bad_boxes="drop").report["bad_boxes_dropped"] == 10


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("imagefolder", {"bad_boxes": "clip"}, "bad_boxes is for voc, coco, yolo, list, not imagefolder"),
        ("voc", {"bad_boxes": "clip", "classes": ["cat"]}, "bad_boxes is for boxes, and multilabel labels have none"),
        ("voc", {"bad_boxes": "clips"}, r"bad_boxes='clips': must be one of error, clip, drop \(did you mean clip"),
    ],
)
def test_bad_boxes_refuses_wrong_layout_task_or_value(
    tmp_path: Path, layout: str, options: dict[str, Any], message: str
) -> None:
    write_images(tmp_path / "root" / "JPEGImages")
    for name in BOXES:
        write(tmp_path / "root" / "Annotations" / f"{name}.xml", "<annotation></annotation>")
    with pytest.raises(ValueError, match=message):
        pack(layout, root=tmp_path / "root", out=tmp_path / "set", **options)
