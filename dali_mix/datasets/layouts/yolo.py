"""Layout `yolo`: boxes in text files, as Ultralytics, Roboflow, CVAT and darknet write them.

data.yaml has the fields `names` (of the classes), `path` (a base folder, optional) and `train`, `val`, `test`: a
folder, a list of images (.txt), or several of these. CVAT YOLO 1.1 and darknet write obj.data instead, in which `names`
is a file. Images and label files are organized in one of three ways:

    images/train/a.jpg      train/images/a.jpg      obj_train_data/a.jpg
    labels/train/a.txt      train/labels/a.txt      obj_train_data/a.txt
    Ultralytics             Roboflow                CVAT YOLO 1.1

A line of a label file is `class cx cy w h`, in 0..1 of width and height, or a class and the points of a polygon. A
polygon is replaced by its bounding box.

Paths in data.yaml, obj.data and lists often come from another machine (`../train/images`, `/content/data/…`,
`data/train.txt`). Of each path, the longest trailing part that exists below the root is used.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from dali_mix._text import composed, counted, first_of
from dali_mix.datasets.annotations import choose_task, image_size, is_text, labelled, read_mapping, report_bad_boxes
from dali_mix.datasets.archives import open_tree
from dali_mix.datasets.base import Listing, Options, first_double, join_reports, numbered_lines
from dali_mix.datasets.class_folders import unread_images
from dali_mix.datasets.mistakes import Mistakes
from dali_mix.datasets.trees import Tree, is_image, suffix_of
from dali_mix.datasets.val_share import of_share, shared_split
from dali_mix.datasets.yolo_labels import read_boxes
from dali_mix.tasks import DETECTION

_YAML = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_DARKNET = "obj.data"
_SPLITS = ("train", "val", "valid", "test")
_ALIASES = {"val": ("val", "valid"), "valid": ("valid", "val")}
_NOTICES = {
    "polygons": ("line is a polygon, and", "lines are polygons: each", "became its bounding box"),
    "lines_with_keypoints": ("line has", "lines have", "keypoints, which were left out; the box stays"),
    "repeated_lines": ("line repeats", "lines repeat", "an earlier line of the file: left out"),
    "images_without_label_file": ("image has", "images have", "no label file: without boxes"),
}


def yolo(root: Path, split: str, options: Options) -> Listing:
    """List split "train", "val" (or "valid") or "test" of the set described by data.yaml or obj.data in the root.

    `--classes FILE` overrides the class names in these files and makes the files optional. Without the files, images
    are looked up in images/SPLIT, SPLIT/images or SPLIT. Images without a label file, or with an empty one, have no
    boxes.

    Raise FileNotFoundError or ValueError naming file and line if anything is missing, malformed or out of range.
    """
    task = choose_task("yolo", options, DETECTION)
    tree = open_tree(root, options.follow_links)
    given = options.class_names()
    file, config = _config(tree, given is not None)
    classes = given or _names(tree, file, config)
    counts: Counter[str] = Counter()
    others: Counter[str] = Counter()
    folders: list[str] = []
    mistakes = options.mistakes
    places = _images(tree, file, config, shared_split(options, split), folders, mistakes)
    for folder in folders:
        others.update(suffix_of(name) for name in tree.walk(folder) if not is_image(name))
    orphans = _orphans(tree, folders, places)
    labels = []
    used: Counter[str] = Counter()  # label files
    for name in places:
        with mistakes:
            file_and_data = _label_file(tree, name)
            counts["images_without_label_file"] += file_and_data is None
            where, data = file_and_data or ("", b"")
            used[where] += where != ""
            size = partial(image_size, tree, name, options.exif == "ignore")
            labels.append(read_boxes(data, where, len(classes), "kpt_shape" in config, size, counts, options))
    names, spots = list(places), list(places.values())
    mistakes.settle(tree, names, spots)
    if labels and counts["images_without_label_file"] == len(labels):
        first = next(iter(places))
        raise FileNotFoundError(
            f"{tree.where(_candidates(first)[0])}: no such file, and no other of the {len(labels):,} images has a label"
            " file: they belong in labels/ as the images in images/, or next to the images; fetch them"
        )
    report: dict[str, Any] = {name: counts[name] for name in (*_NOTICES, "boxes_without_area") if counts[name]}
    notices = [f"{counted(counts[name], *of)} {text}" for name, (*of, text) in _NOTICES.items() if counts[name]]
    notices += unread_images(others)
    if shared := [where for where, images in used.items() if images > 1]:
        report["label_files_of_several_images"] = len(shared)
        belong = "label file belongs to several images", "label files belong to several images each"
        notices.append(
            f"{counted(len(shared), *belong)}, which all get the same boxes (first: {shared[0]}); if they are not"
            " copies of one image, rename them"
        )
    if orphans:
        report["label_files_without_image"] = len(orphans)
        notices.append(
            f"{counted(len(orphans), 'label file has', 'label files have')} no image that is read: left out (first:"
            f" {tree.where(orphans[0])})"
        )
    report = join_reports(report, {"notices": notices}, report_bad_boxes(counts))
    listing = Listing(tree, names, labels, classes, "yolo", split, task.name, places=spots, report=report)
    return of_share(labelled(listing, options, keep=True), options)


def _config(tree: Tree, named: bool) -> tuple[str, dict[str, Any]]:
    """Return the name and content of the set's config file, such as data.yaml or obj.data.

    If there is none, return "" and {} if `named` is True (`--classes` names the classes), else raise FileNotFoundError.
    """
    for name in _YAML:
        if tree.exists(name):
            return name, read_mapping(tree, name)
    if tree.exists(_DARKNET):
        lines = numbered_lines(tree.read_needed(_DARKNET), tree.where(_DARKNET))
        pairs = [line.partition("=") for _, line in lines]
        return _DARKNET, {key.strip(): value.strip() for key, _, value in pairs}
    if named:
        return "", {}
    raise FileNotFoundError(
        f"{tree.where()}: no {_YAML[0]} or {_DARKNET} in it; copy the set's .yaml file there as {_YAML[0]}, or name the"
        " classes with --classes FILE"
    )


def _names(tree: Tree, file: str, config: dict[str, Any]) -> tuple[str, ...]:
    """Return the class names in `config`, the content of `file`. For obj.data, they are in another file, one per line.

    Raise FileNotFoundError if the other file is missing. Raise ValueError if there are no names, if one is a duplicate,
    if they are numbered with gaps, or if `config` states a different number of classes.
    """
    where = tree.where(file)
    names: Any = config.get("names")
    if file == _DARKNET and is_text(names):
        listed = _inside(tree, "", names, least=1) or names
        names = [line.strip() for _, line in numbered_lines(tree.read_needed(listed), tree.where(listed))]
    if isinstance(names, dict):
        numbers = [str(number) for number in range(len(names))]
        if set(names) != set(numbers):
            keys = first_of([repr(key) for key in names])
            raise ValueError(f"{where}: the numbers in 'names' are {keys}, expected 0 to {len(names) - 1}, each once")
        names = [names[number] for number in numbers]
    if not isinstance(names, list) or not names or not all(map(is_text, names)):
        raise ValueError(
            f"{where}: no class names under 'names'; add them in the order of their numbers, as `names: [cat, dog]`, or"
            " pass --classes FILE"
        )
    if double := first_double(names):
        again, before = double
        raise ValueError(f"{where}: classes {before} and {again} are both called {names[again]!r}; rename one")
    stated: Any = config.get("nc", config.get("classes"))
    if is_text(stated) and stated.strip() != str(len(names)):
        raise ValueError(f"{where}: it states {stated:.20} classes but names {len(names)}; correct one")
    return tuple(names)


def _images(
    tree: Tree, file: str, config: dict[str, Any], split: str, folders: list[str], mistakes: Mistakes
) -> dict[str, str]:
    """Return a dict of the images of `split`: name in the tree → its folder, or file and line that list it.

    The values are for messages. An image that is listed again is a mistake.

    Append each searched folder to `folders`. These are the folders that `config` names for the split or, without a
    config file (`file` is ""), the first of images/SPLIT, SPLIT/images and SPLIT that exists.

    Raise FileNotFoundError if the split or one of its paths does not exist. Raise ValueError if the split's entry in
    `config` is neither a path nor a list of paths.
    """
    keys = _ALIASES.get(split, (split,))
    if file:
        where = tree.where(file)
        value = next((config[key] for key in keys if config.get(key)), None)
        if value is None:
            there = ", ".join(key for key in _SPLITS if config.get(key)) or "none"
            raise FileNotFoundError(f"{where}: no split {split!r} in it; choose --split among {there}")
    else:
        where = tree.where()
        usual = [folder for key in keys for folder in (f"images/{key}", f"{key}/images", key)]
        value = next((folder for folder in usual if _inside(tree, "", folder)), usual[0])
    base = config["path"] if is_text(config.get("path")) else ""
    places: dict[str, str] = {}
    for entry in value if isinstance(value, list) else [value]:
        if not is_text(entry):
            raise ValueError(f"{where}: split {split!r} is neither a path nor a list of paths; correct it")
        found = _inside(tree, base, entry, least=1 if entry.endswith(".txt") else 2)
        if found is None:
            there = f"no {entry!r:.80} below {tree.where()}"
            raise FileNotFoundError(f"{where}: split {split!r}: {there}; correct the path, or fetch the images")
        if not found.endswith(".txt"):
            folders.append(found)
            places |= dict.fromkeys(tree.images(found), tree.where(found))
            continue
        for spot, line in numbered_lines(tree.read_needed(found), tree.where(found)):
            name = _listed(tree, found.rpartition("/")[0], line.strip())
            if name in places:
                mistakes.add(ValueError(f"{spot}: {name} is already listed in {places[name]}; remove it"))
            places[name] = spot
    return places


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _inside(tree: Tree, base: str, path: str, least: int = 2) -> str | None:
    """Return the longest trailing part of base/path that exists in the tree, or None.

    It has at least `least` components, or as many as `path` if that has fewer.
    """
    parts, least = [*_parts(base), *_parts(path)], min(least, len(_parts(path)))
    ends = ("/".join(parts[start:]) for start in range(max(1, len(parts) - least + 1)))
    return next((end for end in ends if tree.exists(end)), None)


def _listed(tree: Tree, base: str, path: str) -> str:
    """Return the name in the tree of the image that a list in folder `base` names as `path`.

    If the image is missing, return the name that it should have, based on the longest part of its folder that exists.
    """
    if found := _inside(tree, base, path):
        return found
    *folders, name = _parts(path) or [path]
    return "/".join([_inside(tree, base, "/".join(folders), least=1) or "/".join(folders), name]).lstrip("/")


def _candidates(name: str) -> list[str]:
    """Return the names that the label file of image `name` may have, the preferred one first.

    It may be below labels/, if the image is below images/, or in the folder of the image.
    """
    beside = name[: len(name) - len(suffix_of(name))] + ".txt"
    before, folder, after = f"/{beside}".rpartition("/images/")
    return [f"{before}/labels/{after}"[1:], beside] if folder else [beside]


def _orphans(tree: Tree, folders: list[str], images: dict[str, str]) -> list[str]:
    """Return the label files for images in `folders` that belong to none of `images`.

    classes.txt and lists of images (train.txt, …), which tools write into the same folders, are not label files.
    """
    wanted = {composed(file) for name in images for file in _candidates(name)}
    there = dict.fromkeys(label.rpartition("/")[0] for folder in folders for label in _candidates(f"{folder}/any.txt"))
    names = [name for folder in there if tree.exists(folder) for name in tree.walk(folder) if name.endswith(".txt")]
    lists = ("classes.txt", *(f"{split}.txt" for split in _SPLITS))  # which tools write next to the labels
    return [name for name in names if composed(name) not in wanted and name.rpartition("/")[2] not in lists]


def _label_file(tree: Tree, name: str) -> tuple[str, bytes] | None:
    for file in _candidates(name):
        try:
            return tree.where(file), tree.read(file)
        except FileNotFoundError:
            if tree.dangles(file):
                raise
    return None
