"""Tasks: all code that depends on the kind of labels in a set. No other code compares task names.

A task is a subclass of `Task` with an entry in `TASKS`. Files store its name; `TASKS[name]` is the object.

More than 300 lines: the interface and the three tasks that implement it are kept in one file.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import Any, ClassVar, Literal

import numpy as np

from dali_mix._labels import HEADER_WIDTH, boxes_of, check_boxes, check_class, label_of
from dali_mix._text import counted
from dali_mix.options import did_you_mean

__all__ = ["TASKS", "Task"]


class Task(ABC):
    """A kind of label, and the code that depends on it."""

    name: ClassVar[str]  # used in files and options
    boxes: ClassVar[bool] = False  # True if labels are boxes
    ignores: ClassVar[bool] = False  # True if -1 in a label means "ignore"
    target_kind: ClassVar[Literal["class", "multi-hot"] | None] = None  # for mixers and losses; None: neither
    metrics: ClassVar[str] = ""  # key in `engine.scores.SCORES`; "" if no model can be trained
    measured: ClassVar[tuple[str, ...]] = ()  # scores of an evaluation; the first selects the best model
    chart: ClassVar[tuple[str, dict[str, str]]]  # for `dali-mix curves`: title, and score → label
    model_types: ClassVar[tuple[str, ...]] = ()  # types of models that are for this task only
    probabilities: ClassVar[methodcaller]  # converts logits (B, K) to probabilities; not for boxes
    threshold: ClassVar[float | None] = None  # default; classes or boxes with higher scores are predicted
    top_k: ClassVar[int | None] = None  # default; maximum number of predicted classes

    @abstractmethod
    def check(self, label: Any, num_classes: int) -> None:
        """Raise ValueError unless `label`, a number or floats (n,), is valid in a set with `num_classes` classes."""

    def check_stored(self, label: np.ndarray, info: Any) -> None:
        """Raise ValueError for an invalid label read from a record.

        Args:
            label: (n,) floats.
            info: the set's manifest, of which `num_classes` and `label_width` are used.
        """
        self.check(label, info.num_classes)

    @abstractmethod
    def width(self, num_classes: int) -> int:
        """Return the number of floats per label, or 0 if it varies."""

    def scalar(self, label: Any) -> float:
        """Return the value stored for a label in the table of records: its class, or NaN if it has no single class."""
        return math.nan

    @abstractmethod
    def targets(self, records: Any, rows: np.ndarray) -> Any:
        """Return the targets of the records with indices `rows` (B,) in a `RecordSet`.

        Classes are (B,) int64, multi-label rows (B, K) float32, and boxes a list of B arrays (n, 6) float32. Raise
        ValueError for a label that cannot be a target; `check_stored` checks labels completely.
        """

    def figures(self, records: Any) -> dict[str, Any]:
        """Return task-specific statistics of a `RecordSet`, for `dali-mix inspect` and the summary after packing."""
        return {}

    def describe(self, target: Any, classes: Sequence[str]) -> str:
        """Return a text that describes one target, an item of the result of `targets`."""
        return str(target)

    def count(self, targets: Any) -> str:
        """Return the number of labels in the targets of a loader's batch as text, such as "12 boxes".

        Return "" if every image has exactly one label.
        """
        return ""

    def labelled(self, labels: Sequence[Any]) -> list[int]:
        """Return the indices of the labels that are not empty: those with a class, a positive class or a box."""
        return list(range(len(labels)))

    def fits(self, labels: Sequence[np.ndarray]) -> bool:
        """Return True if `labels`, at least one label as stored in records, are of this task.

        `guess` uses the first task that returns True, so at most one task may do so for the same labels.
        """
        return False

    def count_classes(self, labels: Sequence[np.ndarray]) -> int:
        """Return the number of classes implied by stored labels, at least 1.

        The labels have not been checked. Do not raise an error for labels that do not fit the task.
        """
        return 1


class Classification(Task):
    """One class per image: an integer."""

    name = "classification"
    target_kind = "class"
    metrics = "accuracy"
    measured = ("top1", "top5", "loss")
    chart = "accuracy", {"top1": "top-1", "top5": "top-5"}
    probabilities = methodcaller("softmax", 1)
    top_k = 5

    def check(self, label: Any, num_classes: int) -> None:
        if not isinstance(label, (int, float, np.integer, np.floating)):
            raise ValueError(f"a classification label is one class, not {np.size(label)} numbers (--task multilabel?)")
        check_class(label)
        if label >= num_classes:
            raise ValueError(
                f"label {label:g} is out of range: there are {num_classes} classes, 0 to {num_classes - 1}"
            )

    def check_stored(self, label: np.ndarray, info: Any) -> None:
        if label.size != (info.label_width or label.size):
            raise ValueError(f"{label.size} label floats where the manifest says {info.label_width}")
        self.check(float(label[0]), info.num_classes)

    def width(self, num_classes: int) -> int:
        return 1

    def scalar(self, label: Any) -> float:
        return float(label[0]) if isinstance(label, np.ndarray) else float(label)

    def targets(self, records: Any, rows: np.ndarray) -> np.ndarray:
        labels = np.asarray(records.table["label"][rows])
        bad = ~((labels >= 0) & (labels < max(1, records.info.num_classes)) & (labels == np.floor(labels)))
        if bad.any():
            row = int(rows[bad][0])
            raise ValueError(
                f"{records.prefix}: record {row}: label {labels[bad][0]} is not one of {records.info.num_classes}"
                f" classes; run `dali-mix verify {records.prefix}`"
            )
        return labels.astype(np.int64)

    def describe(self, target: Any, classes: Sequence[str]) -> str:
        return classes[target]

    def figures(self, records: Any) -> dict[str, Any]:
        counts = _counted(records.table["label"], records.info.num_classes)
        return {
            "records_a_class": {"least": int(counts.min()), "most": int(counts.max())},
            "empty_classes": int(np.count_nonzero(counts == 0)),
        }

    def fits(self, labels: Sequence[np.ndarray]) -> bool:
        return all(label.size == 1 for label in labels)

    def count_classes(self, labels: Sequence[np.ndarray]) -> int:
        return _highest([label[:1] for label in labels])


class MultiLabel(Task):
    """One value per class and image: 1 (positive), 0 (negative) or -1 (ignored)."""

    name = "multilabel"
    ignores = True
    target_kind = "multi-hot"
    metrics = "average precision"
    measured = (
        "mAP",
        *(f"{rate}{top}" for top in ("", "_top3") for rate in ("CP", "CR", "CF1", "OP", "OR", "OF1")),
        "loss",
    )
    chart = "mAP", {"mAP": "mAP", "OF1": "overall F1"}
    model_types = ("multilabel",)
    probabilities = methodcaller("sigmoid")
    threshold = 0.5

    def check(self, label: Any, num_classes: int) -> None:
        floats = np.asarray(label, dtype=np.float32)
        if floats.shape != (num_classes,):
            raise ValueError(f"{floats.size} label fields where the {num_classes} classes need {num_classes}")
        wrong = np.flatnonzero((floats != 0) & (floats != 1) & (floats != -1))
        if wrong.size:
            raise ValueError(
                f"label field {wrong[0] + 1} is {floats[wrong[0]]}: multi-label fields are 1, 0 or -1 (ignore)"
            )

    def width(self, num_classes: int) -> int:
        return num_classes

    def targets(self, records: Any, rows: np.ndarray) -> np.ndarray:
        width = records.info.label_width
        out = np.empty((len(rows), width), dtype=np.float32)
        for index, row in enumerate(rows.tolist()):
            label = records.label(row)
            if label.shape != (width,):
                raise ValueError(
                    f"{records.prefix}: record {row}: {label.size} label floats, the manifest says {width};"
                    " verify the set"
                )
            out[index] = label
        return out

    def describe(self, target: Any, classes: Sequence[str]) -> str:
        shown = [classes[kind] for kind in np.flatnonzero(target == 1).tolist()]
        shown += [f"{classes[kind]} (ignored)" for kind in np.flatnonzero(target == -1).tolist()]
        return ", ".join(shown) or "-"

    def count(self, targets: Any) -> str:
        return f"{int((targets == 1).sum())} positive labels"

    def labelled(self, labels: Sequence[Any]) -> list[int]:
        return np.flatnonzero((np.asarray(labels) > 0).any(axis=1)).tolist()

    def fits(self, labels: Sequence[np.ndarray]) -> bool:
        width = labels[0].size
        return width != 1 and all(label.size == width and np.isin(label, (-1, 0, 1)).all() for label in labels)

    def count_classes(self, labels: Sequence[np.ndarray]) -> int:
        return Counter(label.size for label in labels).most_common(1)[0][0]


class Detection(Task):
    """A list of objects per image, each with a class, a box x1, y1, x2, y2 (0 to 1) and `difficult` (0 or 1)."""

    name = "detection"
    boxes = True
    metrics = "average precision of boxes"
    measured = ("AP50", "AP50_11", "AP", "AP75", "AR1", "AR10", "AR100")
    chart = "AP50", {"AP50": "AP50", "AP": "AP"}
    model_types = ("detector",)
    threshold = 0.5

    def check(self, label: Any, num_classes: int) -> None:
        check_boxes(np.asarray(label, dtype=np.float32), num_classes)

    def check_stored(self, label: np.ndarray, info: Any) -> None:
        check_boxes(label_of(boxes_of(label, "label")), info.num_classes)

    def width(self, num_classes: int) -> int:
        return 0

    def targets(self, records: Any, rows: np.ndarray) -> list[np.ndarray]:
        return [boxes_of(records.label(row), f"{records.prefix}: record {row}") for row in rows.tolist()]

    def figures(self, records: Any) -> dict[str, Any]:
        labels = records.labels(np.arange(len(records)))
        counts = _counted(np.concatenate([label[:, 0] for label in labels]), records.info.num_classes)
        return {
            "boxes": sum(map(len, labels)),
            "boxes_a_class": dict(zip(records.info.classes, counts.tolist(), strict=True)),
            "records_without_boxes": sum(not len(label) for label in labels),
        }

    def describe(self, target: Any, classes: Sequence[str]) -> str:
        counts = Counter(classes[int(kind)] for kind in target[:, 0])
        return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "-"

    def count(self, targets: Any) -> str:
        return f"{sum(len(target['boxes']) for target in targets)} boxes"

    def labelled(self, labels: Sequence[Any]) -> list[int]:
        return [row for row, label in enumerate(labels) if np.size(label) > HEADER_WIDTH]

    def fits(self, labels: Sequence[np.ndarray]) -> bool:
        try:
            for row, label in enumerate(labels):
                boxes_of(label, f"record {row}")
        except ValueError:
            return False
        return True

    def count_classes(self, labels: Sequence[np.ndarray]) -> int:
        kinds = []
        for label in labels:
            with contextlib.suppress(ValueError):
                kinds.append(boxes_of(label, "label")[:, 0])
        return _highest(kinds)


CLASSIFICATION, MULTILABEL, DETECTION = Classification(), MultiLabel(), Detection()
TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFICATION, MULTILABEL, DETECTION)}
"""The tasks by name."""


def trainable() -> dict[str, Task]:
    """Return the tasks, by name, for which a model can be trained."""
    return {name: task for name, task in TASKS.items() if task.metrics}


def get(name: str) -> Task:
    """Return the task called `name`. Raise ValueError if there is none."""
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(f"task {name!r} is not one of {', '.join(TASKS)}{did_you_mean(str(name), TASKS)}")
    return TASKS[name]


def guess(labels: Sequence[np.ndarray], where: Callable[[int], str]) -> Task:
    """Return the task that stored labels fit.

    Raise ValueError if they fit none. In the message, `where(row)` names the record of a row.
    """
    for task in TASKS.values():
        if task.fits(labels):
            return task
    kinds = [_kind(label) for label in labels]
    [(most, _)] = Counter(kinds).most_common(1)
    row = next((row for row, kind in enumerate(kinds) if most and kind != most), None)
    found = f"the first has {counted(labels[0].size, 'float', 'floats')}"
    if row is not None:
        found = f"{where(row)} has {_shown(labels[row])}, most are like {_shown(labels[kinds.index(most)])}"
    raise ValueError(
        "the labels are neither classes, nor rows of equal length with 1, 0, -1, nor boxes in mxnet's layout"
        f" ({found}); correct such labels and write the file again or, if the first float of each is its class, as in"
        " insightface's sets, pass --task classification"
    )


def _kind(label: np.ndarray) -> tuple[str, int] | None:
    """Return (name of the task that a stored label fits, its number of floats or 0 for boxes), or None if none fits."""
    task = next((task for task in TASKS.values() if task.fits([label])), None)
    return None if task is None else (task.name, 0 if task.boxes else label.size)


def _shown(label: np.ndarray) -> str:
    shown = ", ".join(f"{value:g}" for value in label[:8])
    return f"[{shown}]" if label.size <= 8 else f"[{shown}, …] ({label.size} floats)"


def _counted(kinds: np.ndarray, num_classes: int) -> np.ndarray:
    """Return how often each class occurs in `kinds` (N,), as (K,) int64. Values outside 0..K-1 are ignored."""
    return np.bincount(kinds[(kinds >= 0) & (kinds < num_classes)].astype(np.int64), minlength=num_classes)


def _highest(kinds: Sequence[np.ndarray]) -> int:
    highest = np.concatenate([np.empty(0), *kinds]).max(initial=0)
    return int(highest) + 1 if 0 <= highest <= 1 << 24 else 1
