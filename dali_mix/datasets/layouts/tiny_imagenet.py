"""Layout `tiny-imagenet`: tiny-ImageNet as published, in a folder or an archive.

It contains wnids.txt, train/WNID/images/*, val/images/* and val/val_annotations.txt.
"""

from __future__ import annotations

from pathlib import Path

from dali_mix.datasets.base import Listing, Options, check_unique, decode_lines, numbered_lines, trees_of
from dali_mix.datasets.class_folders import class_folders
from dali_mix.datasets.mistakes import Mistakes
from dali_mix.datasets.trees import Tree


def tiny_imagenet(root: Path, split: str, options: Options) -> Listing:
    """List split "train" or "val" ("test" has no labels); labels are indices into the sorted wnids of wnids.txt.

    If val/val_annotations.txt does not exist, "val" is read like "train", from folders val/WNID.

    Raise ValueError for any other split or with `--classes`, FileNotFoundError if wnids.txt or an image is missing.
    """
    if split not in ("train", "val"):
        raise ValueError(f"tiny-imagenet has the labelled splits train and val, not {split!r}")
    if options.classes_file is not None:
        raise ValueError("tiny-imagenet takes its classes from wnids.txt: --classes does not apply")
    for tree in trees_of(root, options, "tiny-imagenet"):
        base = _base(tree)
        if base is not None:
            break
    else:
        raise FileNotFoundError(f"{root}: no wnids.txt in it; --root is the folder tiny-imagenet-200, or its .zip")
    wnids_name = f"{base}wnids.txt"
    wnids = [line.strip() for line in decode_lines(tree.read(wnids_name), tree.where(wnids_name)) if line.strip()]
    check_unique(wnids, tree.where(wnids_name))
    classes = tuple(sorted(wnids))
    if split == "train" or not tree.exists(f"{base}val/val_annotations.txt"):
        names, labels, _, report = class_folders(tree, base + split, classes, options.mistakes)
        return Listing(tree, names, labels, classes, "tiny-imagenet", split, report=report)
    names, labels, places = _annotated(tree, f"{base}val", classes, options.mistakes)
    options.mistakes.settle(tree, names, places)
    return Listing(tree, names, labels, classes, "tiny-imagenet", split, places=places)


def _base(tree: Tree) -> str | None:
    bases = ["", *(f"{folder}/" for folder in tree.folders())]
    return next((base for base in bases if tree.exists(f"{base}wnids.txt")), None)


def _annotated(
    tree: Tree, folder: str, classes: tuple[str, ...], mistakes: Mistakes
) -> tuple[list[str], list[int], list[str]]:
    """Return the images in val_annotations.txt, their labels, and the file and line that list each image.

    Malformed and duplicate lines are mistakes.
    """
    where = tree.where(f"{folder}/val_annotations.txt")
    number_of = {wnid: number for number, wnid in enumerate(classes)}
    found: dict[str, tuple[int, str]] = {}
    for spot, line in numbered_lines(tree.read(f"{folder}/val_annotations.txt"), where):
        with mistakes:
            fields = line.split("\t")
            if len(fields) < 2 or fields[1] not in number_of:
                raise ValueError(f"{spot} is {line[:80]!r}: expected `file<TAB>wnid…` with a wnid of wnids.txt")
            if fields[0] in found:
                raise ValueError(f"{spot}: {fields[0]} is listed twice")
            found[fields[0]] = number_of[fields[1]], spot
    files = sorted(found)
    names = [f"{folder}/images/{file}" for file in files]
    return names, [found[file][0] for file in files], [found[file][1] for file in files]
