"""Labels of a list file: guess the task and convert rows to labels."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dali_mix._labels import HEADER_WIDTH, OBJECT_WIDTH, boxes_of, check_class, label_of
from dali_mix._text import first_of
from dali_mix.datasets.base import numbered_classes
from dali_mix.datasets.mistakes import Mistakes, also
from dali_mix.options import did_you_mean
from dali_mix.recordio.header import Label
from dali_mix.tasks import CLASSIFICATION, DETECTION, MULTILABEL, Task

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MISSING = frozenset(("nan", "null", "none", "na", "n/a", "<na>"))  # spellings of a missing value
_CORNERS = {"xmin", "ymin", "xmax", "ymax"}
_TRUTH = {"true": "1", "false": "0"}  # how pandas writes boolean columns


@dataclass(frozen=True)
class Row:
    """One image of a list."""

    where: str  # file and line, for messages
    path: str
    values: tuple[Any, ...]  # label fields, strings or numbers; or one array of boxes (n, 6) from JSON
    id: int | None = None
    columns: tuple[str, ...] = ()  # column names of `values`, if the list has a header


def read_id(text: str, where: str) -> int:
    """Parse a record id. Unless it is in 0..2^64 - 1, raise ValueError with a message that begins with `where`."""
    value = text.strip()
    if not (value.isascii() and value.isdigit() and len(value.lstrip("0")) <= 20 and int(value[-20:]) < 1 << 64):
        raise ValueError(f"{where}: id {text!r:.60} is not an integer from 0 to 2^64 - 1")
    return int(value[-20:])


def guess_task(rows: list[Row]) -> Task:
    """Guess the task from the rows.

    The task is detection if a row has an array of boxes, and classification if most rows have one value. Otherwise it
    is detection if at least half of the first 100 rows are in mxnet's layout of boxes, else multi-label.
    """
    if any(isinstance(value, np.ndarray) for row in rows for value in row.values):
        return DETECTION
    if 2 * sum(len(row.values) == 1 for row in rows) > len(rows):
        return CLASSIFICATION
    first = rows[:100]
    return DETECTION if 2 * sum(map(_has_boxes, first)) >= len(first) else MULTILABEL


def _has_boxes(row: Row) -> bool:
    try:
        return DETECTION.fits([_float32(_floats(row))])
    except ValueError:
        return False


Labels = list[Label | None]  # one per row; None if the row is a mistake


def _classes(rows: list[Row], given: tuple[str, ...] | None, mistakes: Mistakes) -> tuple[Labels, tuple[str, ...]]:
    texts: list[str | None] = []
    for row in rows:
        text = None
        with mistakes:
            text = _class_text(row)
        texts.append(text)
    written = [text for text in texts if text is not None]
    numbers = [text for text in written if _is_number(text)]
    classes = tuple(sorted(set(written).difference(numbers))) if given is None else given
    number_of = {name: number for number, name in enumerate(classes)}
    # Numeric labels are class names if `classes` has them all ("1", "2"), else class indices. If numbers and other
    # names are mixed, the rarer kind is the mistake.
    unknown = sum(text not in number_of for text in numbers)
    numbered = 2 * unknown > len(written) or (unknown > 0 and len(numbers) == len(written))
    if given is None:
        numbered = 0 < len(written) <= 2 * len(numbers)
    counts = Counter(written)
    unknown_names: set[str] = set()  # each is reported once, however many rows have it
    labels: list[int | None] = []
    for row, text in zip(rows, texts, strict=True):
        label = None
        with mistakes:
            if text is None or text in unknown_names:
                pass
            elif text in number_of and not numbered:
                label = number_of[text]
            elif given is not None and text not in number_of and not (numbered and _is_number(text)):
                hint = did_you_mean(text, given) if mistakes.still_shown else ""  # slow
                unknown_names.add(text)
                more = also(counts[text] - 1, "row")
                raise ValueError(f"{row.where}: class {text!r:.60} is not among the {len(given)} classes{more}{hint}")
            else:
                label = _class_number(text, row.where, numbered)
        labels.append(label)
    if given is None and numbered:
        highest, at = max(((label, -at) for at, label in enumerate(labels) if label is not None), default=(0, 0))
        classes = numbered_classes(highest, rows[-at].where)
    return list(labels), classes


def _class_text(row: Row) -> str:
    if len(row.values) != 1:
        raise ValueError(f"{row.where}: {len(row.values)} label fields where a class has one (--task multilabel?)")
    value = row.values[0]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{row.where}: label {value!r} is not a class: give its index or name")
    text = str(value).strip()
    if not text:
        raise ValueError(f"{row.where}: the label is empty: give its class, or leave the line out")
    return text


def _class_number(text: str, where: str, numbered: bool) -> int:
    """Return the numeric label `text` as a class index.

    Raise ValueError, with a message that begins with `where`, if `text` is not an integer from 0 to 2^24. Also raise it
    if `numbered` is False: most labels of the list are then class names, and a number is a mistake.
    """
    if not numbered:
        raise ValueError(f"{where}: label {text!r:.60} is a number, most are names; correct it, or pass --classes FILE")
    number = _number(text, where)
    try:
        check_class(number)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return int(number)


def _multilabel(rows: list[Row], given: tuple[str, ...] | None, mistakes: Mistakes) -> tuple[Labels, tuple[str, ...]]:
    columns = rows[0].columns
    [(width, _)] = Counter(len(row.values) for row in rows).most_common(1)
    width = len(given) if given else width
    if not width:
        raise ValueError(f"{rows[0].where}: no label fields")
    order: list[int] = []
    if given and not set(columns).isdisjoint(given):
        where = rows[0].where
        if others := [name for name in columns if name not in given]:
            raise ValueError(f"{where}: column {others[0]!r} is not among the classes of --classes; correct one")
        if others := [name for name in given if name not in columns]:
            raise ValueError(f"{where}: class {others[0]!r} of --classes has no column; correct one")
        order = [columns.index(name) for name in given]
    several = "; a multi-label list has 1, 0 or -1 (unknown) for each class, in its own column, no names"
    advice = _on_text(columns, several)
    labels: Labels = []
    for row in rows:
        label = None
        with mistakes:
            if len(row.values) != width:
                raise ValueError(
                    f"{row.where}: {len(row.values)} label fields, expected {width} as in"
                    f" {'--classes' if given else 'most rows'}"
                )
            label = _float32(_floats(row, advice))
        labels.append(label)
    if order:
        labels = [None if label is None else np.asarray(label)[order] for label in labels]
    return labels, given or columns or numbered_classes(width - 1, rows[0].where)


def _detection(rows: list[Row], given: tuple[str, ...] | None, mistakes: Mistakes) -> tuple[Labels, tuple[str, ...]]:
    advice = _on_text(rows[0].columns, "; several labels are 1, 0 or -1 for each class, or boxes")
    labels: Labels = []
    highest = 0.0
    for row in rows:
        label = None
        with mistakes:
            if len(row.values) == 1 and isinstance(row.values[0], np.ndarray):
                boxes = _float32(row.values[0])
            else:
                boxes = boxes_of(_float32(_floats(row, advice)), row.where)
            if not np.isfinite(boxes).all():
                raise ValueError(f"{row.where}: a box with a number that is not finite")
            highest = max(highest, float(boxes[:, 0].max(initial=0)))
            label = label_of(boxes)
        labels.append(label)
    return labels, given or numbered_classes(int(highest), rows[0].where)


def _missing_values(classes: tuple[str, ...], labels: list[Label]) -> list[str]:
    """Return a notice for each class whose name may stand for a missing label, such as "nan"."""
    return [
        f"{labels.count(number):,} labels {name!r} read as a class of this name; leave these lines out if they have no"
        " label"
        for number, name in enumerate(classes)
        if name.lower() in _MISSING
    ]


def _empty_numbers(classes: tuple[str, ...], labels: list[Label]) -> list[str]:
    """Return a list with one notice if some of the classes do not occur in `labels`; else an empty list.

    Only classes that result from numeric labels can be missing: the numbers may start at 1, or may not be class
    indices. The notice advises to list the numbers that are classes with --classes.
    """
    arrays = [np.asarray(label) for label in labels]
    numbers = [array.reshape(1) if array.ndim == 0 else array[HEADER_WIDTH::OBJECT_WIDTH] for array in arrays]
    used = np.bincount(np.concatenate(numbers).astype(np.int64), minlength=len(classes))
    empty = np.flatnonzero(used == 0).tolist()
    if not empty:
        return []
    renumber = "pass --classes FILE with the numbers that are classes, one per line in order"
    if empty == [0]:
        return [f"labels begin at 1, so class 0 is empty; if they count from 1, {renumber}"]
    which = first_of([str(number) for number in empty])
    return [
        f"{len(empty):,} of {len(classes):,} numbered classes are empty ({which}); if no split has them, {renumber}"
    ]


def _joined_names(classes: tuple[str, ...], labels: list[Label]) -> list[str]:
    """Return a list with one notice if class names are combinations of others, such as "cat|dog"; else an empty list.

    A name with "|", ";" or "," is a combination if any of its parts is a class. A name of several words is one if all
    its words are classes. Images of such a class may have several labels.
    """
    known = frozenset(classes)
    joined = [
        name
        for name in classes
        if (len(parts := re.split(r"\s*[|;,]\s*", name)) > 1 and not known.isdisjoint(parts))
        or (len(parts := name.split()) > 1 and known.issuperset(parts))
    ]
    if not joined:
        return []
    return [
        f"{len(joined):,} classes join the names of others, as {joined[0]!r:.60}; if these are several labels, give a"
        " column of 1 and 0 for each class (--task multilabel)"
    ]


# Task -> a function that converts rows to labels and classes, and functions that return notices if --classes is unset.
LABELS: dict[Task, tuple[Callable[..., tuple[Labels, tuple[str, ...]]], tuple[Callable[..., list[str]], ...]]] = {
    CLASSIFICATION: (_classes, (_missing_values, _joined_names, _empty_numbers)),
    MULTILABEL: (_multilabel, ()),
    DETECTION: (_detection, (_empty_numbers,)),
}


def _float32(values: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # becomes inf, which is rejected later
        return np.asarray(values).astype(np.float32)


def _on_text(columns: Sequence[str], advice: str) -> str:
    """Return the advice for a label that is not a number: `advice`, unless the columns are corners of boxes."""
    if _CORNERS.issubset(map(str.lower, columns)):
        return "; columns such as xmin are not read as boxes: write a JSON list of boxes (docs/packing.md)"
    return advice


def _floats(row: Row, advice: str = "") -> list[float]:
    numbers = []
    for index, value in enumerate(row.values):
        column = f": column {row.columns[index]!r}" if row.columns else ""
        if row.columns and isinstance(value, str):
            value = _TRUTH.get(value.lower(), value)
        numbers.append(_number(value, row.where + column, advice))
    return numbers


def _number(value: Any, where: str, advice: str = "") -> float:
    try:
        if isinstance(value, str) and ("_" in value or not value.isascii()):  # float() would accept these
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        empty = isinstance(value, str) and not value.strip()
        what = "the label is empty" if empty else f"label {value!r:.60} is not a number"
        raise ValueError(f"{where}: {what}{advice}") from None
    except OverflowError:  # an integer with hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        named = "; if it is a class's name, list all names with --classes FILE" if isinstance(value, str) else ""
        raise ValueError(f"{where}: label {str(value).strip():.60} is not a finite number{named}")
    return number


def _is_number(text: str) -> bool:
    """Return True for a decimal number; "nan", "inf" and "1_000", which Python also parses, count as names."""
    return _NUMBER.fullmatch(text.strip()) is not None
