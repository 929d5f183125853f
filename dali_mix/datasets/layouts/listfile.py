"""Layout `list`: any other data set, given as a file that lists images and labels. Its suffix determines the format.

- .lst, im2rec's: `id<TAB>label…<TAB>path`
- .txt, .tsv: `path<TAB>label…`
- .csv: a header with the column `path`, optionally `id`, and label columns, see `csv_list`
- .json, .jsonl: objects {"path": …, "label": class, name or list, "id": …};
  detection: {"path": …, "boxes": [[class, x1, y1, x2, y2(, difficult)], …]}

A label is a class index, a class name, or for `--task multilabel` K numbers 1, 0, -1. Detection labels are floats in
mxnet's layout, or boxes, relative to width and height (0..1). Every row is checked before anything is packed.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dali_mix._labels import clip_boxes
from dali_mix.datasets.annotations import choose_task, without_repeats
from dali_mix.datasets.archives import open_tree
from dali_mix.datasets.base import Listing, Options, first_double, first_of, numbered_lines, read_given
from dali_mix.datasets.layouts.csv_list import read_csv
from dali_mix.datasets.list_labels import LABELS, Row, guess_task, read_id
from dali_mix.datasets.trees import Tree, check_name
from dali_mix.datasets.val_share import of_share, shared_split
from dali_mix.recordio.header import Label
from dali_mix.tasks import Task


def list_file(root: Path, split: str, options: Options) -> Listing:
    """List the images named in `--list FILE` (default: SPLIT.lst, .txt, .tsv, .csv, .json or .jsonl in the root),
    relative to the root.

    Raise ValueError naming file and line for a malformed row, a path outside the root, a label that is not finite, out
    of range or of different length, a duplicate id, or a path with two labels.
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
    if suffix == ".csv":
        rows, notices = read_csv(data, str(path))
    else:
        rows = list(_READERS[suffix](data, str(path)))
    if not rows:
        raise ValueError(f"{path}: lists no image")
    names = [_checked_path(row, tree) for row in rows]
    ids = _ids(rows)
    task = choose_task("list", options, *LABELS) if options.task else guess_task(rows)
    given = options.class_names()
    read, checks = LABELS[task]
    labels, classes = read(rows, given)
    for row, label in zip(rows, labels, strict=True):
        _check(row, label, task, len(classes))
    _check_labels_agree(rows, names, labels)
    if given is None:
        notices += [notice for check in checks for notice in check(classes, labels)]
    places = [row.where for row in rows]
    report = {"notices": notices} if notices else {}
    listing = Listing(tree, names, labels, classes, "list", split, task.name, ids, places, report=report)
    return of_share(without_repeats(listing), options)


def _check(row: Row, label: Label, task: Task, num_classes: int) -> None:
    try:
        if task.boxes:  # beyond the image by a pixel is clipped when packed, all else is wrong now
            boxes = np.asarray(label)[2:].reshape(-1, 6)[:, 1:5]
            if (pixels := np.flatnonzero((boxes > 2).any(axis=1))).size:
                box = ", ".join(f"{side:g}" for side in boxes[pixels[0]])
                raise ValueError(
                    f"object {pixels[0] + 1}: the box {box} (x1, y1, x2, y2) is beyond 0..1: are these pixels?"
                )
            label, _ = clip_boxes(np.asarray(label), 1, 1)
        task.check(label, num_classes)
    except ValueError as error:
        columns = first_of(row.columns)
        advice = f"; the label columns are {columns}: remove what is no class" if len(row.columns) > 1 else ""
        if task.boxes:
            advice = "; boxes in a list are shares of width and height, 0..1"
        elif not row.columns and len(row.values) > 4:
            advice = "; boxes begin with 2 and how many numbers an object has (5 or 6)"
        raise ValueError(f"{row.where}: {error}{advice}") from None


def _check_labels_agree(rows: list[Row], names: list[str], labels: list[Label]) -> None:
    """Raise ValueError for a path that is listed with two labels. With the same label it counts twice."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        before = first.setdefault(name, index)
        if before != index and not np.array_equal(labels[before], labels[index]):
            raise ValueError(
                f"{rows[index].where}: {name} has another label in {rows[before].where.rpartition(': ')[2]}: give each"
                " image one row; several labels are a column of 1 and 0 for each class (--task multilabel)"
            )


def _default(root: Path, split: str) -> Path:
    found = [root / f"{split}{suffix}" for suffix in _SUFFIXES if (root / f"{split}{suffix}").is_file()]
    if len(found) != 1:
        seen = (
            f"{' and '.join(path.name for path in found)} are" if found else f"no {split}.lst, .txt, .csv or .json is"
        )
        raise FileNotFoundError(f"{root}: {seen} in it: say which file with --list FILE")
    return found[0]


def _lst(data: bytes, where: str) -> Iterator[Row]:
    for spot, line in numbered_lines(data, where):
        fields = line.split("\t")
        if len(fields) < 3:
            raise ValueError(f"{spot}: {line[:80]!r} has {len(fields)} fields: expected `id<TAB>label…<TAB>path`")
        yield Row(spot, fields[-1], tuple(fields[1:-1]), read_id(fields[0], spot))


def _txt(data: bytes, where: str) -> Iterator[Row]:
    for spot, line in numbered_lines(data, where):
        fields = line.split("\t")
        if len(fields) < 2:
            raise ValueError(f"{spot}: {line[:80]!r} has no tab: expected `path<TAB>label…`")
        yield Row(spot, fields[0], tuple(fields[1:]))


def _json(data: bytes, where: str) -> Iterator[Row]:
    entries = _parsed(data, where)
    if not isinstance(entries, list):
        raise ValueError(f"{where}: expected a list of objects, not a {type(entries).__name__}")
    for number, entry in enumerate(entries, start=1):
        yield _json_row(entry, f"{where}: entry {number}")


def _jsonl(data: bytes, where: str) -> Iterator[Row]:
    for spot, line in numbered_lines(data, where):
        yield _json_row(_parsed(line, spot), spot)


def _parsed(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {error}") from None


def _json_row(entry: Any, where: str) -> Row:
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
    except (TypeError, ValueError, OverflowError):  # OverflowError: a whole number of hundreds of digits
        raise ValueError(f"{where}: field 'boxes': not lists of numbers; classes are numbers too") from None
    for number, box in enumerate(boxes, start=1):
        if box.shape not in ((5,), (6,)):
            raise ValueError(f"{where}: box {number}: expected [class, x1, y1, x2, y2] or these and difficult")
    rows = [np.append(box, 0.0) if len(box) == 5 else box for box in boxes]
    return Row(where, entry["path"], (np.array(rows).reshape(-1, 6),), record_id)


_READERS = {".lst": _lst, ".txt": _txt, ".tsv": _txt, ".json": _json, ".jsonl": _jsonl}
_SUFFIXES = (*_READERS, ".csv")


def _checked_path(row: Row, tree: Tree) -> str:
    """Return the file's name; spaces around it belong to it if there is such a file, else they are removed."""
    written = check_name(row.path, tree.root, row.where)
    stripped = check_name(row.path.strip(), tree.root, row.where)
    return written if written != stripped and tree.exists(written) else stripped


def _ids(rows: list[Row]) -> list[int] | None:
    if all(row.id is None for row in rows):
        return None
    ids = []
    for row in rows:
        if row.id is None:
            raise ValueError(f"{row.where}: has no id, others have")
        ids.append(row.id)
    if double := first_double(ids):
        again, before = (rows[index] for index in double)
        raise ValueError(f"{again.where}: id {again.id} was given by {before.where} already; ids must be unique")
    return ids
