"""Layout `coco`: missing or invalid image sizes, and numbers with hundreds of digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_mix.datasets import LAYOUTS, Listing, Options
from tests.recordio.samples import encoded

HUGE = "1" * 400


def coco(root: Path, task: str, text: str = "", **image: Any) -> Listing:
    (root / "val").mkdir(parents=True, exist_ok=True)
    (root / "val" / "0.jpg").write_bytes(encoded("JPEG", 48, 64))
    (root / "annotations").mkdir(exist_ok=True)
    content = {
        "images": [{"id": 1, "file_name": "0.jpg", **image}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 12, 16, 12]}],
    }
    (root / "annotations" / "instances_val.json").write_text(text or json.dumps(content))
    return LAYOUTS["coco"](root, "val", Options(task=task))


@pytest.mark.parametrize(
    "size",
    [{}, {"height": -1, "width": -1}, {"height": 48.0, "width": 64.0}, {"height": None, "width": None}, {"height": 0},
     {"height": "48", "width": "64"}, {"height": 48.5}, {"height": int(HUGE)}],
)  # fmt: skip
def test_multilabel_ignores_image_sizes(tmp_path: Path, size: dict[str, Any]) -> None:
    listing = coco(tmp_path, "multilabel", **size)
    assert np.array(listing.labels).tolist() == [[1]] and listing.sizes is None


@pytest.mark.parametrize("size", [(48, 64), (48.0, 64.0), (48, 64.0)])
def test_detection_accepts_integral_float_sizes(tmp_path: Path, size: tuple[float, float]) -> None:
    listing = coco(tmp_path, "detection", height=size[0], width=size[1])
    assert listing.sizes == [(48, 64)] and type(listing.sizes[0][1]) is int
    assert np.asarray(listing.labels[0])[3:7].tolist() == [0.125, 0.25, 0.375, 0.5]


@pytest.mark.parametrize("value", [None, -1, 0, 48.5, "48", True, float("inf"), float("nan"), int(HUGE), -0.0])
def test_detection_refuses_invalid_sizes(tmp_path: Path, value: Any) -> None:
    match = r"images\[0\]: field 'height' is .*a number of pixels \(--task multilabel"
    with pytest.raises(ValueError, match=match) as caught:
        coco(tmp_path, "detection", height=value, width=64)
    assert len(str(caught.value)) < 250 + len(str(tmp_path))


@pytest.mark.parametrize(
    "field", ['"id": 1', '"image_id": 1', '"category_id": 1', '"bbox": [8, 12, 16, 12]', '"height": 48']
)
@pytest.mark.parametrize("number", [HUGE, "-" + HUGE, "1e999", "1" * 5000])
def test_huge_numbers_are_refused(tmp_path: Path, field: str, number: str) -> None:
    coco(tmp_path, "detection", height=48, width=64)
    text = (tmp_path / "annotations" / "instances_val.json").read_text()
    assert field in text
    changed = field.replace("16", number) if "bbox" in field else f"{field.partition(':')[0]}: {number}"
    with pytest.raises(ValueError, match=r"instances_val\.json: "):
        coco(tmp_path, "detection", text.replace(field, changed, 1))
