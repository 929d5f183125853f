"""Layout `wider`: WIDER-Attribute, one record per person, cropped to the person's box, with 14 attributes.

The root contains Annotations/wider_attribute_{trainval,test}.json and Image/{train,val,test}/SCENE/IMAGE.

Attribute values 1 and -1 (negative) become targets 1 and 0. Value 0 (unspecified) becomes target 0 in a training split
and -1 (ignore) in others. A person's box is rounded to pixels and clipped to the image. The crop is encoded once, as
JPEG (`--quality`, default 95) or as set by `--encoding`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dali_mix.datasets.annotations import (
    against_published,
    boxes_of,
    check_unique_field,
    choose_task,
    column,
    entries_of,
    is_text,
    read_json,
)
from dali_mix.datasets.archives import open_tree
from dali_mix.datasets.base import TRAINING_SPLITS, Listing, Options
from dali_mix.datasets.trees import check_name
from dali_mix.tasks import MULTILABEL

_FILES = {"train": "trainval", "val": "trainval", "trainval": "trainval", "test": "test"}
# Number of persons; mmlab.ie.cuhk.edu.hk/projects/WIDERAttribute.html states 57,524 in total.
PUBLISHED = {"trainval": 28_345, "test": 29_179}
ATTRIBUTES = 14


def wider(root: Path, split: str, options: Options) -> Listing:
    """List split "trainval", "test", "train" or "val".

    Splits "train" and "val" are the images of trainval that are below Image/train and Image/val.

    Raise FileNotFoundError or ValueError naming file, image and person if anything is missing or malformed.
    """
    choose_task("wider", options, MULTILABEL)
    if split not in _FILES:
        raise ValueError(f"wider has the splits {', '.join(_FILES)}, not {split!r}")
    if options.classes_file is not None:
        raise ValueError("wider takes its attributes' names from its annotations: --classes does not apply")
    tree = open_tree(root, options.follow_links)
    file = f"Annotations/wider_attribute_{_FILES[split]}.json"
    where = tree.where(file)
    content = read_json(tree, file)
    classes = _attributes(content, where)
    mistakes = options.mistakes
    images = entries_of(content, "images", where)
    names: list[str] = []
    places: list[str] = []
    targets: list[np.ndarray] = []
    crops: list[tuple[float, float, float, float]] = []
    file_names = column(images, "file_name", is_text, "a file's name", f"{where}: images", mistakes)
    files: dict[int, str] = {}
    for row, name in enumerate(file_names):
        with mistakes:
            if name is not None:
                files[row] = check_name(name, "Image/", f"{where}: images[{row}]: field 'file_name'")
    unique = [files.get(row) for row in range(len(images))]
    check_unique_field(unique, "file_name", f"{where}: images", mistakes, "join them")
    for number, name in files.items():
        if split in ("train", "val") and not name.startswith(f"{split}/"):
            continue
        with mistakes:
            spot = f"{where}: images[{number}]"
            people = entries_of(images[number], "targets", spot)
            spot += ": targets"
            values = column(people, "attribute", _is_attribute, f"{ATTRIBUTES} numbers 1, 0 or -1", spot, mistakes)
            boxes = boxes_of(people, "bbox", spot, mistakes)
            for person, (attributes, box) in enumerate(zip(values, boxes.tolist(), strict=True)):
                names.append(f"Image/{name}")
                places.append(f"{spot}[{person}]")
                if attributes is not None:
                    targets.append(_target(attributes, 0 if split in TRAINING_SPLITS else -1))
                crops.append((box[0], box[1], box[2], box[3]))
    mistakes.settle(tree, names, places)
    report = against_published(len(names), PUBLISHED.get(split), f"WIDER-Attribute {split}", "persons")
    return Listing(
        tree, names, targets, classes, "wider", split, task="multilabel", places=places, crops=crops, report=report
    )


def _target(attributes: list[int], unspecified: int) -> np.ndarray:
    values = np.array(attributes, dtype=np.float32)
    return np.select([values == 1, values == -1], [1, 0], unspecified).astype(np.float32)


def _is_attribute(value: Any) -> bool:
    return (
        type(value) is list and len(value) == ATTRIBUTES and all(type(one) is int and -1 <= one <= 1 for one in value)
    )


def _attributes(content: Any, where: str) -> tuple[str, ...]:
    """Return the names of the 14 attributes, by index. Raise ValueError unless `content` names each of them."""
    names = content.get("attribute_id_map") if isinstance(content, dict) else None
    expected = {str(number) for number in range(ATTRIBUTES)}
    if not isinstance(names, dict) or set(names) != expected or not all(is_text(name) for name in names.values()):
        raise ValueError(f"{where}: field 'attribute_id_map' does not name the attributes 0 to {ATTRIBUTES - 1}")
    return tuple(names[str(number)] for number in range(ATTRIBUTES))
