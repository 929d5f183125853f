"""Layout `list`: anything else, by a file that lists images and labels. Its suffix says how it is written.

- .lst, im2rec's: `id<TAB>label…<TAB>path`
- .txt, .tsv: `path<TAB>label…`
- .csv: a header with the column `path`, optionally `id`, and label columns, see `csv_list`
- .json, .jsonl: objects {"path": …, "label": class, name or list, "id": …};
  detection: {"path": …, "boxes": [[class, x1, y1, x2, y2(, difficult)], …]}

A label is a class number, a class name, or for `--task multilabel` K numbers 1, 0, -1. Detection labels are floats in
mxnet's layout, or boxes, relative to width and height (0..1). Every row is checked before anything is packed.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dali_mix._labels import HEADER_WIDTH, MAX_CLASS, OBJECT_WIDTH, boxes_of, clip_boxes, label_of
from dali_mix.datasets.annotations import choose_task
from dali_mix.datasets.base import Listing, Options, decode_lines, numbered_classes, read_given, tree_of
from dali_mix.datasets.layouts.csv_list import read_csv
from dali_mix.datasets.trees import Tree, check_name
from dali_mix.datasets.val_share import of_share, shared_split
from dali_mix.options import did_you_mean
from dali_mix.recordio.header import Label
from dali_mix.tasks import CLASSIFICATION, DETECTION, MULTILABEL, Task

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MISSING = frozenset(("nan", "null", "none", "na", "n/a", "<na>"))  # as programs write a value that is missing

_SHOWN = 6
_TRUTH = {"true": "1", "false": "0"}  # as pandas writes columns of yes and no


@dataclass(frozen=True)
class _Row:
    where: str  # file and line, for messages
    path: str
    values: tuple[Any, ...]  # of the label: texts or numbers; one array of boxes (n, 6) for detection from JSON
    id: int | None = None
    columns: tuple[str, ...] = ()  # the names of `values`, where the list has any


def list_file(root: Path, split: str, options: Options) -> Listing:
    """Lists what `--list FILE` (default: SPLIT.lst, .txt, .tsv, .csv, .json or .jsonl in the root) names, relative to
    the root.

    Raises ValueError naming file and line for a malformed row, a path that leaves the root, a label that is not finite,
    out of range or of another length than the others, and for an id that is there twice.
    """
    tree = tree_of(root, options)
    shared_split(options, split)
    path = options.list_file or _default(root, split)
    data = read_given(path, "--list")
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise ValueError(f"{path}: the file is empty, so it lists no image; write a line for each, or check --list")
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(f"{path}: its suffix is none of {', '.join(_SUFFIXES)}, so its format is unknown")
    notices: list[str] = []
    if suffix == ".csv":
        content = read_csv(data, str(path))
        notices += content.notices
        rows = [_csv_row(row.where, row.path, row.values, row.id, content.columns) for row in content.rows]
    else:
        rows = list(_READERS[suffix](data, str(path)))
    if not rows:
        raise ValueError(f"{path}: lists no image")
    names = [_checked_path(row, tree) for row in rows]
    ids = _ids(rows)
    task = choose_task("list", options, *_LABELS) if options.task else _guess_task(rows)
    given = options.class_names()
    read, checks = _LABELS[task]
    labels, classes = read(rows, given)
    for row, label in zip(rows, labels, strict=True):
        _check(row, label, task, len(classes))
    if given is None:
        notices += [notice for check in checks for notice in check(classes, labels)]
    places = [row.where for row in rows]
    report = {"notices": notices} if notices else {}
    listing = Listing(tree, names, labels, classes, "list", split, task.name, ids, places, report=report)
    return of_share(listing, options)


def _missing_values(classes: tuple[str, ...], labels: list[Label]) -> list[str]:
    """A notice for classes whose names may stand for labels that are missing."""
    return [
        f"{labels.count(number):,} labels {name!r} read as a class of this name; leave these lines out if they have no"
        " label"
        for number, name in enumerate(classes)
        if name.lower() in _MISSING
    ]


def _empty_numbers(classes: tuple[str, ...], labels: list[Label]) -> list[str]:
    """A notice on numbered classes without any image or box: labels that count from 1, or that are no class numbers."""
    arrays = [np.asarray(label) for label in labels]
    numbers = [array.reshape(1) if array.ndim == 0 else array[HEADER_WIDTH::OBJECT_WIDTH] for array in arrays]
    used = np.bincount(np.concatenate(numbers).astype(np.int64), minlength=len(classes))
    empty = np.flatnonzero(used == 0).tolist()
    if not empty:
        return []
    renumber = "pass --classes FILE with the numbers that are classes, one a line in order"
    if empty == [0]:
        return [f"labels begin at 1, so class 0 is empty; if they count from 1, {renumber}"]
    which = ", ".join(map(str, empty[:_SHOWN])) + ", …" * (len(empty) > _SHOWN)
    return [
        f"{len(empty):,} of {len(classes):,} numbered classes are empty ({which}); if no split has them, {renumber}"
    ]


def _joined_names(classes: tuple[str, ...], labels: list[Label]) -> list[str]:
    """A notice on classes whose names join those of others, as "cat|dog" does: they may be several labels in one."""
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


def _csv_row(where: str, path: str, values: tuple[str, ...], record_id: str | None, columns: tuple[str, ...]) -> _Row:
    return _Row(where, path, values, None if record_id is None else _id(record_id, where), columns)


def _check(row: _Row, label: Label, task: Task, num_classes: int) -> None:
    try:
        if task.boxes:  # beyond the image by a pixel is clipped when packed, all else is wrong now
            label, _ = clip_boxes(np.asarray(label), 1, 1)
        task.check(label, num_classes)
    except ValueError as error:
        columns = ", ".join(row.columns[:6]) + ", …" * (len(row.columns) > 6)
        advice = f"; the label columns are {columns}: remove what is no class" if len(row.columns) > 1 else ""
        if task.boxes:
            advice = "; boxes in a list are shares of width and height, 0..1"
        elif not row.columns and len(row.values) > 4:
            advice = "; boxes begin with 2 and how many numbers an object has (5 or 6)"
        raise ValueError(f"{row.where}: {error}{advice}") from None


def _default(root: Path, split: str) -> Path:
    found = [root / f"{split}{suffix}" for suffix in _SUFFIXES if (root / f"{split}{suffix}").is_file()]
    if len(found) != 1:
        seen = (
            f"{' and '.join(path.name for path in found)} are" if found else f"no {split}.lst, .txt, .csv or .json is"
        )
        raise FileNotFoundError(f"{root}: {seen} in it: say which file with --list FILE")
    return found[0]


def _lst(data: bytes, where: str) -> Iterator[_Row]:
    for line_where, line in _lines(data, where):
        fields = line.split("\t")
        if len(fields) < 3:
            raise ValueError(f"{line_where}: {line[:80]!r} has {len(fields)} fields: expected `id<TAB>label…<TAB>path`")
        yield _Row(line_where, fields[-1], tuple(fields[1:-1]), _id(fields[0], line_where))


def _txt(data: bytes, where: str) -> Iterator[_Row]:
    for line_where, line in _lines(data, where):
        fields = line.split("\t")
        if len(fields) < 2:
            raise ValueError(f"{line_where}: {line[:80]!r} has no tab: expected `path<TAB>label…`")
        yield _Row(line_where, fields[0], tuple(fields[1:]))


def _lines(data: bytes, where: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(decode_lines(data, where), start=1):
        if line.strip():
            yield f"{where}: line {number}", line


def _json(data: bytes, where: str) -> Iterator[_Row]:
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if not isinstance(entries, list):
        raise ValueError(f"{where}: expected a list of objects, not a {type(entries).__name__}")
    for number, entry in enumerate(entries, start=1):
        yield _json_row(entry, f"{where}: entry {number}")


def _jsonl(data: bytes, where: str) -> Iterator[_Row]:
    for line_where, line in _lines(data, where):
        yield _json_row(_json_line(line, line_where), line_where)


def _json_line(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {error}") from None


def _json_row(entry: Any, where: str) -> _Row:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("path"), str)
        or ("label" in entry) == ("boxes" in entry)
    ):
        raise ValueError(f'{where}: expected {{"path": …, "label": …}} or {{"path": …, "boxes": […]}}')
    record_id = None if entry.get("id") is None else _id(str(entry["id"]), where)
    if "label" in entry:
        label = entry["label"]
        return _Row(where, entry["path"], tuple(label) if isinstance(label, list) else (label,), record_id)
    try:
        boxes = [np.array(box, dtype=np.float64) for box in entry["boxes"]]
    except (TypeError, ValueError, OverflowError):  # OverflowError: a whole number of hundreds of digits
        raise ValueError(f"{where}: field 'boxes': not lists of numbers") from None
    for number, box in enumerate(boxes, start=1):
        if box.shape not in ((5,), (6,)):
            raise ValueError(f"{where}: box {number}: expected [class, x1, y1, x2, y2] or these and difficult")
    rows = [np.append(box, 0.0) if len(box) == 5 else box for box in boxes]
    return _Row(where, entry["path"], (np.array(rows).reshape(-1, 6),), record_id)


_READERS = {".lst": _lst, ".txt": _txt, ".tsv": _txt, ".json": _json, ".jsonl": _jsonl}
_SUFFIXES = (*_READERS, ".csv")


def _checked_path(row: _Row, tree: Tree) -> str:
    """Return the file's name; spaces around it belong to it if there is such a file, else they are removed."""
    stripped = row.path.strip()
    try:
        if stripped != row.path and tree.exists(written := check_name(row.path, tree.root)):
            return written
        return check_name(stripped, tree.root)
    except ValueError as error:
        raise ValueError(f"{row.where}: {error}") from None


def _id(text: str, where: str) -> int:
    value = text.strip()
    if not (value.isascii() and value.isdigit() and len(value.lstrip("0")) <= 20 and int(value[-20:]) < 1 << 64):
        raise ValueError(f"{where}: id {text!r:.60} is not a whole number from 0 to 2^64 - 1")
    return int(value[-20:])


def _ids(rows: list[_Row]) -> list[int] | None:
    if all(row.id is None for row in rows):
        return None
    seen: dict[int, _Row] = {}
    for row in rows:
        if row.id is None:
            raise ValueError(f"{row.where}: has no id, others have")
        if row.id in seen:
            raise ValueError(f"{row.where}: id {row.id} was given by {seen[row.id].where} already; ids must be unique")
        seen[row.id] = row
    return list(seen)


def _guess_task(rows: list[_Row]) -> Task:
    if any(isinstance(value, np.ndarray) for row in rows for value in row.values):
        return DETECTION
    if all(len(row.values) == 1 for row in rows):
        return CLASSIFICATION
    try:
        return DETECTION if DETECTION.fits([_float32(_floats(row)) for row in rows[:100]]) else MULTILABEL
    except ValueError:
        return MULTILABEL


def _classes(rows: list[_Row], given: tuple[str, ...] | None) -> tuple[list[Label], tuple[str, ...]]:
    values = []
    for row in rows:
        if len(row.values) != 1:
            raise ValueError(f"{row.where}: {len(row.values)} label fields where a class has one (--task multilabel?)")
        if isinstance(row.values[0], bool) or not isinstance(row.values[0], (str, int, float)):
            raise ValueError(f"{row.where}: label {row.values[0]!r} is not a class: give its number or name")
        values.append(row.values[0])
    texts = [str(value).strip() for value in values]
    for row, text in zip(rows, texts, strict=True):
        if not text:
            raise ValueError(f"{row.where}: the label is empty: give its class, or leave the line out")
    if given is None and not any(_is_number(text) for text in texts):
        given = tuple(sorted(set(texts)))
    # Names that are numbers ("1", "2") are names where all labels are among them, else labels are class numbers.
    if given is not None:
        number_of = {name: number for number, name in enumerate(given)}
        unknown = [number for number, text in enumerate(texts) if text not in number_of]
        if not unknown:
            return [number_of[text] for text in texts], given
        if not all(_is_number(text) for text in texts):
            first = min(unknown, key=lambda number: _is_number(texts[number]))
            raise ValueError(
                f"{rows[first].where}: class {texts[first]!r:.60} is not among the {len(given)} classes"
                f"{did_you_mean(texts[first], given)}"
            )
    labels = [_class_number(text, row.where) for row, text in zip(rows, texts, strict=True)]
    highest = max(range(len(labels)), key=labels.__getitem__)
    return list(labels), given or numbered_classes(labels[highest], rows[highest].where)


def _class_number(text: str, where: str) -> int:
    value = _number(text, where)
    if value < 0 or value > MAX_CLASS or value != int(value):
        raise ValueError(
            f"{where}: label {text:.60} is not a class: whole numbers from 0 to {MAX_CLASS} (exact as float32)"
        )
    return int(value)


def _multilabel(rows: list[_Row], given: tuple[str, ...] | None) -> tuple[list[Label], tuple[str, ...]]:
    columns = rows[0].columns
    width = len(given) if given else len(rows[0].values)
    if not width:
        raise ValueError(f"{rows[0].where}: no label fields")
    labels: list[Label] = []
    for row in rows:
        if len(row.values) != width:
            raise ValueError(
                f"{row.where}: {len(row.values)} label fields, expected {width} as in"
                f" {'--classes' if given else 'the first row'}"
            )
        labels.append(_float32(_floats(row)))
    if given and set(columns) & set(given):
        if set(columns) != set(given):
            other = next(name for name in columns if name not in given)
            raise ValueError(f"{rows[0].where}: column {other!r} is not among the classes of --classes; correct one")
        order = [columns.index(name) for name in given]
        labels = [np.asarray(label)[order] for label in labels]
    return labels, given or columns or numbered_classes(width - 1, rows[0].where)


def _detection(rows: list[_Row], given: tuple[str, ...] | None) -> tuple[list[Label], tuple[str, ...]]:
    labels: list[Label] = []
    highest = 0.0
    for row in rows:
        if len(row.values) == 1 and isinstance(row.values[0], np.ndarray):
            boxes = _float32(row.values[0])
        else:
            boxes = boxes_of(_float32(_floats(row)), row.where)
        if not np.isfinite(boxes).all():
            raise ValueError(f"{row.where}: a box with a number that is not finite")
        highest = max(highest, float(boxes[:, 0].max(initial=0)))
        labels.append(label_of(boxes))
    return labels, given or numbered_classes(int(highest), rows[0].where)


# For each task how rows become labels, and what to note where no class names are given.
_LABELS: dict[Task, tuple[Callable[..., tuple[list[Label], tuple[str, ...]]], tuple[Callable[..., list[str]], ...]]] = {
    CLASSIFICATION: (_classes, (_missing_values, _joined_names, _empty_numbers)),
    MULTILABEL: (_multilabel, ()),
    DETECTION: (_detection, (_empty_numbers,)),
}


def _float32(values: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinite, and so refused
        return np.asarray(values).astype(np.float32)


def _floats(row: _Row) -> list[float]:
    numbers = []
    for place, value in enumerate(row.values):
        column = f": column {row.columns[place]!r}" if row.columns else ""
        if row.columns and isinstance(value, str):
            value = _TRUTH.get(value.lower(), value)
        numbers.append(_number(value, row.where + column, "; several labels are 1, 0 or -1 for each class, or boxes"))
    return numbers


def _number(value: Any, where: str, advice: str = "") -> float:
    if isinstance(value, str):
        finite = value.strip().lower().lstrip("+-") not in ("nan", "inf", "infinity")
        if finite and not _is_number(value):
            raise ValueError(f"{where}: label {value!r:.60} is not a number{advice}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: label {value!r:.60} is not a number{advice}") from None
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        named = "; if it is a class's name, list all names with --classes FILE" if isinstance(value, str) else ""
        raise ValueError(f"{where}: label {str(value).strip():.60} is not a finite number{named}")
    return number


def _is_number(text: str) -> bool:
    """Whether a text is a decimal number; "nan", "inf" and "1_000", which Python reads too, are names."""
    return _NUMBER.fullmatch(text.strip()) is not None
