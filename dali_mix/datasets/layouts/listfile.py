"""Layout `list`: any other dataset, from a file that lists images and labels. The file's suffix determines its format.

- .lst (im2rec's format): `id<TAB>label…<TAB>path`
- .txt, .tsv: `path<TAB>label…`
- .csv: a header with the column `path`, optionally `id`, and label columns (see `csv_list`)
- .json (a list of objects), .jsonl (one object per line): {"path": …, "label": class, name or list, "id": …}, or, for
  detection, {"path": …, "boxes": [[class, x1, y1, x2, y2(, difficult)], …]}

A label is a class index, a class name, or, for `--task multilabel`, K numbers 1, 0, -1. Detection labels are boxes as
above, or floats in mxnet's layout; their coordinates are relative to width and height (0..1). Every row is checked
before anything is packed.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dali_mix._labels import bad_box_text, bad_boxes, label_of, leaving, objects_of
from dali_mix._text import first_of
from dali_mix.datasets.annotations import (
    OR_TREAT,
    choose_task,
    image_size,
    report_bad_boxes,
    treat_boxes,
    without_repeats,
)
from dali_mix.datasets.archives import open_tree
from dali_mix.datasets.base import Listing, Options, doubles, join_reports, numbered_lines, read_given
from dali_mix.datasets.layouts.csv_list import read_csv
from dali_mix.datasets.list_labels import LABELS, Labels, Row, guess_task, read_id
from dali_mix.datasets.mistakes import Mistakes
from dali_mix.datasets.trees import Tree, check_name
from dali_mix.datasets.val_share import of_share, shared_split
from dali_mix.recordio.header import Label
from dali_mix.tasks import Task


def list_file(root: Path, split: str, options: Options) -> Listing:
    """List the images in the file `--list`, whose paths are relative to the root.

    Without `--list`, the root must contain exactly one of SPLIT.lst, .txt, .tsv, .csv, .json and .jsonl.

    Raise FileNotFoundError if there is no list. Raise ValueError naming file and line for a malformed row, a path
    outside the root, a label that is not finite, out of range or of different length, a duplicate id, or a path with
    two labels.
    """
    tree = open_tree(root, options.follow_links)
    shared_split(options, split)
    path = options.list_file or _default(root, split)
    data = read_given(path, "--list")
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise ValueError(f"{path}: the file is empty, so it lists no image; write a line for each, or check --list")
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(f"{path}: its suffix is none of {', '.join(_SUFFIXES)}, so its format is unknown")
    notices: list[str] = []
    mistakes = options.mistakes
    if suffix == ".csv":
        rows, notices = read_csv(data, str(path), mistakes)
    else:
        items, read = _READERS[suffix]
        rows = mistakes.each(read, items(data, str(path)))
    named = mistakes.each(_named, ((row, tree) for row in rows))
    if not named:
        raise ValueError(f"{path}: lists no image")
    rows, names = [row for row, _ in named], [name for _, name in named]
    _check_relative_to_root(tree, names[0], rows[0].where)
    ids = _ids(rows, mistakes)
    task = choose_task("list", options, *LABELS) if options.task else guess_task(rows)
    given = options.class_names()
    convert, checks = LABELS[task]
    labels, classes = convert(rows, given, mistakes)
    counts: Counter[str] = Counter()
    for index, (row, label) in enumerate(zip(rows, labels, strict=True)):
        with mistakes:
            if label is not None:
                labels[index] = _checked(row, label, names[index], tree, task, len(classes), options, counts)
    _check_labels_agree(rows, names, labels, mistakes)
    places = [row.where for row in rows]
    mistakes.settle(tree, names, places)
    good = [label for label in labels if label is not None]  # all of them: `settle` raises mistakes
    if given is None:
        notices += [notice for check in checks for notice in check(classes, good)]
    report = join_reports({"notices": notices}, report_bad_boxes(counts))
    listing = Listing(tree, names, good, classes, "list", split, task.name, ids, places, report=report)
    return of_share(without_repeats(listing), options)


def _checked(
    row: Row, label: Label, name: str, tree: Tree, task: Task, num_classes: int, options: Options, counts: Counter[str]
) -> Label:
    """Check a label and return it. For detection, `treat_boxes` first clips or drops bad boxes.

    Raise ValueError naming the row if the label is invalid.
    """
    try:
        if task.boxes:
            return _fitted(row, objects_of(np.asarray(label)), name, tree, task, num_classes, options, counts)
        task.check(label, num_classes)
    except ValueError as error:
        columns = first_of(row.columns)
        advice = f"; the label columns are {columns}: remove what is no class" if len(row.columns) > 1 else ""
        if not task.boxes and not row.columns and len(row.values) > 4:
            advice = "; boxes begin with 2 and how many numbers an object has (5 or 6)"
        raise ValueError(f"{row.where}: {error}{advice}") from None
    return label


def _fitted(
    row: Row,
    objects: np.ndarray,
    name: str,
    tree: Tree,
    task: Task,
    num_classes: int,
    options: Options,
    counts: Counter[str],
) -> np.ndarray:
    objects = objects.copy()
    boxes = objects[:, 1:5]
    size = 1, 1  # without the real size, a box may exceed 0..1 by up to 1; a box in pixels exceeds it by more
    if ((boxes < -0.01) | (boxes > 1.01)).any():
        with suppress(FileNotFoundError, ValueError):  # the packer reports the unreadable image, or skips it
            size = image_size(tree, name, options.exif == "ignore")

    def wrong(number: int) -> str:
        x1, y1, x2, y2 = boxes[number].tolist()
        hint = OR_TREAT
        text = f"the box x {x1:g}..{x2:g}, y {y1:g}..{y2:g} is empty, has swapped corners or exceeds 0..1"
        if max(x1, y1, x2, y2) > 2:
            text = f"the box {x1:g}, {y1:g}, {x2:g}, {y2:g} (x1, y1, x2, y2) is beyond 0..1: are these pixels?"
            hint = ""
        elif leaving(boxes[number], *size):
            text = bad_box_text(boxes[number], *size)
        return f"{row.where}: object {number + 1}: {text}; boxes in a list are shares of width and height, 0..1{hint}"

    stay = treat_boxes(boxes, bad_boxes(boxes, *size), wrong, options, counts)
    checked = objects.copy()  # check everything but the box
    checked[:, 1:5] = 0, 0, 1, 1
    task.check(label_of(checked), num_classes)
    return label_of(objects[stay])


def _check_labels_agree(rows: list[Row], names: list[str], labels: Labels, mistakes: Mistakes) -> None:
    """Add an error to `mistakes` for each path that is listed again with a different label.

    A path that is listed again with the same label is valid, and becomes another record.
    """
    for index, before in doubles(names):
        one, other = labels[before], labels[index]
        if one is not None and other is not None and not np.array_equal(one, other):
            wrong = (
                f"{rows[index].where}: {names[index]} has another label in {rows[before].where.rpartition(': ')[2]}:"
                " give each image one row; several labels are a column of 1 and 0 for each class (--task multilabel)"
            )
            mistakes.add(ValueError(wrong))


def _default(root: Path, split: str) -> Path:
    found = [root / f"{split}{suffix}" for suffix in _SUFFIXES if (root / f"{split}{suffix}").is_file()]
    if len(found) != 1:
        seen = (
            f"{' and '.join(path.name for path in found)} are" if found else f"no {split}.lst, .txt, .csv or .json is"
        )
        raise FileNotFoundError(f"{root}: {seen} in it: say which file with --list FILE")
    return found[0]


def _lst(spot: str, line: str) -> Row:
    fields = line.split("\t")
    if len(fields) < 3:
        raise ValueError(f"{spot}: {line[:80]!r} has {len(fields)} fields: expected `id<TAB>label…<TAB>path`")
    return Row(spot, fields[-1], tuple(fields[1:-1]), read_id(fields[0], spot))


def _txt(spot: str, line: str) -> Row:
    fields = line.split("\t")
    if len(fields) < 2:
        raise ValueError(f"{spot}: {line[:80]!r} has no tab: expected `path<TAB>label…`")
    return Row(spot, fields[0], tuple(fields[1:]))


def _jsonl(spot: str, line: str) -> Row:
    return _json(spot, _parsed(line, spot))


def _entries(data: bytes, where: str) -> Iterator[tuple[str, Any]]:
    entries = _parsed(data, where)
    if not isinstance(entries, list):
        raise ValueError(f"{where}: expected a list of objects, not a {type(entries).__name__}")
    for number, entry in enumerate(entries, start=1):
        yield f"{where}: entry {number}", entry


def _parsed(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {error}") from None


def _json(where: str, entry: Any) -> Row:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("path"), str)
        or ("label" in entry) == ("boxes" in entry)
    ):
        raise ValueError(f'{where}: expected {{"path": …, "label": …}} or {{"path": …, "boxes": […]}}')
    record_id = None if entry.get("id") is None else read_id(str(entry["id"]), where)
    if "label" in entry:
        label = entry["label"]
        return Row(where, entry["path"], tuple(label) if isinstance(label, list) else (label,), record_id)
    try:
        boxes = [np.array(box, dtype=np.float64) for box in entry["boxes"]]
    except (TypeError, ValueError, OverflowError):  # OverflowError: an integer with hundreds of digits
        raise ValueError(f"{where}: field 'boxes': not lists of numbers; classes are numbers too") from None
    for number, box in enumerate(boxes, start=1):
        if box.shape not in ((5,), (6,)):
            raise ValueError(f"{where}: box {number}: expected [class, x1, y1, x2, y2] or these and difficult")
    rows = [np.append(box, 0.0) if len(box) == 5 else box for box in boxes]
    return Row(where, entry["path"], (np.array(rows).reshape(-1, 6),), record_id)


# By suffix: a function that yields (file and line for messages, item) pairs, and one that parses an item.
_READERS: dict[str, tuple[Callable[[bytes, str], Iterator[tuple[str, Any]]], Callable[[str, Any], Row]]] = {
    ".lst": (numbered_lines, _lst),
    ".txt": (numbered_lines, _txt),
    ".tsv": (numbered_lines, _txt),
    ".json": (_entries, _json),
    ".jsonl": (numbered_lines, _jsonl),
}
_SUFFIXES = (*_READERS, ".csv")


def _named(row: Row, tree: Tree) -> tuple[Row, str]:
    """Return `row` and the name of its image in `tree`. Raise ValueError for a path that `check_name` rejects.

    The name is the path without surrounding spaces, unless a file exists whose name has these spaces.
    """
    written = check_name(row.path, tree.root, row.where)
    stripped = check_name(row.path.strip(), tree.root, row.where)
    return row, written if written != stripped and tree.exists(written) else stripped


def _check_relative_to_root(tree: Tree, name: str, where: str) -> None:
    """Raise ValueError if the path `name` is missing, but exists without its first folder, which is the root's name."""
    first, _, rest = name.partition("/")
    if first == Path(tree.root).resolve().name and rest and not tree.exists(name) and tree.exists(rest):
        raise ValueError(
            f"{where}: {name!r} is not in {tree.root}: paths are relative to --root; leave out {f'{first}/'!r}"
        )


def _ids(rows: list[Row], mistakes: Mistakes) -> list[int] | None:
    if all(row.id is None for row in rows):
        return None
    for row in rows:
        if row.id is None:
            mistakes.add(ValueError(f"{row.where}: has no id, others have"))
    for index, earlier in doubles(row.id for row in rows):
        again, before = rows[index], rows[earlier]
        wrong = f"{again.where}: id {again.id} is also the id of {before.where}; ids must be unique"
        mistakes.add(ValueError(wrong))
    return [row.id for row in rows if row.id is not None]
