"""Sheets of pictures: fitting text, and rows as high as their captions."""

import numpy as np
import pytest
import torch
from PIL import Image

from dali_mix.mixers import (
    ResizeMix,
)
from dali_mix.recordio import write_set
from dali_mix.reports import gallery
from dali_mix.reports.columns import _labels
from dali_mix.reports.sheet import CELL, HEAD, MARGIN, TITLE, fitted, row_height, wrapped
from dali_mix.reports.style import DPI
from tests.reports.pictures import caption_of, encode, size_of


def test_fitted_and_wrapped_text_fits_width():
    long = "a very long name of a class that nobody can read"
    assert fitted("short", CELL) == "short"
    kept = fitted(long, CELL)
    assert kept.endswith("…") and long.startswith(kept[:-1]) and 15 < len(kept) < 35
    assert len(fitted(long, CELL, size=11)) < len(kept)
    assert len(fitted("W" * 60, CELL)) < len(fitted("i" * 60, CELL))
    assert fitted("$i$ costs $5", CELL) == "$i$ costs $5"
    assert wrapped([], "λ 1.00  ") == ["λ 1.00  "]
    assert wrapped(["cat", "dog"], "λ 0.25  ") == ["λ 0.25  cat, dog"]
    names = ["aeroplane", "bicycle", "diningtable", "motorbike", "pottedplant"]
    lines = wrapped(names)
    assert 1 < len(lines) < 5
    assert [name for line in lines for name in line.replace(",", " ").split()] == names
    *before, last = wrapped(names * 9, most=3)
    assert len(before) == 2 and last.strip() == f"and {45 - len(' '.join(before).split())} more"


def test_row_height_follows_longest_caption(tmp_path):
    names = ["aeroplane", "diningtable", "pottedplant", "television", "motorbike"]
    flat = encode(np.full((40, 40, 3), 128, dtype=np.uint8))
    write_set(tmp_path / "many", [(flat, np.ones(5, dtype=np.float32))] * 5, task="multilabel", classes=names)
    labels = torch.ones(5, 5)
    params = ResizeMix(5).sample(5, 40, 40, torch.Generator().manual_seed(0))
    lines = len(caption_of(labels, 0, params, names))
    assert lines > 4 and lines > len(_labels(labels[0], names)) > 1
    out = gallery(tmp_path / "many", ["resizemix"], tmp_path / "m.png", rows=3)
    assert size_of(out)[1] == pytest.approx((TITLE + HEAD + 3 * row_height(lines) + MARGIN / 2) * DPI, abs=1)
    with Image.open(out) as image:  # no text overlaps the picture below
        pixels = np.asarray(image.convert("L"))
    top = round((TITLE + HEAD + row_height(lines)) * DPI)
    assert (pixels[top - round(0.1 * DPI) : top - 2] == 255).all()
