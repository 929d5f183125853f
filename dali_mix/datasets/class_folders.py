"""Class folders: find the folder of a split, and list the images of each class."""

from __future__ import annotations

import re
from collections import Counter
from difflib import get_close_matches
from typing import Any

from dali_mix._text import composed, first_of, printable
from dali_mix.datasets.base import SPLIT_NAMES
from dali_mix.datasets.mistakes import Mistakes
from dali_mix.datasets.trees import Tree, is_image, suffix_of

# Suffixes of images that are left out since neither DALI nor the packer reads them.
_UNREAD = frozenset((
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx", ".psd", ".exr", ".hdr", ".tga", ".svg", ".dds", ".ico",
    ".pcx", ".xcf", ".eps", ".dcm",
    ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".pef", ".srw",
    ".x3f", ".raw", ".3fr", ".iiq",
))  # fmt: skip

# Paths of the files that describe boxes, by layout.
_ANNOTATIONS = {
    "yolo": re.compile(r"(^|/)((data|dataset)\.ya?ml|obj\.data|labels/.*\.txt)$"),
    "coco": re.compile(r"(^|/)(_annotations\.coco|instances_[^/]+)\.json$"),
    "voc": re.compile(r"\.xml$"),
}


def class_folders(
    tree: Tree, base: str, classes: tuple[str, ...] | None, mistakes: Mistakes
) -> tuple[list[str], list[int], tuple[str, ...], dict[str, Any]]:
    """Return (names, labels, classes, report) for the images in `base`/CLASS/….

    The names are paths in the tree, and the labels are indices into the classes. The report counts files that were left
    out, and has notices about doubtful class folders.

    If the argument `classes` is None, the classes are the sorted folder names, and a class folder without images is a
    mistake. Otherwise `classes` is returned unchanged, and a folder whose name is not in it is a mistake.

    Before returning, raise the errors in `mistakes`. Raise ValueError if there are no class folders, FileNotFoundError
    for a dangling link without an image suffix directly in `base`, since it may have been a class folder.
    """
    where = tree.where(base)
    folders = tree.folders(base)
    if not folders:
        loose = any(is_image(file) for file in tree.walk(base))
        advice = "; if it is a class itself, pass --split-folders no" if loose and base else ""
        raise ValueError(
            f"{where}: no class folders in it; expected {where}/CLASS/IMAGE{advice}{_another_layout(tree)}"
        )
    given = classes is not None
    classes = tuple(folders) if classes is None else classes
    notices = [] if given else _doubts(tree, where, folders)
    # With `classes`, folder names match regardless of their Unicode normalization.
    same = composed if given else str
    number_of = {same(name): number for number, name in enumerate(classes)}
    for folder in folders:
        if same(folder) not in number_of:
            wrong = f"{where}/{folder}: not among the {len(classes)} names of --classes; correct one"
            mistakes.add(ValueError(wrong))
    images: dict[str, list[str]] = {folder: [] for folder in folders}
    others: dict[str, Counter[str]] = {folder: Counter() for folder in folders}
    loose_images = 0
    for file in tree.walk(base):
        folder, slash, _ = file[len(base) + bool(base) :].partition("/")
        if not slash:
            loose_images += is_image(file)
            if not is_image(file) and tree.dangles(file):
                tree.read(file)  # raises FileNotFoundError: it may have been a class folder
        elif is_image(file):
            images[folder].append(file)
        else:
            kind = "dangling link" if tree.dangles(file) else printable(suffix_of(file)) or "no suffix"
            others[folder][kind] += 1
    another = _another_layout(tree) if not given and not all(images.values()) else ""
    for folder, found in images.items():
        if not found and not given:
            there = f" (only {_counted(others[folder])})" if others[folder] else ""
            empty = (
                f"{where}/{folder}: a class folder without images{there}; fill it, remove it from every split,"
                f" or name the classes with --classes FILE if only this split has none of it{another}"
            )
            mistakes.add(ValueError(empty))
    mistakes.check()
    names = [name for folder in folders for name in images[folder]]
    labels = [number_of[same(folder)] for folder in folders for _ in images[folder]]
    if without := [folder for folder, found in images.items() if not found]:
        notices.append(f"{where}: no image in the class folders {first_of(without)}")
    return names, labels, classes, _report(where, sum(others.values(), Counter()), loose_images, notices)


def _doubts(tree: Tree, where: str, folders: list[str]) -> list[str]:
    """Return a list with one notice if `folders`, the sorted class names, are doubtful; else [].

    They are doubtful if there is only one, or if all are numbers and not in numeric order.
    """
    if len(folders) == 1:
        advice = f"if it is not a class, correct --root or --split{_another_layout(tree)}"
        return [f"{where}: there is only one class, {folders[0]!r}; {advice}"]
    if all(name.isascii() and name.isdigit() for name in folders):
        by_number = sorted(folders, key=int)
        for label, name in enumerate(folders):
            if name != by_number[label]:
                return [
                    f"{where}: classes are sorted as text: label {label} is class {name!r}, not {by_number[label]!r};"
                    " to sort them as numbers, pass --classes FILE with the names in that order, one per line"
                ]
    return []


def _report(where: str, others: Counter[str], loose_images: int, notices: list[str]) -> dict[str, Any]:
    report: dict[str, Any] = {}
    if others:
        report["other_files"] = dict(sorted(others.items()))
    notices += unread_images(others)
    if loose_images:
        report["images_beside_the_classes"] = loose_images
        notices.append(f"{where}: {loose_images:,} images are in no class folder and were left out")
    return report | ({"notices": notices} if notices else {})


def unread_images(suffixes: Counter[str]) -> list[str]:
    """Return a list with a notice that counts image files of unsupported formats by suffix; empty if there are none."""
    unread = Counter({suffix: count for suffix, count in suffixes.items() if suffix in _UNREAD})
    left_out = "left out: images that cannot be read here; convert them to JPEG or PNG"
    return [f"{_counted(unread)} {left_out}"] if unread else []


def _counted(suffixes: Counter[str]) -> str:
    return ", ".join(f"{count:,} {suffix} file{'s' * (count > 1)}" for suffix, count in sorted(suffixes.items()))


def _another_layout(tree: Tree) -> str:
    """Return advice, beginning with "; ", to use layout yolo, coco or voc if the tree has its annotations; else ""."""
    names = list(tree.walk())
    for layout, files in _ANNOTATIONS.items():
        if found := next(filter(files.search, names), None):
            return f"; if the images have boxes, as {tree.where(found)} suggests, use `dali-mix pack {layout}`"
    return ""


def split_base(tree: Tree, split: str, split_folders: str = "auto") -> tuple[str, list[str]]:
    """Return (folder that holds the classes of `split`, notices). There are notices only if the tree is ambiguous.

    It is the folder named after the split, or the root if the tree has no split folders. A single outer folder, as in
    many archives, is skipped.

    Folders named after splits are split folders, unless folders with other names contain images too. In this case, all
    are class folders, except if at least two of those named after splits contain class folders, or if `split` is a
    custom name and a folder has this name. `split_folders` "yes" or "no" overrides this rule.

    Raise ValueError if other splits exist but not this one, or if `split_folders` is "yes" and there is no folder of
    this split. If there are no split folders, also raise ValueError if `split` looks like a mistyped split name, unless
    `split_folders` is "no".
    """
    base = ""
    while True:
        folders = tree.folders(base)
        match = next((name for name in (split, *folders) if name in folders and name.lower() == split.lower()), None)
        named = [name for name in folders if name.lower() in SPLIT_NAMES or name == match]
        free = match is not None and match.lower() not in SPLIT_NAMES  # a custom split name, such as fold1
        is_split, notices = _are_splits(tree, base, folders, named, free, split_folders)
        if is_split and match is not None:
            return _unwrapped(tree, _join(base, match), match), notices
        if is_split and named:
            raise ValueError(f"{tree.where(base)}: no folder {split!r}; choose --split among {', '.join(named)}")
        outer = _join(base, folders[0]) if len(folders) == 1 else ""
        if outer and tree.folders(outer) and not _has_images(tree, outer, direct=True):
            base = outer
            continue
        if split_folders == "yes":
            there = first_of(folders) or "none"
            raise ValueError(f"{tree.where(base)}: no folder {split!r}; the folders are {there}: choose --split")
        if not named and split_folders != "no" and (meant := _mistyped(split)):
            raise ValueError(f"{tree.where(base)}: no folder {split!r}; did you mean --split {meant}?")
        return base, notices or _alike(tree, base, folders)


def _are_splits(
    tree: Tree, base: str, folders: list[str], named: list[str], free: bool, split_folders: str
) -> tuple[bool, list[str]]:
    """Return (is_split, notices): whether the folders `named` are splits rather than classes.

    `notices` has one item if the answer is doubtful, else none. `split_base` describes the rule.

    `named` are the items of `folders` that have the name of a split. `free` is True if the wanted split has a custom
    name, and a folder in `named` has this name.
    """
    if split_folders != "auto" or not named:
        return split_folders != "no", []
    others = [name for name in folders if name not in named and _has_images(tree, _join(base, name))]
    holding = [name for name in named if _has_images(tree, _join(base, name), direct=False)]
    if not others or (free and not holding):
        return True, []
    if not holding:
        return False, []
    is_split = free or len(holding) > 1
    where, shown = tree.where(base), first_of(others)
    if is_split:
        return True, [
            f"{where}: {first_of(named)} read as splits, {shown} left out; if all are classes, pass --split-folders no"
        ]
    return False, [
        f"{where}: {first_of(named)} read as a class like {shown}; if it is a split, pass --split-folders yes"
    ]


def _unwrapped(tree: Tree, base: str, split: str) -> str:
    """Return the folder that holds the classes of `split`: its folder `base`, or a folder in it with the same name.

    For train/train/CLASS, as in Kaggle's archives, this is train/train. The inner folder is used if it is the only
    subfolder, and contains folders but no images directly. This is repeated for the inner folder.
    """
    while (
        [name.lower() for name in tree.folders(base)] == [split.lower()]
        and tree.folders(inner := _join(base, tree.folders(base)[0]))
        and not _has_images(tree, inner, direct=True)
    ):
        base = inner
    return base


def _alike(tree: Tree, base: str, folders: list[str]) -> list[str]:
    """Return a list with one notice if `folders`, which were read as classes, look like splits; else [].

    They do if one has the structure NAME/NAME/CLASS. They also do if there are at least two, and all have the same two
    or more subfolders and no images directly in them.
    """
    for name in folders:
        doubled = _join(base, f"{name}/{name}")
        if tree.exists(doubled) and _unwrapped(tree, _join(base, name), name) != _join(base, name):
            return [
                f"{tree.where(base)}: {first_of(folders)} read as classes, though {name}/{name} holds folders; if they"
                f" are splits, pass --split {name}"
            ]
    inner = tree.folders(_join(base, folders[0])) if len(folders) > 1 else []
    if len(inner) < 2 or any(tree.folders(_join(base, name)) != inner for name in folders[1:]):
        return []
    if any(_has_images(tree, _join(base, name), direct=True) for name in folders):
        return []
    return [
        f"{tree.where(base)}: {first_of(folders)} read as classes, though each holds the folders {first_of(inner)};"
        f" if they are splits, pass --split {folders[0]}"
    ]


def _has_images(tree: Tree, folder: str, direct: bool | None = None) -> bool:
    """Return True if `folder` contains an image directly (`direct` True), in a subfolder (False) or anywhere (None)."""
    depth = folder.count("/") + 1
    return any(
        is_image(file) and (direct is None or direct == (file.count("/") == depth)) for file in tree.walk(folder)
    )


def _join(base: str, name: str) -> str:
    return f"{base}/{name}" if base else name


def _mistyped(split: str) -> str:
    """Return the standard split name that the custom name `split` probably misspells, or ""."""
    lower = split.lower()
    if split in SPLIT_NAMES:
        return ""
    swapped = [name for name in SPLIT_NAMES if sorted(lower) == sorted(name)]  # "vla", "trian"
    alike = [name for name in SPLIT_NAMES if lower[:1] == name[0] and abs(len(lower) - len(name)) < 2]
    meant = sorted(swapped + get_close_matches(lower, alike, cutoff=0.75))
    return next((name for name in meant if not split.startswith(name)), "")
