"""Layout `vg500`: Visual Genome's 500 most frequent categories as multi-label targets, with SSGRL's splits.

The root contains:

- VG_100K/ and VG_100K_2/, or one of them with all images
- ssgrl_partition/{train,test}_list_500.txt, with one file name per line (SSGRL, arXiv 1908.07325)
- vg_category_500_labels_index.json, {file name: [category numbers]}, which may also be next to the lists

The categories have numbers but no names, so the classes are "0" to "499" unless `--classes` is set.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dali_mix.datasets.annotations import against_published, choose_task, labelled, multi_hot, read_json
from dali_mix.datasets.archives import open_tree
from dali_mix.datasets.base import Listing, Options, listed_paths, numbered_classes
from dali_mix.datasets.trees import Tree
from dali_mix.tasks import MULTILABEL

VG_CLASSES = 500
PUBLISHED = {"train": 82_904, "test": 10_000}  # lines of SSGRL's lists
_FOLDERS = ("VG_100K", "VG_100K_2")
_PARTITION = "ssgrl_partition/"
_LABELS = "vg_category_500_labels_index.json"


def vg500(root: Path, split: str, options: Options) -> Listing:
    """List split "train" or "test" (also called "val").

    Images without a category are dropped, unless `--unlabelled keep` is set.

    Raise FileNotFoundError or ValueError naming file and line or entry if anything is missing, malformed or duplicated.
    """
    choose_task("vg500", options, MULTILABEL)
    part = {"val": "test"}.get(split, split)
    if part not in PUBLISHED:
        raise ValueError(f"vg500 has the splits train and test (val is the same), not {split!r}")
    classes = options.class_names() or numbered_classes(VG_CLASSES - 1, "vg500")
    if len(classes) != VG_CLASSES:
        raise ValueError(f"{options.classes_file}: {len(classes)} names for the {VG_CLASSES} categories of vg500")
    tree = open_tree(root, options.follow_links)
    index = next(filter(tree.exists, (_LABELS, _PARTITION + _LABELS)), _LABELS)
    categories = read_json(tree, index)
    index_where = tree.where(index)
    if not isinstance(categories, dict):
        raise ValueError(f"{index_where}: expected an object {{file: [categories]}}, not a {type(categories).__name__}")
    folder_of = _folder_of_each(tree)
    listed = f"{_PARTITION}{part}_list_500.txt"
    mistakes = options.mistakes
    files = listed_paths(tree, listed, "VG_100K/", mistakes, last_part=True)  # some lists name the folder too
    names = [f"{folder_of.get(file, _FOLDERS[0])}/{file}" for file in files]
    places = list(files.values())
    labels: list[np.ndarray] = []
    for file, spot in files.items():
        with mistakes:
            if file not in categories:
                raise ValueError(f"{spot}: {file} has no entry in {index_where}; fetch both files again")
            found = categories[file]
            if not isinstance(found, list) or not all(type(kind) is int and 0 <= kind < VG_CLASSES for kind in found):
                raise ValueError(
                    f"{index_where}: {file}: {found!r:.60} is not a list of numbers from 0 to {VG_CLASSES - 1}"
                )
            labels.append(multi_hot(found, VG_CLASSES))
    mistakes.settle(tree, names, places)
    report = against_published(len(names), PUBLISHED[part], f"{part}_list_500.txt")
    listing = Listing(tree, names, labels, classes, "vg500", split, "multilabel", places=places, report=report)
    return labelled(listing, options, keep=False)


def _folder_of_each(tree: Tree) -> dict[str, str]:
    folders = [folder for folder in _FOLDERS if tree.exists(folder)]
    if not folders:
        raise FileNotFoundError(f"{tree.root}: neither {' nor '.join(_FOLDERS)} in it; --root must contain them")
    return {name.rpartition("/")[2]: name.rpartition("/")[0] for folder in folders for name in tree.images(folder)}
