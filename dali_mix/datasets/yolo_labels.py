"""Parse YOLO label files into detection labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from dali_mix._labels import has_area, label_of, leaving
from dali_mix.datasets.annotations import OR_TREAT, treat_boxes
from dali_mix.datasets.base import Options, numbered_lines

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in 0..1 of width and height


def read_boxes(
    data: bytes,
    where: str,
    num_classes: int,
    keypoints: bool,
    size: Callable[[], tuple[int, int]],
    counts: Counter[str],
    options: Options,
) -> np.ndarray:
    """Return the detection label (2 + 6n,) float32 of the label file `data`.

    A line is `class cx cy w h`, followed by keypoints if `keypoints`, or a class and the points of a polygon. Boxes
    that slightly exceed the image are kept for the packer to clip; boxes without area and duplicate lines are dropped.
    `counts` is updated with the numbers of polygons, lines with keypoints, duplicate lines, boxes without area, and bad
    boxes clipped or dropped.

    `treat_boxes` handles boxes with a negative side, and boxes that exceed the image by more than one pixel and more
    than 1%; `size()` returns the image's height and width. Any other error is added to `options.mistakes`, with file
    and line.
    """
    rows: dict[tuple[float, ...], None] = {}
    for spot, line in numbered_lines(data, where):
        with options.mistakes:
            kind, box = _parsed(line, spot, num_classes, keypoints, counts)
            if min(box) < -0.01 or max(box) > 1.01 or box[0] > box[2] or box[1] > box[3]:
                found = _treated(box, size, spot, options, counts)
                if found is None:
                    continue
                box = found
            counts["repeated_lines"] += (kind, *box) in rows
            rows[(kind, *box)] = None
    objects = np.array([(*row, 0) for row in rows], dtype=np.float64).reshape(-1, 6)
    good = has_area(np.clip(objects[:, 1:5], 0, 1))
    counts["boxes_without_area"] += int(np.count_nonzero(~good))
    with np.errstate(over="ignore"):  # huge boxes of an unreadable image, which the packer reports or skips
        return label_of(objects[good])


def _parsed(line: str, where: str, num_classes: int, keypoints: bool, counts: Counter[str]) -> tuple[float, Box]:
    try:
        kind, *numbers = map(float, line.split())
    except ValueError:
        raise ValueError(f"{where}: {line.strip()[:60]!r}: expected numbers separated by spaces; correct it") from None
    if not all(map(math.isfinite, (kind, *numbers))):
        raise ValueError(f"{where}: {line.strip()[:60]!r} has a number that is not finite; correct it")
    if not 0 <= kind < num_classes or kind != int(kind):
        raise ValueError(
            f"{where}: class {kind:g} is out of range: there are {num_classes} classes, counted from 0; correct it"
        )
    count = len(numbers)
    if count == 4 or (keypoints and count > 4):
        counts["lines_with_keypoints"] += count > 4
        x, y, width, height = numbers[:4]
        return kind, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if count < 6 or count % 2:
        hint = "; if the sixth is a confidence, these are predictions, not labels" if count == 5 else ""
        if count > 6:
            hint = f"; the {count} coordinates of a polygon are not pairs of x and y"
        raise ValueError(
            f"{where}: {count + 1} numbers where a box has 5 (class cx cy w h) and a polygon a class and at least 3"
            f" points; correct it{hint}"
        )
    counts["polygons"] += 1
    return kind, (min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2]))


def _treated(
    box: Box, size: Callable[[], tuple[int, int]], where: str, options: Options, counts: Counter[str]
) -> Box | None:
    """Apply `treat_boxes` to `box` if it is bad (see `read_boxes`). Return the box, or None if it is dropped.

    If the image cannot be read, a box is bad only if it has a negative side.
    """
    boxes = np.array([box])
    turned = box[0] > box[2] or box[1] > box[3]
    height = width = 0
    with suppress(FileNotFoundError, ValueError):  # the packer reports the unreadable image, or skips it
        height, width = size()
    if not turned and not (height and leaving(boxes, height, width).any()):
        return box
    sides = f"width {box[2] - box[0]:g} and height {box[3] - box[1]:g}"
    text = f"{where}: {sides}: sizes must not be negative; correct it{OR_TREAT}"
    if not turned:
        corners = ", ".join(f"{side:g}" for side in box)
        hint = ": if these are pixels, divide them by width and height" if max(box) > 2 else OR_TREAT
        text = (
            f"{where}: the box {corners} (x1, y1, x2, y2 in 0..1) leaves the {width}x{height} image by more than a"
            f" pixel and 1%; correct it{hint}"
        )
    stays = treat_boxes(boxes, np.array([True]), lambda _: text, options, counts).all()
    x1, y1, x2, y2 = boxes[0].tolist()
    return (x1, y1, x2, y2) if stays else None
