"""Layout `coco`: multi-label targets or boxes from COCO 2014 and 2017, or from any set in the same format.

The files are organized in one of two ways:

- annotations/instances_SPLIT.json, with the images in SPLIT/ (train2014, val2017, …), images/SPLIT/ or images/
- Roboflow's export: SPLIT/_annotations.coco.json, with the images in the same folder

Classes are the categories in the order of their ids, numbered from 0 without gaps, or the names of `--classes FILE`.

- Multi-label: a class is 1 if it has an annotation, including crowds.
- Detection: the box of a crowd is marked difficult, so that training and evaluation ignore it. Boxes without area (the
  published files have a few) are left out and counted in the report.

More than 300 lines: the locations of the files and the content of the JSON are interpreted together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dali_mix._labels import has_area, label_of, leaving
from dali_mix._text import composed, first_of
from dali_mix.datasets.annotations import (
    OR_TREAT,
    against_published,
    boxes_of,
    check_unique_field,
    choose_task,
    column,
    entries_of,
    image_size,
    is_text,
    is_whole,
    labelled,
    read_json,
    report_bad_boxes,
    treat_boxes,
)
from dali_mix.datasets.archives import open_tree
from dali_mix.datasets.base import Listing, Options, join_reports
from dali_mix.datasets.mistakes import Mistakes, also
from dali_mix.datasets.trees import Tree, check_name
from dali_mix.datasets.val_share import of_share, shared_split
from dali_mix.tasks import DETECTION, MULTILABEL

# Number of images with annotations. 2014: as in papers on multi-label recognition; train2017: 118,287 less the 1,021
# listed in github.com/cocodataset/cocoapi/issues/76; val2017: 5,000 less 48.
PUBLISHED = {"train2014": 82081, "val2014": 40137, "train2017": 117266, "val2017": 4952}
COCO_CLASSES = 80
_ROBOFLOW = "_annotations.coco.json"


def coco(root: Path, split: str, options: Options) -> Listing:
    """List split "train2014", "val2017", ….

    The year may be left out ("train") with `--years 2014`, or if only one year exists. The splits of a Roboflow export
    are its folders. `--task multilabel` (default) drops images without annotations, detection keeps them as negatives;
    `--unlabelled` overrides both. Record ids are COCO's image ids.

    Raise FileNotFoundError or ValueError naming file, entry and field if anything is missing, malformed or
    contradictory.
    """
    task = choose_task("coco", options, MULTILABEL, DETECTION)
    tree = open_tree(root, options.follow_links)
    asked, (split, file) = split, _annotation_file(tree, shared_split(options, split), options.years)
    mistakes = options.mistakes
    where = tree.where(file)
    content = read_json(tree, file, unused=("segmentation",))
    parent = _parent(content, where) if file.endswith(_ROBOFLOW) else None
    classes, categories, notices = _classes(content, where, parent, mistakes)
    images = entries_of(content, "images", where)
    spot = f"{where}: images"
    ids = column(images, "id", is_whole, "an integer", spot, mistakes)
    check_unique_field(ids, "id", spot, mistakes)
    files = column(images, "file_name", is_text, "a file's name", spot, mistakes)
    folder = split if file.endswith(_ROBOFLOW) else _folder(tree, split, files)
    name_of: dict[int, str] = {}  # by row
    for row, name in enumerate(files):
        with mistakes:
            if name is not None:
                name_of[row] = _name(folder, name, f"{spot}[{row}]")
    check_unique_field([name_of.get(row) for row in range(len(images))], "file_name", spot, mistakes)
    sizes = _sizes(images, spot, mistakes) if task.boxes else None
    counts: Counter[str] = Counter()
    notes = entries_of(content, "annotations", where)
    spot = f"{where}: annotations"
    owner = _rows_of(notes, "image_id", ids, "no image", spot, mistakes)
    kind = _rows_of(notes, "category_id", categories, "no category", spot, mistakes)
    if (given := options.class_names()) is not None:
        classes, kind = given, _renumbered(classes, kind, given, spot, mistakes)
    if sizes is not None:
        boxes = boxes_of(notes, "bbox", spot, mistakes, signed=True)
        fits = (0, 1).__contains__
        crowd = np.array(column(notes, "iscrowd", fits, "0 or 1", spot, mistakes, missing=0), dtype=bool)
        corners, stay = _relative(tree, options, notes, boxes, owner, sizes, name_of, where, counts)
    names, places = list(name_of.values()), [f"{where}: images[{row}]" for row in name_of]
    mistakes.settle(tree, names, places)
    report: dict[str, Any] = join_reports({"notices": notices}, _without_annotation(classes, kind))
    labels: list[np.ndarray]
    if sizes is not None:
        labels, found = _labels(corners[stay], crowd[stay], owner[stay], kind[stay], len(images))
        report = join_reports(report, found, report_bad_boxes(counts))
    else:
        targets = np.zeros((len(images), len(classes)), dtype=np.float32)
        targets[owner, kind] = 1
        labels = list(targets)
    if split in PUBLISHED and len(classes) == COCO_CLASSES:
        published = against_published(len(np.unique(owner)), PUBLISHED[split], f"{split} with annotations")
        report = join_reports(report, published)
    if options.val_share is not None:
        split = asked
    listing = Listing(tree, names, labels, classes, "coco", split, task.name, ids, places, sizes=sizes, report=report)
    return of_share(labelled(listing, options, keep=task.boxes), options)


def _annotation_file(tree: Tree, split: str, years: tuple[str, ...]) -> tuple[str, str]:
    """Return (name of the split with its year, if it has one; name of its annotation file).

    Raise FileNotFoundError if no annotation file fits `split`, or if those of several years do. Raise ValueError if
    `years` has several items.
    """
    if len(years) > 1:
        raise ValueError(f"coco packs one year at a time, not {', '.join(years)}")
    if years and not split.endswith(years[0]):
        split += years[0]
    exported = [folder for folder in tree.folders() if tree.exists(f"{folder}/{_ROBOFLOW}")]
    if split in exported:
        return split, f"{split}/{_ROBOFLOW}"
    if not tree.exists("annotations"):
        if exported:
            missing = tree.where(f"{split}/{_ROBOFLOW}")
            raise FileNotFoundError(f"{missing}: no such file; choose --split among {', '.join(exported)}")
        raise FileNotFoundError(
            f"{tree.where('annotations')}: no such folder; --root must contain annotations/, or train/{_ROBOFLOW}"
        )
    files = (name.rpartition("/")[2] for name in tree.walk("annotations"))
    there = [name[10:-5] for name in files if name.startswith("instances_") and name.endswith(".json")]
    fitting = [name for name in there if name.rstrip("0123456789") == split]
    if split in there or len(fitting) == 1:
        split = split if split in there else fitting[0]
        return split, f"annotations/instances_{split}.json"
    choices = ", ".join(fitting or there) or "none"
    raise FileNotFoundError(f"{tree.where('annotations')}: no instances_{split}.json; choose --split among {choices}")


def _folder(tree: Tree, split: str, files: list[str | None]) -> str:
    for folder in (split, f"images/{split}"):
        if tree.exists(folder):
            return folder
    if any(tree.exists(f"images/{name.removeprefix('images/')}") for name in files if name is not None):
        return "images"
    raise FileNotFoundError(f"{tree.where(split)}: no such folder; unpack the images of {split} there")


def _name(folder: str, file: str, where: str) -> str:
    name = check_name(file, folder, f"{where}: field 'file_name'")
    own = folder.rpartition("/")[2] + "/"
    return f"{folder}/{name.removeprefix(own)}"  # some tools include the folder


def _sizes(images: list[Any], where: str, mistakes: Mistakes) -> list[tuple[int, int]]:
    """Return a list with the (height, width) of each image, by which boxes are divided.

    A side that is missing or is not an integer from 1 to 2^20 - 1 becomes 0, and an error is added to `mistakes`. Some
    tools write 64.0, which is valid.
    """
    expected = "a number of pixels (--task multilabel needs none)"
    sides = [column(images, side, _is_side, expected, where, mistakes) for side in ("height", "width")]
    return [(int(height or 0), int(width or 0)) for height, width in zip(*sides, strict=True)]


def _is_side(value: Any) -> bool:
    return type(value) in (int, float) and 1 <= value < 1 << 20 and value == int(value)


def _parent(content: Any, where: str) -> int | None:
    """Return the index of a Roboflow export's category 0 if it is only the parent of others, else None.

    Such a category is the supercategory of another one and has no annotations.
    """
    entries = entries_of(content, "categories", where)
    parents = [
        index
        for index, entry in enumerate(entries)
        if isinstance(entry, dict)
        and entry.get("id") == 0
        and is_text(entry.get("name"))
        and any(
            isinstance(other, dict) and other is not entry and other.get("supercategory") == entry.get("name")
            for other in entries
        )
    ]
    notes = entries_of(content, "annotations", where)
    if len(parents) != 1 or any(isinstance(note, dict) and note.get("category_id") == 0 for note in notes):
        return None
    return parents[0]


def _classes(
    content: Any, where: str, parent: int | None, mistakes: Mistakes
) -> tuple[tuple[str, ...], list[int], list[str]]:
    """Return the names and ids of the categories, sorted by id, without index `parent`, and a list of notices.

    Raise ValueError if there are no categories. Invalid or duplicate ids and names are mistakes, and all mistakes
    collected so far are raised here.
    """
    entries = entries_of(content, "categories", where)
    spot = f"{where}: categories"
    ids = column(entries, "id", is_whole, "an integer", spot, mistakes)
    names = column(entries, "name", is_text, "a name", spot, mistakes)
    if not names:
        raise ValueError(f"{spot}: there are none, so there is nothing to learn; is it the right file?")
    notices = []
    if parent is not None:
        notice = "is the parent of the others and has no annotation: it is not a class here"
        notices.append(f"category 0, {names[parent]!r:.60}, {notice}")
        ids[parent] = names[parent] = None  # another may have the same name
    check_unique_field(ids, "id", spot, mistakes)
    check_unique_field(names, "name", spot, mistakes)
    mistakes.check()  # annotations refer to the categories
    name_of = {key: name for key, name in zip(ids, names, strict=True) if key is not None}
    return tuple(name_of[number] for number in sorted(name_of)), sorted(name_of), notices


def _renumbered(
    classes: tuple[str, ...], kind: np.ndarray, given: tuple[str, ...], where: str, mistakes: Mistakes
) -> np.ndarray:
    """Return `kind` (N,), the index in `classes` of each annotation's category or -1, as indices in `given`.

    A category that is not in `given` becomes -1. For each such category that annotations have, one error is added to
    `mistakes`.
    """
    number_of = {composed(name): number for number, name in enumerate(given)}
    renumbered = np.array([*(number_of.get(composed(name), -1) for name in classes), -1])[kind]
    for number in np.unique(kind[(renumbered < 0) & (kind >= 0)]):
        first, *others = np.flatnonzero(kind == number)
        unknown = f"category {classes[number]!r} is not among the {len(given)} names of --classes"
        mistakes.add(ValueError(f"{where}[{first}]: {unknown}{also(len(others), 'annotation')}"))
    return renumbered


def _without_annotation(classes: tuple[str, ...], kind: np.ndarray) -> dict[str, Any]:
    """Return a report with a notice that lists classes without annotations, or states that all lack them; else {}."""
    unused = [name for name, used in zip(classes, np.bincount(kind, minlength=len(classes)), strict=True) if not used]
    if not unused:
        return {}
    if len(unused) == len(classes):
        return {"notices": ["no image has an annotation here; is it the right file?"]}
    listed = first_of([repr(name) for name in unused])
    notice = f"{len(unused)} of {len(classes)} classes have no annotation here: {listed}"
    return {"notices": [f"{notice} (--classes FILE sets the classes)"]}


def _rows_of(
    notes: list[Any], key: str, ids: Sequence[int | None], none: str, where: str, mistakes: Mistakes
) -> np.ndarray:
    """Return the index in `ids` of each annotation's field `key`, (N,) int64.

    For an invalid or unknown id, an error is added to `mistakes`, and the index is -1. `none` is the subject of the
    message for an unknown id, such as "no image".
    """
    wanted = column(notes, key, is_whole, "an integer", where, mistakes)
    row_of: dict[int | None, int] = {value: row for row, value in enumerate(ids)}
    row_of[None] = -1
    rows = np.array([row_of.get(value, -1) for value in wanted], dtype=np.int64)
    for row in np.flatnonzero(rows < 0):
        if wanted[row] is not None:
            mistakes.add(ValueError(f"{where}[{row}]: field {key!r} is {wanted[row]}, but {none} has that id"))
    return rows


def _relative(
    tree: Tree,
    options: Options,
    notes: list[Any],
    boxes: np.ndarray,
    owner: np.ndarray,
    sizes: list[tuple[int, int]],
    name_of: dict[int, str],
    where: str,
    counts: Counter[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Return (corners, stay): x1, y1, x2, y2 of each box, (N, 4), and the mask (N,) that `treat_boxes` returns.

    Corners are divided by the size of the box's image, and exceed 0..1 where a box exceeds its image. They are NaN
    where the box itself, its image or the image's size is a mistake.

    If an image has bad boxes and its stated size differs from its real size, one error names the two sizes, instead of
    an error for each box.

    Args:
        notes: the annotations.
        boxes: (N, 4) x, y, width, height of each annotation in pixels.
        owner: (N,) index of each annotation's image, or -1.
        sizes: (height, width) of each image, 0 if unknown.
        name_of: image index → name in `tree`.
        where: the annotation file, for messages.
        counts: updated by `treat_boxes`.
    """
    limits = np.array([*sizes, (0, 0)], dtype=np.float64)  # the last row is index -1
    limits[limits == 0] = np.nan
    height, width = limits[owner].T
    limits = np.stack([width, height, width, height], axis=1)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) / limits
    negative = np.asarray(np.any(boxes[:, 2:] < 0, axis=1))
    others: dict[int, str] = {}

    def wrong(row: int) -> str:
        image, size = int(owner[row]), f"{width[row]:g}x{height[row]:g}"
        spot = f"{where}: annotations[{row}]: field 'bbox'"
        if negative[row]:
            expected = "expected x, y, width, height, sides not negative"
            return f"{spot} is {notes[row]['bbox']!r:.60}, {expected}{OR_TREAT}"
        hint = _corners_hint(boxes[row], limits[row]) or OR_TREAT
        text = (
            f"{spot} {boxes[row].tolist()} (x, y, width, height) leaves the {size} image by more than a pixel and 1%;"
            f" correct it{hint}"
        )
        if image not in others and image in name_of and options.mistakes.still_shown:
            other = _other_size(tree, name_of[image], (height[row], width[row]), options)
            wrong_size = f"{where}: images[{image}]: fields 'width' and 'height' are {other}"
            others[image] = other and f"{wrong_size}: correct that first. {text}"
        return others.get(image) or text

    return corners, treat_boxes(corners, leaving(corners, height, width) | negative, wrong, options, counts)


def _other_size(tree: Tree, name: str, stated: tuple[float, float], options: Options) -> str:
    """Return "WxH, but NAME is WxH" if the stated size (height, width) differs from the image's real size, else ""."""
    with suppress(FileNotFoundError, ValueError):  # reported elsewhere
        real = image_size(tree, name, options.exif == "ignore")
        if stated != real:
            written, size = (f"{width:g}x{height:g}" for height, width in (stated, real))
            return f"{written}, but {name} is {size}"
    return ""


def _corners_hint(box: np.ndarray, limits: np.ndarray) -> str:
    """Return a hint if a box could be x1, y1, x2, y2 instead of x, y, width, height; else ""."""
    fits = (box[:2] < box[2:]).all() and (box >= 0).all() and (box <= limits + np.maximum(1, 0.01 * limits)).all()
    return ": if these are x1, y1, x2, y2, make the last two a width and a height" if fits else ""


def _labels(
    corners: np.ndarray, crowd: np.ndarray, owner: np.ndarray, kind: np.ndarray, count: int
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Return (labels, report): one detection label per image, and a dict for the manifest's report.

    Boxes are clipped to their image and left out if no area remains. The report counts boxes that exceed their image,
    boxes without area, and crowds.

    Args:
        corners: (N, 4) x1, y1, x2, y2 of all boxes, in 0..1 unless they exceed their image.
        crowd: (N,) bool, stored as "difficult".
        owner: (N,) index of the image that each box belongs to.
        kind: (N,) class of each box.
        count: number of images.
    """
    inside = np.clip(corners, 0, 1)
    good = has_area(inside)
    objects = np.column_stack([kind, inside, crowd]).astype(np.float32)[good]
    order = np.argsort(owner[good], kind="stable")
    ends = np.cumsum(np.bincount(owner[good], minlength=count))
    labels = [label_of(part) for part in np.split(objects[order], ends[:-1])]
    clipped = int(((corners < 0) | (corners > 1)).any(axis=1).sum())
    return labels, {
        "boxes_over_the_border": clipped,
        "boxes_without_area": int(np.count_nonzero(~good)),
        "crowds": int(crowd.sum()),
    }
