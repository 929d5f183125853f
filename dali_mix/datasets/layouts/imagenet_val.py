"""Layout `imagenet-val`: ImageNet's flat validation folder as downloaded, with a list of labels.

Labels are indices into the sorted wnids, as for the training folders. The official ground-truth file numbers the
classes by ILSVRC2012_ID instead, which is a different order, so the development kit's meta.mat is needed to translate
it. Kaggle's LOC_val_solution.csv and lists of `file wnid` or `file label` (an index into the sorted wnids) need no
other file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from dali_mix.datasets.archives import open_tree
from dali_mix.datasets.base import Listing, Options, decode_lines, numbered_classes, read_lines
from dali_mix.datasets.mistakes import Mistakes
from dali_mix.datasets.trees import Tree

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_LISTS = ("LOC_val_solution.csv", "val.txt", "val_map.txt", "imagenet_2012_validation_synset_labels.txt", GROUND_TRUTH)
_FOLDERS = ("", "data/", "ILSVRC2012_devkit_t12/data/", "devkit/data/")


def imagenet_val(root: Path, split: str, options: Options) -> Listing:
    """List the images of one flat folder with the labels of `--list` or of a known file.

    The folder is the first that exists of root/SPLIT, root/val and root/ILSVRC2012_img_val, else the root. Known files
    are looked up in the root and in the development kit.

    Raise FileNotFoundError or ValueError if there are no images or labels, or if they do not match.
    """
    tree = open_tree(root, options.follow_links)
    folder = next((name for name in (split, "val", "ILSVRC2012_img_val") if name in tree.folders()), "")
    images = [name for name in tree.images(folder) if name.count("/") == folder.count("/") + bool(folder)]
    if not images:
        raise ValueError(
            f"{tree.where(folder)}: no images directly in it; for class folders use the layout imagefolder"
        )
    where, lines = _label_lines(tree, options)
    if all(len(line.split()) == 1 for line in lines):
        labels, classes = _by_position(tree, images, where, lines, options.mistakes)
    else:
        labels, classes = _by_name(images, where, lines, options.mistakes)
    names = options.class_names()
    if names is not None:
        labels, classes = _named(labels, classes, names, str(options.classes_file))
    return Listing(tree, images, labels, classes, "imagenet-val", split)


def _named(
    labels: list[int], classes: tuple[str, ...], names: tuple[str, ...], where: str
) -> tuple[list[int], tuple[str, ...]]:
    """Return (labels as indices into `names`, `names`); `labels` are indices into `classes`.

    If `classes` are wnids that all occur in `names`, labels are matched by wnid. Otherwise `names` are new names of the
    classes in the same order, and labels are returned unchanged. Raise ValueError in this case if there are fewer names
    than classes, or if `classes` are wnids and there are more names than classes.
    """
    wnids = not classes[0].isdigit()
    if wnids and set(classes) <= set(names):
        number_of = {name: number for number, name in enumerate(names)}
        return [number_of[classes[label]] for label in labels], names
    if len(names) < len(classes) or (wnids and len(names) > len(classes)):  # which wnids are missing is not known
        raise ValueError(f"{where}: {len(names)} names for {len(classes)} classes; list all wnids instead")
    return labels, names


def _label_lines(tree: Tree, options: Options) -> tuple[str, list[str]]:
    if options.list_file is not None:
        where, lines = str(options.list_file), read_lines(options.list_file, "--list")
    else:
        found = _find(tree, *_LISTS)
        if found is None:
            raise FileNotFoundError(f"{tree.root}: none of {', '.join(_LISTS)} in it; give the labels with --list FILE")
        where, lines = tree.where(found), decode_lines(tree.read(found), tree.where(found))
    lines = [line for line in lines if line.strip() and not line.startswith(("ImageId,", "#"))]
    if not lines:
        raise ValueError(f"{where}: no labels in it")
    return where, lines


def _find(tree: Tree, *names: str) -> str | None:
    """Return the path of the first of `names` that exists in one of `_FOLDERS`, or None."""
    return next(filter(tree.exists, (folder + name for name in names for folder in _FOLDERS)), None)


def _by_position(
    tree: Tree, images: list[str], where: str, lines: list[str], mistakes: Mistakes
) -> tuple[list[int], tuple[str, ...]]:
    """Return (labels, classes) from `lines`, which have one wnid or ILSVRC2012_ID each, in the order of `images`.

    Numbers are accepted only in the official ground-truth file, and need meta.mat (see `_wnids_by_id`).

    Raise ValueError if the number of lines is not that of the images, for numbers in another file, and for an invalid
    wnid or ILSVRC2012_ID.
    """
    if len(lines) != len(images):
        raise ValueError(f"{where}: {len(lines)} labels for {len(images)} images")
    values = [line.strip() for line in lines]
    if not all(value.isascii() and value.isdigit() for value in values):
        return _from_wnids(values, where, mistakes)
    if not where.endswith(GROUND_TRUTH):
        raise ValueError(
            f"{where}: line 1 is {lines[0]!r}: expected `file label`; a column of numbers alone has no known order"
        )
    wnids = _wnids_by_id(tree)
    for number, value in enumerate(values, start=1):
        if int(value) not in wnids:
            mistakes.add(ValueError(f"{where}: line {number}: {value} is not an ILSVRC2012_ID"))
    mistakes.check()
    number_of = {wnid: number for number, wnid in enumerate(sorted(wnids.values()))}
    return [number_of[wnids[int(value)]] for value in values], tuple(number_of)


def _by_name(images: list[str], where: str, lines: list[str], mistakes: Mistakes) -> tuple[list[int], tuple[str, ...]]:
    values: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        with mistakes:
            fields = line.replace(",", " ").split()
            name = _stem(fields[0])
            if name in values:
                raise ValueError(f"{where}: line {number}: {fields[0]} is listed twice")
            values[name] = "".join(fields[1:2])
            if len(fields) < 2:
                raise ValueError(f"{where}: line {number} is {line!r}: expected `file label`")
    for image in images:
        if _stem(image) not in values:
            mistakes.add(ValueError(f"{where}: no label for {image}"))
    for name in sorted(set(values) - set(map(_stem, images))):
        mistakes.add(FileNotFoundError(f"{where}: {name} is listed, but not among the images"))
    mistakes.check()
    chosen = [values[_stem(image)] for image in images]
    if all(value.isascii() and value.isdigit() and len(value) < 9 for value in chosen):
        labels = [int(value) for value in chosen]
        return labels, numbered_classes(max(labels), where)
    return _from_wnids(chosen, where, mistakes)


def _stem(file: str) -> str:
    return file.rpartition("/")[2].partition(".")[0]


def _from_wnids(values: list[str], where: str, mistakes: Mistakes) -> tuple[list[int], tuple[str, ...]]:
    for number, value in enumerate(values, start=1):
        if not (len(value) == 9 and value[0] == "n" and value[1:].isdigit()):
            mistakes.add(ValueError(f"{where}: label {number} is {value!r}, not a wnid like n01440764"))
    mistakes.check()
    number_of = {wnid: number for number, wnid in enumerate(sorted(set(values)))}
    return [number_of[value] for value in values], tuple(number_of)


def _wnids_by_id(tree: Tree) -> dict[int, str]:
    """Return ILSVRC2012_ID → wnid of the 1,000 leaf classes, from the development kit's meta.mat.

    Raise FileNotFoundError if there is no such file, ValueError if it cannot be read.
    """
    found = _find(tree, "meta.mat")
    if found is None:
        raise FileNotFoundError(
            f"{tree.root}: {GROUND_TRUTH} counts classes by ILSVRC2012_ID, which only the development kit's meta.mat"
            " translates: put ILSVRC2012_devkit_t12 into the root, or give a list of `file wnid` with --list"
        )
    command = [sys.executable, "-c", _READ_META]
    safe = {**os.environ, "PYTHONSAFEPATH": "1"}  # do not import from the current directory
    content = tree.read(found)
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=120, check=False, env=safe)
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise ValueError(f"scipy was stopped by signal {-done.returncode}" if done.returncode < 0 else last)
        return {int(number): str(wnid) for number, wnid in json.loads(done.stdout)}
    except (ValueError, TypeError, subprocess.TimeoutExpired) as error:
        raise ValueError(
            f"{tree.where(found)}: not the development kit's meta.mat: {error}; fetch it again, or give a list of"
            " `file wnid` with --list"
        ) from None


# Runs in a separate process, since scipy's reader can crash on a damaged file. scipy is installed with scikit-learn.
_READ_META = """
import io, json, sys
from scipy.io import loadmat
synsets = loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True)["synsets"]
leaves = [row for row in synsets if int(row["num_children"]) == 0]
print(json.dumps([(int(row["ILSVRC2012_ID"]), str(row["WNID"])) for row in leaves]))
"""
