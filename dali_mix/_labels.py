"""Check, clip and count labels; each task in `tasks` selects the checks it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dali_mix._text import first_of

MAX_CLASS = 1 << 24  # labels are stored as float32: above this, adjacent integers are not distinct
HEADER_WIDTH, OBJECT_WIDTH = 2, 6  # mxnet's detection layout: [2, 6, (class, xmin, ymin, xmax, ymax, difficult) * n]
ROUNDING = 1e-5  # tolerance for coordinates in 0..1: boxes that touch the border are often written with six digits
_HEADER = np.array([HEADER_WIDTH, OBJECT_WIDTH], dtype=np.float32)


def check_class(label: Any) -> None:
    """Raise ValueError unless `label` is an integer from 0 to 2^24. All these integers are exact as float32."""
    value = float(label)
    if not 0 <= value <= MAX_CLASS or value != int(value):  # False for NaN
        wanted = f"classes are integers from 0 to {MAX_CLASS} (exact as float32)"
        raise ValueError(f"label {label} is not a class: {wanted}")


def boxes_of(label: np.ndarray, where: str) -> np.ndarray:
    """Return the boxes (n, 6) float32 of a detection label in mxnet's layout.

    The layout is header width A (2 or more), object width B (5 to 64), A - 2 floats, then n × B floats: class, x1, y1,
    x2, y2, difficult, …. Values after `difficult` are dropped. If `difficult` is missing, it is 0. Raise ValueError if
    `label` does not have this layout, with a message that begins with `where`.
    """
    wrong = f"{where}: not a detection label"
    if label.size < 2 or not (2 <= label[0] <= label.size and 5 <= label[1] <= 64):
        raise ValueError(f"{wrong}: it begins with {label[:2].tolist()}, not header width >= 2 and object width >= 5")
    header, width = int(label[0]), int(label[1])
    if header != label[0] or width != label[1] or (label.size - header) % width:
        parts = f"a header of {header} and objects of {width}"
        raise ValueError(f"{wrong}: {label.size} floats do not divide into {parts}")
    objects = label[header:].reshape(-1, width)
    out = np.zeros((len(objects), 6), dtype=np.float32)
    out[:, : min(width, 6)] = objects[:, :6]
    return out


def objects_of(label: np.ndarray) -> np.ndarray:
    """Return the objects in a detection label (2 + 6n,), as a view (n, 6) of `label`.

    Raise ValueError unless `label` is one-dimensional and consists of 2, 6 and six numbers per object.
    """
    widths = [HEADER_WIDTH, OBJECT_WIDTH]
    if label.ndim != 1 or list(label[:2]) != widths or (label.size - HEADER_WIDTH) % OBJECT_WIDTH:
        found = f"this one has {label.size} and begins with {label[:2].tolist()}"
        raise ValueError(f"a detection label is 2, 6, then six numbers per object; {found}")
    return label[HEADER_WIDTH:].reshape(-1, OBJECT_WIDTH)


def label_of(objects: np.ndarray) -> np.ndarray:
    """Return the detection label (2 + 6n,) float32 of `objects` (n, 6)."""
    return np.concatenate([_HEADER, np.ravel(objects)]).astype(np.float32, copy=False)


def check_boxes(label: np.ndarray, num_classes: int) -> None:
    """Raise ValueError unless `label` is a detection label (2 + 6n,) of valid objects.

    An object is valid if its numbers are finite, its class is an integer from 0 to `num_classes` - 1, its corners are
    in 0..1 with x1 < x2 and y1 < y2, and `difficult` is 0 or 1.
    """
    for number, (kind, x1, y1, x2, y2, difficult) in enumerate(objects_of(label).tolist(), start=1):
        if not np.isfinite([kind, x1, y1, x2, y2, difficult]).all():
            raise ValueError(f"object {number}: not a finite number among {[kind, x1, y1, x2, y2, difficult]}")
        if not 0 <= kind < num_classes or kind != int(kind):
            raise ValueError(f"object {number}: class {kind:g} is out of range: there are {num_classes} classes")
        if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
            box = f"the box x {x1:g}..{x2:g}, y {y1:g}..{y2:g}"
            raise ValueError(f"object {number}: {box} is empty, has swapped corners or exceeds 0..1")
        if difficult not in (0.0, 1.0):
            raise ValueError(f"object {number}: 'difficult' is {difficult:g}, not 0 or 1")


def count_targets(labels: np.ndarray) -> np.ndarray:
    """Return the number of 1, 0 and -1 entries per class in multi-label targets (N, K), as (3, K) int64."""
    return np.stack([(labels == value).sum(axis=0) for value in (1, 0, -1)])


def report_targets(counts: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return entries for a set's report from the `counts` (3, K) of `count_targets`.

    "targets" has the total number of 1, 0 and -1 entries. If a class has -1 but no 0, "notices" is a list with one
    text, which names up to six of these classes. Otherwise, it is missing.
    """
    positive, negative, ignored = counts.sum(axis=1).tolist()
    targets = {"1 (positive)": positive, "0 (negative)": negative, "-1 (ignored)": ignored}
    report: dict[str, Any] = {"targets": targets}
    suspect = np.flatnonzero((counts[1] == 0) & (counts[2] > 0)).tolist()
    if suspect:
        which = first_of([classes[number] for number in suspect])
        report["notices"] = [
            f"no target is 0 in {len(suspect):,} of {len(classes):,} classes ({which}): -1 means ignore, so"
            " these classes have no negative examples; use 0 for no"
        ]
    return report


def leaving(boxes: np.ndarray, height: Any, width: Any) -> np.ndarray:
    """Return a mask (n,) bool of the boxes (n, 4) that exceed their image too far.

    Too far is more than one pixel and more than 1% of the image's width (for x1, x2) or height (for y1, y2).

    Boxes are x1, y1, x2, y2, divided by the width and height of their image. `height` and `width` are in pixels: two
    numbers if all boxes belong to one image, else arrays (n,). If they are NaN (unknown), a box is never marked.
    """
    reach = np.maximum(0.01, 1 / np.stack([width, height, width, height], axis=-1)) + 1e-6
    return np.asarray(np.any((boxes < -reach) | (boxes > 1 + reach), axis=-1))


def bad_box_text(box: np.ndarray, height: int, width: int) -> str:
    """Return a message on a `box` (4,) that `bad_boxes` marks: it leaves its image, or has no area in it."""
    corners = np.round(box * np.array([width, height, width, height], dtype=np.float64), 2).tolist()
    text = f"the box {corners} (x1, y1, x2, y2 in pixels)"
    if leaving(box, height, width):
        return f"{text} leaves the {width}x{height} image by more than a pixel and 1%"
    return f"{text} has no area inside the {width}x{height} image"


def bad_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a mask (n,) bool of boxes (n, 4) that `leaving` marks, or that have no area in the image."""
    return leaving(boxes, height, width) | ~has_area(np.clip(boxes, 0, 1))


def has_area(boxes: np.ndarray) -> np.ndarray:
    """Return a mask (n,) bool of boxes (n, 4) with x1 < x2 and y1 < y2 after rounding to float32, as stored."""
    stored = boxes.astype(np.float32)
    return np.all(stored[:, :2] < stored[:, 2:], axis=1)


def clip_boxes(label: np.ndarray, height: int, width: int) -> tuple[np.ndarray, int]:
    """Return (copy of `label` with boxes clipped to 0..1, number of boxes that exceeded 0..1 by more than `ROUNDING`).

    Raise ValueError if `label` is not a detection label (2 + 6n,), or if `leaving` marks one of its boxes.
    """
    clipped = label.copy()
    boxes = objects_of(clipped)[:, 1:5]
    too_far = leaving(boxes, height, width)
    if too_far.any():
        number = int(np.flatnonzero(too_far)[0])
        raise ValueError(f"object {number + 1}: {bad_box_text(boxes[number], height, width)}")
    beyond = int(((boxes < -ROUNDING) | (boxes > 1 + ROUNDING)).any(axis=1).sum())
    np.clip(boxes, 0, 1, out=boxes)
    return clipped, beyond
