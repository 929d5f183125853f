"""Layout `imagefolder`: root[/split]/class/…/image, classes in sorted order; a folder or an archive."""

from __future__ import annotations

from pathlib import Path

from dali_mix.datasets.archives import open_tree
from dali_mix.datasets.base import Listing, Options, join_reports
from dali_mix.datasets.class_folders import class_folders, split_base
from dali_mix.datasets.val_share import of_share, shared_split


def imagefolder(root: Path, split: str, options: Options) -> Listing:
    """List root/split/class/… or, if the root has no split folders, root/class/….

    With `--val-share`, list the part of root/train/class/… or root/class/… that belongs to `split`.
    """
    tree = open_tree(root, options.follow_links)
    base, notices = split_base(tree, shared_split(options, split), options.split_folders)
    names, labels, classes, report = class_folders(tree, base, options.class_names(), options.mistakes)
    report = join_reports({"notices": notices}, report)
    listing = Listing(tree, names, labels, classes, "imagefolder", split, report=report)
    return of_share(listing, options, base)
