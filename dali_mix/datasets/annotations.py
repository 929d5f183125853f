"""Helpers for layouts with annotation files: read untrusted JSON, XML and YAML, and build labels.

More than 300 lines: many short functions, none of them specific to one layout.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import yaml

from dali_mix._labels import boxes_of as boxes_in
from dali_mix._labels import has_area, label_of
from dali_mix._text import counted
from dali_mix.datasets.base import Listing, Options, decode_lines, doubles, first_double, join_reports
from dali_mix.datasets.images.decoding import converted_header, needs_conversion
from dali_mix.datasets.mistakes import Mistakes
from dali_mix.datasets.trees import Tree
from dali_mix.recordio.image_headers.header import read_image_header
from dali_mix.tasks import TASKS, Task

OR_TREAT = " (--bad-boxes clips or drops such boxes)"  # appended to errors about boxes that `treat_boxes` can handle


def choose_task(layout: str, options: Options, *allowed: Task) -> Task:
    """Return the task named in `options`, or the first of `allowed` if none is named.

    Raise ValueError if the named task is not in `allowed`.
    """
    task = allowed[0] if options.task is None else TASKS.get(options.task)
    if task not in allowed:
        names = " or ".join(other.name for other in allowed)
        raise ValueError(f"layout {layout} is for --task {names}, not {options.task}")
    return task


def read_json(tree: Tree, name: str, unused: Sequence[str] = ()) -> Any:
    """Return the content of a JSON file. Fields named in `unused` are removed from all its objects.

    They are removed during parsing to save memory: in COCO's files, unneeded fields take most of it. Garbage collection
    is disabled in the process during parsing.

    Raise FileNotFoundError if the file is missing. Raise ValueError if it cannot be read, is not valid JSON, or does
    not fit into memory. If `unused` is empty, also raise ValueError if an object has a duplicate key.
    """
    where = tree.where(name)
    data = tree.read_needed(name)

    def without_unused(found: dict[str, Any]) -> dict[str, Any]:
        for key in unused:
            found.pop(key, None)
        return found

    collecting = gc.isenabled()
    gc.disable()  # the objects form no cycles, and repeated collections would take most of the time
    try:
        if unused:
            return json.loads(data, object_hook=without_unused)
        return json.loads(data, object_pairs_hook=_without_doubles)
    except UnicodeDecodeError as error:
        reason = f"byte {error.start:,} is not {error.encoding} text; save the file as UTF-8"
        raise ValueError(f"{where}: cannot be read as JSON: {reason}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: cannot be read as JSON: {error}; fetch it again") from None
    except MemoryError:
        raise ValueError(f"{where}: its {len(data):,} bytes of JSON do not fit into memory; split it") from None
    finally:
        if collecting:
            gc.enable()


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs) and (double := first_double([key for key, _ in pairs])):
        raise ValueError(f"{pairs[double[0]][0]!r} occurs twice in one object")
    return found


def entries_of(content: Any, key: str, where: str) -> list[Any]:
    """Return the list in field `key` of the JSON object `content`.

    Raise ValueError, with a message that begins with `where`, if `content` is not an object or its field `key` is not a
    list.
    """
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"{where}: no list {key!r} in it; is it the right file?")
    return found


def column(
    entries: list[Any],
    key: str,
    fits: Callable[[Any], bool],
    expected: str,
    where: str,
    mistakes: Mistakes,
    missing: Any = None,
) -> list[Any]:
    """Return a list with the value of field `key` of each entry.

    The value is `missing` for an object without the field, and None for an entry that is not an object. A value for
    which `fits` returns False, even `missing`, is replaced by None, and an error is added to `mistakes`. The message
    begins with `where` and the entry's index, and describes valid values as `expected`.
    """
    values = []
    for number, entry in enumerate(entries):
        value = entry.get(key, missing) if isinstance(entry, dict) else None
        if not fits(value):
            gone = isinstance(entry, dict) and key not in entry
            what = "is missing" if gone else f"is {value!r:.60}"
            mistakes.add(ValueError(f"{where}[{number}]: field {key!r} {what}, expected {expected}"))
            value = None
        values.append(value)
    return values


def check_unique_field(values: list[Any], key: str, where: str, mistakes: Mistakes, advice: str = "remove one") -> None:
    """Add an error to `mistakes` for each item of `values` that equals an earlier one. None values are ignored.

    `values` are the values of field `key` of all entries. The message begins with `where` and the entry's index, and
    ends with `advice`.
    """
    for again, before in doubles(values):
        earlier = f"{where.rpartition(' ')[2]}[{before}]"
        what = f"field {key!r} is {values[again]!r}, as in {earlier} already"
        mistakes.add(ValueError(f"{where}[{again}]: {what}; {advice}"))


def is_whole(value: Any) -> bool:
    """Return True for a JSON value that is an integer from 0 to 2^63 - 1."""
    return type(value) is int and 0 <= value < 1 << 63


def is_text(value: Any) -> bool:
    """Return True for a JSON value that is a non-blank string."""
    return isinstance(value, str) and bool(value.strip())


def boxes_of(entries: list[Any], key: str, where: str, mistakes: Mistakes, signed: bool = False) -> np.ndarray:
    """Return field `key` of each entry as boxes (N, 4) float64: x, y, width, height.

    For an invalid box, an error is added to `mistakes`, and the row is NaN. If `signed`, width and height may be
    negative.
    """
    least = -math.inf if signed else 0
    values: list[Any] = [entry.get(key) if isinstance(entry, dict) else None for entry in entries]
    if all(map(_has_four, values)):
        flat = list(chain.from_iterable(values))
        if set(map(type, flat)) <= {int, float}:
            with suppress(OverflowError):  # an integer with hundreds of digits
                boxes = np.array(flat, dtype=np.float64).reshape(-1, 4)
                if np.isfinite(boxes).all() and (boxes[:, 2:] >= least).all():
                    return boxes
    expected = f"four finite numbers x, y, width, height{'' if signed else ', sides not negative'}"
    boxes_or_none = column(entries, key, partial(_is_box, least=least), expected, where, mistakes)
    return np.array([box or [math.nan] * 4 for box in boxes_or_none], dtype=np.float64).reshape(-1, 4)


def _has_four(value: Any) -> bool:
    return type(value) is list and len(value) == 4


def _is_box(value: Any, least: float) -> bool:
    if not _has_four(value) or any(type(item) not in (int, float) for item in value):
        return False
    return all(abs(item) < 1e300 for item in value) and min(value[2:]) >= least  # nan compares false


def read_mapping(tree: Tree, name: str) -> dict[str, Any]:
    """Return the mapping in a YAML file, with all scalars as strings.

    Raise FileNotFoundError if the file is missing. Raise ValueError if it cannot be read, is not UTF-8 text or valid
    YAML, or does not contain a mapping.
    """
    where = tree.where(name)
    text = "\n".join(decode_lines(tree.read_needed(name), where))
    try:
        # BaseLoader ignores tags and types: no code runs, and a class called `no` stays a string
        content = yaml.BaseLoader(text).get_single_data()
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        line = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{where}: {line}cannot be read as YAML: {reason}; correct it") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where}: no `key: value` lines in it; is it the right file?")
    return content


class _Doctype(Exception):
    pass


class _NoDoctype(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise _Doctype("has a DOCTYPE, which annotations do not need and which can be used to exhaust memory")


def read_xml(tree: Tree, name: str, root: str) -> ElementTree.Element:
    """Return the root element of an XML file.

    Raise FileNotFoundError if the file is missing. Raise ValueError if it cannot be read or decoded, is malformed, has
    a DOCTYPE, or if the root element's tag is not `root`. Since a DOCTYPE is refused, entities are never expanded.
    """
    where = tree.where(name)
    data = tree.read(name)
    try:
        found = ElementTree.fromstring(data, ElementTree.XMLParser(target=_NoDoctype()))
    except ElementTree.ParseError as error:
        decode_lines(data, where)  # raises a clearer error if the text is not UTF-8
        raise ValueError(f"{where}: not well-formed XML: {error}; fetch it again") from None
    except _Doctype as error:
        raise ValueError(f"{where}: {error}; remove it") from None
    except (ValueError, LookupError) as error:  # an unknown encoding, or an unsupported multi-byte one
        raise ValueError(f"{where}: its encoding cannot be read: {error}; save the file as UTF-8") from None
    if found.tag != root:
        raise ValueError(f"{where}: its outermost element is <{found.tag}>, expected <{root}>")
    return found


def xml_number(element: ElementTree.Element, path: str, where: str, missing: float | None = None) -> float:
    """Return the number in the child element `path`, or `missing` (if set) if there is no such child.

    Raise ValueError naming the field if the child's text is not a finite number, or if there is neither a child nor
    `missing`.
    """
    text = element.findtext(path)
    if text is None and missing is not None:
        return missing
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: field {path!r} is {text!r:.60}, not a number; correct it")
    return value


def treat_boxes(
    boxes: np.ndarray, bad: np.ndarray, wrong: Callable[[int], str], options: Options, counts: Counter[str]
) -> np.ndarray:
    """Handle boxes marked in `bad` (n,) bool according to `--bad-boxes`; return a mask (n,) bool of boxes to keep.

    The option has three values:

    - "error": drop each bad box and add an error with the message `wrong(row)` to `options.mistakes`.
    - "clip": clip each bad box to the image, in place, and drop it if no area remains.
    - "drop": drop each bad box.

    `boxes` (n, 4) are x1, y1, x2, y2 in 0..1. With "clip" and "drop", the numbers of clipped and of dropped boxes are
    added to `counts`.
    """
    rows = np.flatnonzero(bad)
    if options.bad_boxes == "error":
        for row in rows.tolist():
            options.mistakes.add(ValueError(wrong(row)))
    elif options.bad_boxes == "clip":
        inside = np.clip(boxes[rows], 0, 1)
        boxes[rows] = inside
        some = has_area(inside)
        counts["bad_boxes_clipped"] += int(some.sum())
        rows = rows[~some]
    if options.bad_boxes != "error":
        counts["bad_boxes_dropped"] += len(rows)
    stay = np.ones(len(boxes), dtype=bool)
    stay[rows] = False
    return stay


def report_bad_boxes(counts: Counter[str]) -> dict[str, Any]:
    """Return a report, with notices, that counts the boxes `treat_boxes` clipped or dropped; {} if there are none."""
    found = {name: counts[name] for name in ("bad_boxes_clipped", "bad_boxes_dropped") if counts[name]}
    texts = {
        "bad_boxes_clipped": ("box that left its image was clipped", "boxes that left their image were clipped"),
        "bad_boxes_dropped": ("bad box was left out", "bad boxes were left out"),
    }
    notices = [counted(count, *texts[name]) for name, count in found.items()]
    return found | ({"notices": notices} if notices else {})


def image_size(tree: Tree, name: str, stored: bool) -> tuple[int, int]:
    """Return an image's height and width, after EXIF rotation unless `stored`.

    Raise FileNotFoundError if the file is missing, ValueError naming it if it or its header cannot be read.
    """
    data = tree.read(name)
    try:
        header = converted_header(data) if needs_conversion(data) else read_image_header(data, plain=False)
    except ValueError as error:
        raise ValueError(f"{tree.where(name)}: {error}") from None
    swapped = stored and header.orientation >= 5
    return (header.width, header.height) if swapped else (header.height, header.width)


def multi_hot(classes: Sequence[int], num_classes: int) -> np.ndarray:
    """Return a multi-label target (K,) float32 with 1 at `classes`, 0 elsewhere."""
    target = np.zeros(num_classes, dtype=np.float32)
    target[list(classes)] = 1
    return target


def without_repeats(listing: Listing) -> Listing:
    """Return the listing without repeated objects. Return it unchanged if its task has no boxes.

    An object is repeated if an earlier object of the same image has the same class, box and `difficult`. The report
    states the number of removed objects as "repeated_boxes" and in a notice.
    """
    if not TASKS[listing.task].boxes:
        return listing
    labels, repeats = list(listing.labels), 0
    for row, label in enumerate(listing.labels):
        boxes = boxes_in(np.asarray(label), "label")
        first = {box.tobytes(): number for number, box in reversed(list(enumerate(boxes)))}
        if len(first) < len(boxes):
            repeats += len(boxes) - len(first)
            labels[row] = label_of(boxes[sorted(first.values())])
    if not repeats:
        return listing
    which = counted(repeats, "box repeats another one of its", "boxes repeat another one of their")
    notice = f"{which} image and class: left out"
    report = join_reports(listing.report, {"repeated_boxes": repeats, "notices": [notice]})
    return dataclasses.replace(listing, labels=labels, report=report)


def labelled(listing: Listing, options: Options, keep: bool) -> Listing:
    """Return the listing without repeated objects, and without unlabelled images unless these are kept.

    The option `--unlabelled` decides whether unlabelled images are kept; if it is not set, `keep` decides. An image is
    unlabelled if it has no positive class (multi-label) or no object (detection). Raise ValueError if no image is left.
    """
    listing = without_repeats(listing)
    if options.unlabelled is not None:
        keep = options.unlabelled == "keep"
    if keep:
        return listing
    stay = TASKS[listing.task].labelled(listing.labels)
    if not stay:
        raise ValueError(
            f"{listing.tree.root}: none of the {len(listing.names):,} images of split {listing.split!r} has a label;"
            " check the annotations, or keep them all with --unlabelled keep"
        )
    report = listing.report | {"unlabelled_dropped": len(listing.names) - len(stay)}
    return dataclasses.replace(listing.only(stay), report=report)


def against_published(count: int, published: int | None, what: str, unit: str = "images") -> dict[str, Any]:
    """Return a report with a notice if `count` differs from `published`, the published number of `unit`; else {}.

    `what` names the split in the notice. `published` is None if no number was published.
    """
    if published is None or count == published:
        return {}
    return {"notices": [f"{what} has {count:,} {unit} here, {published:,} as published: is it a subset?"]}
