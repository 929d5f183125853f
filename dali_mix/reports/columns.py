"""Columns of a gallery: the original images, and the output of a mixer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dali_mix.mixers import ChoiceParams, MixChoice, MixedImage, Mixer, Unmixed, fine_grained_saliency
from dali_mix.mixers.ops.saliency import peaks as peaks_of
from dali_mix.reports.sheet import Column, Picture, wrapped


@dataclass(frozen=True)
class Batch:
    """A batch to show.

    Attributes:
        images: (B,3,S,S) uint8.
        targets: (B,) class indices, or (B,K) multi-hot rows.
        mean: (3,) float32, the mean colour, 0 … 1.
        classes: class names.
        rows: number of images to show, at most B.
    """

    images: Tensor
    targets: Tensor
    mean: Tensor
    classes: Sequence[str]
    rows: int


def plain(batch: Batch, peaks: bool, maps: bool) -> list[Column]:
    """Return a column with the first `batch.rows` images and, if `maps` is True, a second column with their saliency.

    peaks: mark the most salient pixel of each image in both columns.
    """
    rows = range(batch.rows)
    maps_u8 = fine_grained_saliency(batch.images[: batch.rows])
    found = zip(*(index.tolist() for index in peaks_of(maps_u8)), strict=True)
    marks = list(found) if peaks else [None] * batch.rows
    originals = [Picture(batch.images[i], _labels(batch.targets[i], batch.classes), peak=marks[i]) for i in rows]
    columns = [Column("original", originals)]
    if maps:
        grey = maps_u8[:, None].expand(-1, 3, -1, -1)
        columns.append(Column("saliency", [Picture(grey[i], peak=marks[i]) for i in rows]))
    return columns


def mixed(mixer: Mixer[Any], batch: Batch, seed: int, boxes: bool, peaks: bool, options: str = "") -> list[Column]:
    """Return a column with the output of `mixer`, or one column per view if it returns several views of the batch.

    If `mixer` appends images, the column shows only these (see `_appended`). If the draw with `seed` mixes nothing, the
    column shows the original images, and its heading ends in ": none".

    Args:
        mixer: the mixer.
        batch: the images to mix.
        seed: seed of the mixer's random draws.
        boxes: outline pasted or erased areas, and the cells of a grid.
        peaks: for SaliencyMix, mark the pixel on which each pasted box is centred.
        options: text to show after the mixer's name.
    """
    count = len(batch.images)
    name = f"{type(mixer).__name__} {options}".strip()
    params = _sample(mixer, batch, seed)
    while isinstance(params, (ChoiceParams, Unmixed)):
        if isinstance(params, Unmixed) or params.index < 0:
            return [replace(plain(batch, False, False)[0], name=f"{name}: none")]
        assert isinstance(mixer, MixChoice)
        mixer, params = mixer.mixers[params.index], params.params
        name = f"{name}: {type(mixer).__name__}"
    described = mixer.describe(_inputs(mixer, batch), params)
    if any(image.own is None for image in described):
        return [_appended(name, mixer, batch, seed, boxes)]
    pixels, targets = _apply(mixer, batch, params)
    columns = []
    for view in range(len(pixels) // count):
        pictures = []
        for index in range(view * count, view * count + batch.rows):
            shown = described[index] if index < len(described) else MixedImage(index % count)
            caption = _caption(shown, batch, targets[index])
            outlines = shown.boxes if boxes else ()
            pictures.append(Picture(pixels[index], caption, outlines, shown.peak if peaks else None))
        columns.append(Column(f"{name}, view {view + 1}" if len(pixels) > count else name, pictures))
    return columns


def _appended(name: str, mixer: Mixer[Any], batch: Batch, seed: int, boxes: bool) -> Column:
    """Return a column with one image per row that `mixer` appends to the batch.

    Row r uses a separate draw with `seed` + r, since all images of a draw may have the same grid. If this draw mixes
    nothing, the row shows original image r with the caption "not mixed".
    """
    pictures = []
    for row in range(batch.rows):
        params = _sample(mixer, batch, seed + row)
        if isinstance(params, Unmixed):
            pictures.append(Picture(batch.images[row], ["not mixed"]))
            continue
        described = enumerate(mixer.describe(_inputs(mixer, batch), params))
        appended = ((index, image) for index, image in described if image.own is None)
        firsts = [next(group) for _, group in itertools.groupby(appended, key=lambda pair: pair[1])]
        index, shown = firsts[row % len(firsts)]  # cycle through the grids
        pixels, targets = _apply(mixer, batch, params)
        pictures.append(Picture(pixels[index], _caption(shown, batch, targets[index]), shown.boxes if boxes else ()))
    return Column(name, pictures)


def _sample(mixer: Mixer[Any], batch: Batch, seed: int) -> Any:
    count, _, height, width = batch.images.shape
    return mixer.sample(count, height, width, torch.Generator().manual_seed(seed))


def _apply(mixer: Mixer[Any], batch: Batch, params: Any) -> tuple[Tensor, Tensor]:
    """Return (images (N,3,S,S) uint8, targets) that `mixer` makes of `batch`, which is left unchanged.

    N is larger than B if `mixer` appends images or returns several views.
    """
    images, targets = mixer.apply(_inputs(mixer, batch).clone(), batch.targets.clone(), params)
    if (scale := _scale(mixer, batch)) is not None:
        images = (255 * (images * scale[1] + scale[0])).round().clamp(0, 255).byte()
    return images, targets


def _scale(mixer: Mixer[Any], batch: Batch) -> tuple[Tensor, Tensor] | None:
    """Return (mean, std), (3,1,1) each, with which to normalize images for `mixer`, or None to leave them as uint8.

    These are the mixer's attributes `mean` and `std`. A missing attribute is replaced by the mean of `batch`, or by a
    std of 1. Return None if one of the two is None.
    """
    mean, std = getattr(mixer, "mean", batch.mean), getattr(mixer, "std", (1.0, 1.0, 1.0))
    if mean is None or std is None:
        return None
    return torch.as_tensor(mean)[:, None, None], torch.as_tensor(std)[:, None, None]


def _inputs(mixer: Mixer[Any], batch: Batch) -> Tensor:
    scale = _scale(mixer, batch)
    return batch.images if scale is None else (batch.images / 255 - scale[0]) / scale[1]


def _caption(image: MixedImage, batch: Batch, target: Tensor) -> list[str]:
    """Return the lines of a caption: λ with the image's own labels, and 1-λ with its partner's.

    For an image that has no λ or not exactly one partner, return its note and its mixed labels.
    """
    if image.own is None:
        return [image.note, *wrapped(_names(target, batch.classes))]
    if image.partner is None or image.lam is None:
        return [*filter(None, [image.note]), *_labels(target, batch.classes)]
    lam = round(image.lam, 2)
    own, other = (_names(batch.targets[index], batch.classes) for index in (image.own, image.partner))
    return [*wrapped(own, f"λ {lam:.2f}  "), *wrapped(other, f"1-λ {1 - lam:.2f}  ")]


def _labels(target: Tensor, classes: Sequence[str]) -> list[str]:
    """Return the lines of a caption: the class, all labels of a multi-hot row, or the two largest soft targets."""
    if target.ndim == 0 or ((target == 1) | (target <= 0)).all():
        return wrapped(_names(target, classes))
    names, largest = _short(classes), sorted(range(len(target)), key=lambda index: -float(target[index]))[:2]
    return [f"{float(target[index]):.2f}  {names[index]}" for index in largest if target[index] > 0]


def _names(target: Tensor, classes: Sequence[str]) -> list[str]:
    """Return the name of a class, given by its index, or the names of all classes above 0 in a row (K,)."""
    numbers = [int(target)] if target.ndim == 0 else (target > 0).nonzero().flatten().tolist()
    names = _short(classes)
    return [names[number] for number in numbers]


def _short(classes: Sequence[str]) -> Sequence[str]:
    """Return class names shortened for display: the text before the first comma, with spaces instead of "_".

    ImageNet's class names are lists of synonyms, separated by commas. Return `classes` unchanged if two of the short
    names are equal.
    """
    short = [name.split(",")[0].strip().replace("_", " ") for name in classes]
    return short if len({*short}) == len(short) else classes
