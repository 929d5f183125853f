"""Divide one folder or list into splits "train" and "val" by the hash of each image's name.

The images of each class (for multi-label and detection: of the set) are ordered by the sha256 of their names. The
fraction `--val-share` that comes first is "val". The two splits are therefore disjoint, contain all images and are the
same on every machine. For classification, they are stratified by class. If files are added, pack both splits again: a
few older files near the boundary may change their split.
"""

from __future__ import annotations

import hashlib
import math

from dali_mix._text import composed
from dali_mix.datasets.base import Listing, Options


def shared_split(options: Options, split: str) -> str:
    """Return the split to read from disk: `split`, or "train" for both "train" and "val" with `--val-share`.

    Raise ValueError for other splits with `--val-share`, and for a share that is not between 0 and 1.
    """
    if options.val_share is None:
        return split
    if not 0 < options.val_share < 1:
        raise ValueError(f"--val-share {options.val_share:g} is not between 0 and 1: 0.1 makes a tenth the split val")
    if split not in ("train", "val"):
        raise ValueError(f"--val-share makes the splits train and val, not {split!r}: choose --split train or val")
    return "train"


def of_share(listing: Listing, options: Options, base: str = "") -> Listing:
    """Return the part of `listing` that `--val-share` assigns to its split, or all of it if the option is not set.

    Names are hashed relative to folder `base`. A class with a single image is only in "train"; every other class is
    in both splits. Raise ValueError if the tree has a folder "val" next to `base` or next to one of its parents, or if
    the part is empty.
    """
    share = options.val_share
    if share is None:
        return listing
    parts = base.split("/") if base else []
    for depth in range(len(parts)):
        sibling = "/".join([*parts[:depth], "val"])
        if listing.tree.exists(sibling):
            raise ValueError(f"{listing.tree.where(sibling)}: there is a split val already: leave --val-share out")
    relative = (name[len(base) :].lstrip("/") for name in listing.names)
    keys = [hashlib.sha256(composed(name).encode(errors="surrogateescape")).digest() for name in relative]
    by_class: dict[int, list[int]] = {}
    for row, label in enumerate(listing.labels):
        by_class.setdefault(label if isinstance(label, int) else 0, []).append(row)
    val: set[int] = set()
    for rows in by_class.values():
        count = min(max(1, math.floor(share * len(rows) + 0.5)), len(rows) - 1)
        val.update(sorted(rows, key=lambda row: keys[row])[:count])
    stay = [row for row in range(len(keys)) if (row in val) == (listing.split == "val")]
    if not stay:
        raise ValueError(f"{listing.tree.root}: no class has two images to share between train and val")
    return listing.only(stay)
