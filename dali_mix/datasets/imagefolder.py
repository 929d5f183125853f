"""Layout `imagefolder`: root[/split]/class/…/image, classes in sorted order; a folder or an archive."""

from __future__ import annotations

from pathlib import Path

from dali_mix.datasets.base import Listing, Options, class_folders, split_base, tree_of


def imagefolder(root: Path, split: str, options: Options) -> Listing:
    """Lists root/split/class/… or, when the root has no folder called like a split, root/class/…."""
    tree = tree_of(root)
    base = split_base(tree, split)
    names, labels, classes, others = class_folders(tree, base, options.class_names())
    report = {"other_files": others} if others else {}
    return Listing(tree, names, labels, classes, "imagefolder", split, report=report)
