"""Plain pictures, and helpers that read them back from the PNG of a gallery."""

import io

import numpy as np
import torch
from PIL import Image

from dali_mix.mixers.description import pasted
from dali_mix.recordio import RecordSet
from dali_mix.reports.columns import Batch, _caption
from dali_mix.reports.gallery import read_images
from dali_mix.reports.sheet import CAPTION, CELL, GAP, HEAD, MARGIN, TITLE
from dali_mix.reports.style import DPI

COLORS = {"red": (220, 20, 20), "blue": (20, 20, 220)}


def encode(array, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def size_of(png):
    with Image.open(png) as image:
        return image.size


def cell(png, row, column):
    """Return one picture of the gallery without its outermost border, (pixels, pixels, 3)."""
    left = MARGIN + column * (CELL + GAP)
    top = TITLE + HEAD + row * (CELL + CAPTION + GAP)
    box = [round(value * DPI) for value in (left + 0.05, top + 0.05, left + CELL - 0.05, top + CELL - 0.05)]
    with Image.open(png) as image:
        return np.asarray(image.convert("RGB").crop(box)).astype(int)


def original_pixels(png, row, column, size=40):
    """Return one picture of the gallery at its original size, (size, size, 3), sampled at the pixel centres."""
    left = MARGIN + column * (CELL + GAP)
    top = TITLE + HEAD + row * (CELL + CAPTION + GAP)
    middles = (np.arange(size) + 0.5) / size * CELL
    with Image.open(png) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return pixels[np.ix_(((top + middles) * DPI).astype(int), ((left + middles) * DPI).astype(int))]


def images_of(prefix, seed):
    """Return the 12 images of a set in the order of a gallery with `seed`."""
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed)).tolist()
    return read_images(RecordSet(prefix), order, 40)


def center_of(picture, color):
    """Return the centre of the area with `color` in a picture from `cell`, in pixels of the 40×40 image, or None."""
    found = np.argwhere(np.abs(picture - np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])).max(-1) < 25)
    if not len(found):
        return None
    middle = (found.min(0) + found.max(0)) / 2 + 0.05 * DPI
    return tuple((middle / (CELL * DPI) * 40 - 0.5).tolist())


def caption_of(targets, row, params, classes):
    batch = Batch(torch.zeros(len(targets), 3, 8, 8), targets, torch.zeros(3), classes, len(targets))
    return _caption(pasted(params.permutation, params.lam)[row], batch, targets[row])
