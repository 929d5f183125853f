"""Which labels a task allows: checked before a record is written, and again by `verify`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dali_mix.recordio.header import Label, check_class

HEADER_WIDTH, OBJECT_WIDTH = 2, 6  # mxnet's detection layout: [2, 6, (class, xmin, ymin, xmax, ymax, difficult) * n]


def check_label(label: Label, task: str, num_classes: int) -> None:
    """Raises ValueError, saying which field, for a label that does not fit `task` with `num_classes` classes."""
    if task == "classification":
        if not isinstance(label, (int, float, np.integer, np.floating)):
            raise ValueError(f"a classification label is one class, not {np.size(label)} numbers (--task multilabel?)")
        check_class(label)
        if label >= num_classes:
            raise ValueError(
                f"label {label:g} is out of range: there are {num_classes} classes, 0 to {num_classes - 1}"
            )
        return
    floats = np.asarray(label, dtype=np.float32)
    if task == "multilabel":
        if floats.shape != (num_classes,):
            raise ValueError(f"{floats.size} label fields where the {num_classes} classes need {num_classes}")
        wrong = np.flatnonzero((floats != 0) & (floats != 1) & (floats != -1))
        if wrong.size:
            raise ValueError(
                f"label field {wrong[0] + 1} is {floats[wrong[0]]}: multi-label fields are 1, 0 or -1 (ignore)"
            )
        return
    check_boxes(floats, num_classes)


def check_boxes(label: np.ndarray, num_classes: int) -> None:
    """Raises ValueError for a detection label (2 + 6n,) float32 that is not 2, 6, then class, x1 < x2, y1 < y2 in 0..1,
    difficult 0/1.
    """
    if (
        label.ndim != 1
        or label.size < HEADER_WIDTH
        or (label.size - HEADER_WIDTH) % OBJECT_WIDTH
        or list(label[:2]) != [HEADER_WIDTH, OBJECT_WIDTH]
    ):
        raise ValueError(
            f"a detection label is 2, 6, then six numbers an object; this one has {label.size} and begins with"
            f" {label[:2].tolist()}"
        )
    for number, (kind, x1, y1, x2, y2, difficult) in enumerate(label[2:].reshape(-1, OBJECT_WIDTH).tolist(), start=1):
        if not np.isfinite([kind, x1, y1, x2, y2, difficult]).all():
            raise ValueError(f"object {number}: not a finite number among {[kind, x1, y1, x2, y2, difficult]}")
        if not 0 <= kind < num_classes or kind != int(kind):
            raise ValueError(f"object {number}: class {kind:g} is out of range: there are {num_classes} classes")
        if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
            raise ValueError(
                f"object {number}: the box x {x1:g}..{x2:g}, y {y1:g}..{y2:g} is empty, turned round or beyond 0..1"
            )
        if difficult not in (0.0, 1.0):
            raise ValueError(f"object {number}: 'difficult' is {difficult:g}, not 0 or 1")


def count_targets(labels: np.ndarray) -> np.ndarray:
    """How many of multi-label targets (N, K) are 1, 0 and -1 in each class: (3, K) int64."""
    return np.stack([(labels == value).sum(axis=0) for value in (1, 0, -1)])


def report_targets(counts: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """What a set's report says of the counts (3, K) of its targets: totals, and a notice on classes without a 0."""
    positive, negative, ignored = counts.sum(axis=1).tolist()
    report: dict[str, Any] = {
        "targets": {"1 (positive)": positive, "0 (negative)": negative, "-1 (ignored)": ignored},
    }
    suspect = np.flatnonzero((counts[1] == 0) & (counts[2] > 0)).tolist()
    if suspect:
        which = ", ".join(classes[number] for number in suspect[:6]) + ", …" * (len(suspect) > 6)
        report["notices"] = [
            f"no target is 0 in {len(suspect):,} of {len(classes):,} classes ({which}): -1 means ignore, so"
            " nothing teaches what is not of these classes; use 0 for no"
        ]
    return report


def clip_boxes(label: np.ndarray, height: int, width: int) -> tuple[np.ndarray, int]:
    """Clips the boxes of a detection label (2 + 6n,) float32 to the image of `height` x `width` pixels; also how many
    it clipped.

    A box that leaves the image by at most one pixel or one per cent is clipped. Raises ValueError for one further out.
    """
    if label.ndim != 1 or (label.size - HEADER_WIDTH) % OBJECT_WIDTH:
        raise ValueError(f"a detection label is 2, 6, then six numbers an object; this one has {label.size}")
    clipped = label.copy()
    boxes = clipped[HEADER_WIDTH:].reshape(-1, OBJECT_WIDTH)[:, 1:5]
    scale = np.array([width, height, width, height], dtype=np.float64)
    reach = np.maximum(0.01, 1.0 / scale) + 1e-6
    too_far = (boxes < -reach) | (boxes > 1 + reach)
    if too_far.any():
        number = int(np.flatnonzero(too_far.any(axis=1))[0])
        corners = np.round(boxes[number] * scale, 2).tolist()
        raise ValueError(
            f"object {number + 1}: the box {corners} (x1, y1, x2, y2 in pixels)"
            f" leaves the {width}x{height} image by more than a pixel and 1 %"
        )
    beyond = int(((boxes < 0) | (boxes > 1)).any(axis=1).sum())
    np.clip(boxes, 0, 1, out=boxes)
    return clipped, beyond
