"""A picture of mixers applied to a set: one row per image, one column per mixer, with labels and shares below."""

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

MOST_ROWS, LARGEST_IMAGE = 100, 2048  # of a picture that matplotlib draws within a minute, and viewers open
SMALLEST_BATCH = 32  # so that an image is seldom its own partner


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
    """Draw `rows` images of a packed set, unmixed and mixed by each mixer, as the PNG `out`.

    Images are the central squares of randomly drawn records; partners come from a batch of 32 or more. All mixers use
    the same seed. Below each picture are λ with the image's own labels and 1-λ with its partner's; for SpliceMix the
    grid and all visible labels. For a mixer that appends images (SpliceMix) the appended ones are shown, each row from
    a separate draw; a mixer that returns several views of the batch (ResizeMixPlus) has one column per view. Images of
    a set with boxes keep their proportions and are drawn with their boxes.

    Args:
        records: a packed set, or its prefix. A set with boxes requires mixers that support boxes.
        mixers: mixers, or strings for `parse_mixer`.
        image_size: side in pixels to which images are resized before mixing; by default `natural_size` of the set.
        boxes: outline pasted or erased areas, and the cells of a grid.
        peaks: mark the most salient pixel of each image and, for SaliencyMix, of the pasted box.
        maps: add a column with the saliency of each image.

    Raises:
        ValueError: an unknown mixer, or one for other targets; no rows or more than 100, image_size not in 8 … 2048, an
            image that cannot be decoded, `out` does not end in .png.
        FileNotFoundError: no such set, or the output folder does not exist.
    """
    style.check_out(out)
    if not isinstance(records, RecordSet):
        records = RecordSet(records)
    size = natural_size(records) if image_size is None else image_size
    whole("rows", rows, 1, MOST_ROWS)
    whole("image_size", size, 8, LARGEST_IMAGE)
    if not mixers:
        raise ValueError("a gallery needs a mixer: name one, such as resizemix")
    classes = records.info.classes
    for mixer in mixers:  # a wrong one is told before images are read
        if isinstance(mixer, str):
            mixer = parse_mixer(mixer, len(classes), size, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
        if mixer.takes_boxes != records.task.boxes:
            kind = "is for sets with boxes" if mixer.takes_boxes else "does not carry boxes along"
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
        mean = images.float().mean((0, 2, 3)) / 255  # as in training, 0 is the mean colour while mixing
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

    For instance `resizemix`, `mixup:alpha=1.0:per_batch=True`, or `my_module:MyMixer:alpha=1.0` for your own. Cutout's
    size defaults to half the side of the images, and MixUp's alpha to 1, since with .2 nearly every picture would look
    unmixed. `mean` and `std` are passed to mixers that need the normalization of the images.

    Raises:
        ValueError: unknown mixer or option.
    """
    name, pairs = _name_and_options(text)
    defaults: dict[str, dict[str, Any]] = {"cutout": {"size": image_size // 2}, "mixup": {"alpha": 1.0}}
    options: dict[str, Any] = defaults.get(name.lower(), {}).copy()
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"mixer {text!r}: {pair!r} is no option; write name:option=value:option=value")
        try:
            options[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key.strip()] = value.strip()
    mixer_room.check_named(name, options)
    return mixer_room.build(name, **({"num_classes": num_classes, "mean": mean, "std": std} | options))


def _name_and_options(text: str) -> tuple[str, list[str]]:
    """Split `name:option=value` and `module:name:option=value`."""
    name, *pairs = text.strip().split(":")
    own = pairs and "=" not in pairs[0] and name.lower() not in map(str.lower, mixer_room.MIXERS)
    return (f"{name}:{pairs[0]}", pairs[1:]) if own else (name, pairs)


def _in_words(text: str) -> str:
    """Return the options of a mixer's text for its column: `per_batch=True` is per_batch, `grids=mini` is mini."""
    words = []
    for key, _, value in (pair.partition("=") for pair in _name_and_options(text)[1]):
        words.append(key if value == "True" else value if value.isidentifier() else f"{key}={value}")
    return " ".join(words)


def natural_size(records: RecordSet) -> int:
    """Return the set's median shorter side in pixels, clamped to 32 … 224."""
    shorter = np.median(np.minimum(records.table["height"], records.table["width"]))
    return min(max(int(shorter), 32), 224)


def read_images(records: RecordSet, rows: Sequence[int], size: int) -> Tensor:
    """Return the central square of each image: (len(rows), 3, size, size) uint8 RGB."""
    images = np.empty((len(rows), size, size, 3), dtype=np.uint8)
    for index, row in enumerate(rows):
        upright = read_image(records, row)
        # Enlarged pixels stay sharp squares; reduced ones are averaged.
        enlarged = min(upright.size) < size
        resampling = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
        images[index] = np.asarray(ImageOps.fit(upright, (size, size), resampling))
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def read_image(records: RecordSet, row: int) -> Image.Image:
    """Return a record's image, rotated by EXIF."""
    try:
        return Image.fromarray(pixels_of(records.encoded(row).tobytes()))
    except ValueError as error:
        advice = f"`dali-mix verify --decode {records.prefix}` finds all such"
        raise ValueError(f"{records.prefix}: record {row}: {error} ({advice})") from error


def read_targets(records: RecordSet, rows: Sequence[int]) -> Tensor:
    """Return (B,) int64 class indices or (B,K) float32 multi-hot rows."""
    if records.task.target_kind is None:
        raise ValueError(
            f"{records.prefix} is a {records.task.name} set: mixers take class indices or multi-hot labels"
        )
    return torch.from_numpy(np.asarray(records.labels(np.asarray(rows, dtype=np.int64))))
