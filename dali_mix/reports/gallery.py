"""Draw images of a set, mixed by several mixers: one row per image, one column per mixer, labels in the captions."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dali_mix import mixers as mixer_room
from dali_mix.mixers import Mixer
from dali_mix.options import whole
from dali_mix.recordio import RecordSet
from dali_mix.reports import style
from dali_mix.reports.boxes import boxed_batch, boxed_column, pixels_of
from dali_mix.reports.columns import Batch, mixed, plain
from dali_mix.reports.sheet import draw

MOST_ROWS, LARGEST_IMAGE = 100, 2048  # larger galleries take matplotlib over a minute, and viewers fail to open them
SMALLEST_BATCH = 32  # large enough that an image is seldom its own partner


def gallery(
    records: RecordSet | str | Path,
    mixers: Sequence[Mixer[Any] | str],
    out: str | Path,
    *,
    rows: int = 4,
    image_size: int | None = None,
    seed: int = 0,
    boxes: bool = True,
    peaks: bool = False,
    maps: bool = False,
    title: str | None = None,
) -> Path:
    """Draw `rows` images of a packed set, unmixed and mixed by each mixer, as the PNG `out`, and return its path.

    Images are the central squares of randomly drawn records. Partners come from a batch of at least 32 records, or of
    all records if the set has fewer. All mixers use the same seed. Captions show λ with the image's own labels, and 1-λ
    with its partner's.

    - For a mixer that appends images (SpliceMix), the appended images are shown, each row from a separate draw. The
      captions show the grid and all visible labels.
    - A mixer that returns several views of the batch (ResizeMixPlus) has one column per view.
    - Images of a set with boxes keep their aspect ratio and are drawn with their boxes. `boxes`, `peaks` and `maps`
      have no effect on them.

    Args:
        records: a packed set, or its prefix. A set with boxes requires mixers that support boxes.
        mixers: mixers, or strings for `parse_mixer`.
        out: path of the PNG.
        rows: number of images.
        image_size: side in pixels to which images are resized before mixing (the shorter side for sets with boxes); by
            default `natural_size` of the set.
        seed: seed for the choice of records and for the mixers.
        boxes: outline pasted or erased areas, and the cells of a grid.
        peaks: mark the most salient pixel of each image and, for SaliencyMix, the pixel on which the pasted box is
            centred.
        maps: add a column with the saliency of each image.
        title: heading; by default the name of the set and its numbers of images and classes.

    Raises:
        ValueError: no mixer, an unknown mixer, or a mixer that does not support the set's targets; rows outside
            1 … 100; image_size outside 8 … 2048; an image that cannot be decoded; or `out` does not end in .png.
        FileNotFoundError: no such set, or the output folder does not exist.
    """
    style.check_out(out)
    if not isinstance(records, RecordSet):
        records = RecordSet(records)
    size = natural_size(records) if image_size is None else image_size
    whole("rows", rows, 1, MOST_ROWS)
    whole("image_size", size, 8, LARGEST_IMAGE)
    if not mixers:
        raise ValueError("a gallery needs at least one mixer, such as resizemix")
    classes = records.info.classes
    for mixer in mixers:  # report errors before images are read
        if isinstance(mixer, str):
            mixer = parse_mixer(mixer, len(classes), size, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
        if mixer.takes_boxes != records.task.boxes:
            kind = "is for sets with boxes" if mixer.takes_boxes else "does not support boxes"
            raise ValueError(f"{records.prefix} is a {records.task.name} set: mixer {type(mixer).__name__} {kind}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(records), generator=generator)[: max(2 * rows, SMALLEST_BATCH)].tolist()
    if records.task.boxes:
        labels = records.labels(np.array(chosen))
        padded, boxed = boxed_batch([read_image(records, row) for row in chosen], labels, size)
        columns = [boxed_column("original", padded, boxed, rows, classes)]
        mean = torch.zeros(3)
    else:
        images, targets = read_images(records, chosen, size), read_targets(records, chosen)
        mean = images.float().mean((0, 2, 3)) / 255  # as in training, images are normalized to a mean of 0 for mixing
        batch = Batch(images, targets, mean, classes, min(rows, len(chosen)))
        columns = plain(batch, peaks, maps)
    for mixer in mixers:
        options = _in_words(mixer) if isinstance(mixer, str) else ""
        if isinstance(mixer, str):
            mixer = parse_mixer(mixer, len(classes), size, tuple(mean.tolist()), (1.0, 1.0, 1.0))
        if records.task.boxes:
            made: Any = mixer((padded, boxed), generator=torch.Generator().manual_seed(seed))
            columns.append(boxed_column(type(mixer).__name__, made[0], made[1], rows, classes))
        else:
            columns += mixed(mixer, batch, seed, boxes, peaks, options)
    heading = title or f"{records.prefix.name}: {len(records):,} images, {len(classes):,} classes"
    return style.save(draw(columns, heading), out)


Normal = Sequence[float] | None


def parse_mixer(text: str, num_classes: int, image_size: int, mean: Normal = None, std: Normal = None) -> Mixer[Any]:
    """Build a mixer from a string: its name and options, separated by colons.

    Examples are `resizemix`, `mixup:alpha=1.0:per_batch=True` and, for your own mixer, `my_module:MyMixer:alpha=1.0`.
    Cutout's size defaults to half of `image_size`. MixUp's alpha defaults to 1, since with 0.2 nearly every picture
    would look unmixed.

    Args:
        text: the mixer's name and options.
        num_classes: number of classes of the set.
        image_size: side of the images in pixels.
        mean, std: normalization of the images, passed to mixers that need it.

    Raises:
        ValueError: an unknown mixer or option, or an invalid value.
    """
    name, pairs = _name_and_options(text)
    defaults: dict[str, dict[str, Any]] = {"cutout": {"size": image_size // 2}, "mixup": {"alpha": 1.0}}
    options: dict[str, Any] = defaults.get(name.lower(), {}).copy()
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"mixer {text!r}: {pair!r} is not an option; write name:option=value:option=value")
        try:
            options[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key.strip()] = value.strip()
    mixer_room.check_named(name, options)
    return mixer_room.build(name, **({"num_classes": num_classes, "mean": mean, "std": std} | options))


def _name_and_options(text: str) -> tuple[str, list[str]]:
    """Return (mixer, ["option=value", …]) of `text`. The mixer is "name", or "module:name" if it is not built in."""
    name, *pairs = text.strip().split(":")
    own = pairs and "=" not in pairs[0] and name.lower() not in map(str.lower, mixer_room.MIXERS)
    return (f"{name}:{pairs[0]}", pairs[1:]) if own else (name, pairs)


def _in_words(text: str) -> str:
    """Return the options in `text`, separated by spaces, for a column heading.

    `per_batch=True` becomes "per_batch", and `grids=mini` becomes "mini". Other options, such as `alpha=1.0`, are kept.
    """
    words = []
    for key, _, value in (pair.partition("=") for pair in _name_and_options(text)[1]):
        words.append(key if value == "True" else value if value.isidentifier() else f"{key}={value}")
    return " ".join(words)


def natural_size(records: RecordSet) -> int:
    """Return the set's median shorter side in pixels, clamped to 32 … 224."""
    shorter = np.median(np.minimum(records.table["height"], records.table["width"]))
    return min(max(int(shorter), 32), 224)


def read_images(records: RecordSet, rows: Sequence[int], size: int) -> Tensor:
    """Return the central square of each image, resized: (len(rows), 3, size, size) uint8 RGB."""
    images = np.empty((len(rows), size, size, 3), dtype=np.uint8)
    for index, row in enumerate(rows):
        upright = read_image(records, row)
        # Enlarge with nearest neighbour, so that pixels stay sharp. Reduce with Lanczos.
        enlarged = min(upright.size) < size
        resampling = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
        images[index] = np.asarray(ImageOps.fit(upright, (size, size), resampling))
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def read_image(records: RecordSet, row: int) -> Image.Image:
    """Return a record's image as RGB, rotated by EXIF. Raise ValueError if it cannot be decoded."""
    try:
        return Image.fromarray(pixels_of(records.encoded(row).tobytes()))
    except ValueError as error:
        advice = f"`dali-mix verify --decode {records.prefix}` finds all such records"
        raise ValueError(f"{records.prefix}: record {row}: {error} ({advice})") from error


def read_targets(records: RecordSet, rows: Sequence[int]) -> Tensor:
    """Return the targets of the records `rows`: (B,) int64 class indices, or (B,K) float32 multi-hot rows.

    Raise ValueError if the set has neither class indices nor multi-hot labels.
    """
    if records.task.target_kind is None:
        raise ValueError(
            f"{records.prefix} is a {records.task.name} set: mixers take class indices or multi-hot labels"
        )
    return torch.from_numpy(np.asarray(records.labels(np.asarray(rows, dtype=np.int64))))
