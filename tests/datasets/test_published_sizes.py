"""Each split of the real datasets has its published size.

Set DALI_MIX_DATASETS to the folder that contains VOCdevkit/, coco/, nus-wide/, vg500/ and wider/.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dali_mix.datasets import LAYOUTS, Options

ROOT = os.environ.get("DALI_MIX_DATASETS", "")
KEEP = Options(unlabelled="keep")
CASES = [
    ("voc", "VOCdevkit", "trainval", Options(years=("2007",)), 5011, 20),
    ("voc", "VOCdevkit", "test", Options(years=("2007",)), 4952, 20),
    ("voc", "VOCdevkit", "trainval", Options(years=("2012",)), 11540, 20),
    ("coco", "coco", "train2014", Options(), 82081, 80),
    ("coco", "coco", "val2014", Options(), 40137, 80),
    ("coco", "coco", "train2017", Options(), 117266, 80),
    ("coco", "coco", "val2017", Options(), 4952, 80),
    ("nus-wide", "nus-wide", "train", KEEP, 161789, 81),
    ("nus-wide", "nus-wide", "test", KEEP, 107859, 81),
    ("vg500", "vg500", "train", KEEP, 82904, 500),
    ("vg500", "vg500", "test", KEEP, 10000, 500),
    ("wider", "wider", "trainval", Options(), 28345, 14),
    ("wider", "wider", "test", Options(), 29179, 14),
]


@pytest.mark.parametrize(("layout", "folder", "split", "options", "images", "classes"), CASES)
def test_real_datasets_have_published_sizes(
    layout: str, folder: str, split: str, options: Options, images: int, classes: int
) -> None:
    root = Path(ROOT, folder)
    if not ROOT or not root.exists():
        pytest.skip(f"no {folder} in the folder DALI_MIX_DATASETS names ({ROOT or 'not set'})")
    listing = LAYOUTS[layout](root, split, options)
    assert (len(listing.names), len(listing.classes)) == (images, classes)
    assert "notices" not in listing.report


def test_published_constants_match_cases() -> None:
    for layout, _, split, options, images, _ in CASES:
        published = LAYOUTS[layout].__globals__["PUBLISHED"]
        assert published[(options.years[0], split) if layout == "voc" else split] == images
    voc = LAYOUTS["voc"].__globals__["PUBLISHED"]
    assert all(voc[year, "train"] + voc[year, "val"] == voc[year, "trainval"] for year in ("2007", "2012"))
