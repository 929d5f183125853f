"""Layout `nus-wide`: NUS-WIDE's lists, its 81 concepts as multi-label targets, and the photos below Flickr/.

These files are read:

- ImageList/Imagelist.txt, TrainImagelist.txt and TestImagelist.txt, with backslashes in the paths
- Groundtruth/AllLabels/Labels_CONCEPT.txt: 0 or 1 per line, in the order of Imagelist.txt
- Concepts81.txt, in the root or in ConceptsList/

Photos without any positive concept are dropped, unless `--unlabelled keep` is set.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dali_mix.datasets.annotations import against_published, choose_task, labelled
from dali_mix.datasets.archives import open_tree
from dali_mix.datasets.base import Listing, Options, check_unique, decode_lines, listed_paths
from dali_mix.datasets.trees import Tree
from dali_mix.tasks import MULTILABEL

_LISTS = {"train": "TrainImagelist.txt", "test": "TestImagelist.txt"}
# Number of listed photos, labelled or not, from the publishers' page: github.com/NExTplusplus/NUS-WIDE.
PUBLISHED = {"train": 161_789, "test": 107_859}
NUS_CONCEPTS = 81


def nus_wide(root: Path, split: str, options: Options) -> Listing:
    """List the official split "train" or "test" (also called "val"); record ids are row indices of Imagelist.txt.

    Raise FileNotFoundError or ValueError naming file and line if anything is missing, malformed or contradictory.
    """
    choose_task("nus-wide", options, MULTILABEL)
    part = {"val": "test"}.get(split, split)
    if part not in _LISTS:
        raise ValueError(f"nus-wide has the official splits train and test (val is the same), not {split!r}")
    if options.classes_file is not None:
        raise ValueError("nus-wide takes its classes from Concepts81.txt: --classes does not apply")
    tree = open_tree(root, options.follow_links)
    base = next((base for base in ("", "NUS-WIDE/") if tree.exists(f"{base}ImageList")), "")
    concepts = _concepts(tree, base)
    mistakes = options.mistakes
    all_images = listed_paths(tree, f"{base}ImageList/Imagelist.txt", "Flickr/", mistakes)
    mistakes.check()  # the labels follow its order
    row_of = {path: row for row, path in enumerate(all_images)}
    paths = listed_paths(tree, f"{base}ImageList/{_LISTS[part]}", "Flickr/", mistakes)
    for path, spot in paths.items():
        if path not in row_of:
            mistakes.add(ValueError(f"{spot}: {path} is not in Imagelist.txt, so it has no labels; correct it"))
    files = [(tree, f"{base}Groundtruth/AllLabels/Labels_{concept}.txt", len(all_images)) for concept in concepts]
    truths = mistakes.each(_truth, files)
    names, places = [f"{base}Flickr/{path}" for path in paths], list(paths.values())
    mistakes.settle(tree, names, places)
    rows = np.array([row_of[path] for path in paths], dtype=np.int64)
    targets = np.empty((len(rows), len(concepts)), dtype=np.float32)
    for column, truth in enumerate(truths):
        targets[:, column] = truth[rows]
    report = against_published(len(paths), PUBLISHED[part], f"{_LISTS[part]} of NUS-WIDE")
    if len(concepts) != NUS_CONCEPTS:
        report = {}  # another set in the same layout
    ids = rows.tolist()
    listing = Listing(tree, names, list(targets), concepts, "nus-wide", split, "multilabel", ids, places, report=report)
    return labelled(listing, options, keep=False)


def _concepts(tree: Tree, base: str) -> tuple[str, ...]:
    files = [f"{base}{folder}Concepts81.txt" for folder in ("", "ConceptsList/")]
    found = next(filter(tree.exists, files), None)
    if found is None:
        raise FileNotFoundError(f"{tree.where(files[0])}: no such file, nor ConceptsList/Concepts81.txt; check --root")
    where = tree.where(found)
    names = [line.strip() for line in decode_lines(tree.read(found), where)]
    while names and not names[-1]:
        names.pop()
    check_unique(names, where)
    for number, name in enumerate(names, start=1):
        if not name or "/" in name or "\\" in name:
            raise ValueError(f"{where}: line {number} is {name!r}: expected a concept's name")
    return tuple(names)


def _truth(tree: Tree, name: str, count: int) -> np.ndarray:
    """Return the labels (count,) bool of one concept.

    Raise FileNotFoundError if the file is missing, ValueError if it does not have `count` labels, each 0 or 1.
    """
    tokens = tree.read_needed(name).split()
    where = tree.where(name)
    if not set(tokens) <= {b"0", b"1"}:
        number, token = next((at, one) for at, one in enumerate(tokens, start=1) if one not in (b"0", b"1"))
        raise ValueError(f"{where}: label {number} is {token[:20].decode(errors='replace')!r}, expected 0 or 1")
    if len(tokens) != count:
        raise ValueError(f"{where}: {len(tokens):,} labels for the {count:,} images of Imagelist.txt; fetch it again")
    return np.frombuffer(b"".join(tokens), dtype=np.uint8) == ord("1")
