"""Interface between layouts and the packer: `Options` and `Listing`, and helpers to read lists and class names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dali_mix._text import printable
from dali_mix.datasets.archives import ARCHIVES, open_tree
from dali_mix.datasets.images.orientation import CHOICES
from dali_mix.datasets.mistakes import Mistakes
from dali_mix.datasets.trees import Tree, check_name
from dali_mix.options import choice, flag, set_whole
from dali_mix.recordio.header import Label

TRAINING_SPLITS = frozenset(("train", "trainval", "training"))
SPLIT_NAMES = frozenset((*TRAINING_SPLITS, "val", "valid", "validation", "test", "testing"))
BAD_BOXES = ("error", "clip", "drop")
MAX_NUMBERED_CLASSES = 100_000  # the manifest lists numbered classes; a higher index is a wrong label


@dataclass(frozen=True)
class Options:
    """The options of `dali-mix pack` that a layout uses.

    Attributes:
        list_file: file of `--list`, which lists images and labels.
        classes_file: a tuple of class names in order, the path of a file that lists them, or Path("auto").
        task: name of the task; None: chosen by the layout.
        years: years to pack, for VOC and COCO.
        unlabelled: "keep" or "drop" images without labels; None: the layout's own rule.
        scenes: number of scenes, for digit-scenes.
        seed: random seed, for digit-scenes.
        split_folders: whether the root has one folder per split: "yes", "no" or "auto".
        val_share: fraction of the images (classification: of each class) in split "val"; the rest is "train".
        follow_links: True if symbolic links may leave the root.
        exif: as in `PackOptions`.
        bad_boxes: "error", "clip" or "drop", for boxes that exceed their image by more than one pixel and 1%, lie
            outside it or have a negative side.
        mistakes: collects the mistakes found; use `with options.mistakes:` around each check.
    """

    list_file: Path | None = None
    classes_file: Path | tuple[str, ...] | None = None
    task: str | None = None
    years: tuple[str, ...] = ()
    unlabelled: str | None = None
    scenes: int | None = None
    seed: int = 0
    split_folders: str = "auto"
    val_share: float | None = None
    follow_links: bool = False
    exif: str | None = None
    bad_boxes: str = "error"
    mistakes: Mistakes = field(default_factory=Mistakes, repr=False, compare=False)

    def __post_init__(self) -> None:
        set_whole(self, "scenes", 1, 10_000_000, optional=True)
        set_whole(self, "seed", 0)
        flag("follow_links", self.follow_links)
        choice("split_folders", self.split_folders, ("auto", "yes", "no"))
        choice("bad_boxes", self.bad_boxes, BAD_BOXES)
        if self.unlabelled is not None:
            choice("unlabelled", self.unlabelled, ("keep", "drop"))
        if self.exif is not None:
            choice("exif", self.exif, CHOICES)

    def class_names(self) -> tuple[str, ...] | None:
        """Return the class names in `classes_file`, or None if it is None. Raise the errors of `read_names`.

        Path("auto") is read like any other path. A layout that supports "auto" must check for it before this call.
        """
        return read_names(self.classes_file) if isinstance(self.classes_file, Path) else self.classes_file


@dataclass(frozen=True)
class Listing:
    """The images and labels of one split of a dataset, in a fixed order, ready to be packed.

    `labels` and, unless None, `ids`, `places`, `crops` and `sizes` have one item per name. Labels are checked against
    `task` and `classes` when they are packed. Raise ValueError if there are no names, if a class name is not UTF-8 text
    or if the numbers of names and labels differ.

    Attributes:
        tree: the folder or archive that contains the files.
        names: paths of the images relative to `tree`.
        labels: one label per name.
        classes: class names, in the order of the class indices.
        source: name of the layout.
        split: name of the split.
        task: name of the task.
        ids: unique record ids; None: the indices.
        places: file and line that list each name, for messages.
        crops: the part of each image to store: x, y, width, height in pixels.
        sizes: (height, width) in pixels that each image has according to its annotation; packing compares them with
            the images.
        report: dict for the manifest; its "notices" are shown to the user.
    """

    tree: Tree
    names: Sequence[str]
    labels: Sequence[Label]
    classes: tuple[str, ...]
    source: str
    split: str
    task: str = "classification"
    ids: Sequence[int] | None = None
    places: Sequence[str] | None = None
    crops: Sequence[tuple[float, float, float, float]] | None = None
    sizes: Sequence[tuple[int, int]] | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.names:
            found = f"no image found for split {self.split!r} of layout {self.source}"
            raise ValueError(f"{self.tree.root}: {found}; check --root, or choose another --split")
        for name in self.classes:
            if any("\ud800" <= character <= "\udfff" for character in name):
                raise ValueError(f"{self.tree.root}: the class name {printable(name)!r} is not UTF-8 text; rename it")
        if len(self.names) != len(self.labels):  # possible in a user's layout, or if a mistake left out a label
            counts = f"{len(self.names)} names and {len(self.labels)} labels"
            raise ValueError(f"layout {self.source} lists {counts}; correct its function")

    def only(self, rows: Sequence[int]) -> Listing:
        """Return a copy of the listing with only the items at the indices `rows`."""
        columns = {name: getattr(self, name) for name in ("names", "labels", "ids", "places", "crops", "sizes")}
        kept: dict[str, Any] = {
            name: [values[row] for row in rows] for name, values in columns.items() if values is not None
        }
        return replace(self, **kept)

    @property
    def training(self) -> bool:
        """Return True for a training split, which is shuffled by default."""
        return self.split.rstrip("0123456789") in TRAINING_SPLITS  # train2017 too


Layout = Callable[[Path, str, Options], Listing]
"""A function (root, split, options) that lists one split of a dataset."""


def join_reports(*reports: dict[str, Any]) -> dict[str, Any]:
    """Merge several reports into one. All notices are kept; for any other key, the last report that has it is used."""
    joined: dict[str, Any] = {}
    notices: list[str] = []
    for report in reports:
        joined |= report
        notices += joined.pop("notices", ())
    return joined | ({"notices": notices} if notices else {})


def read_lines(path: Path, option: str) -> list[str]:
    """Return the lines of the text file passed as `option`. Raise the errors of `read_given` and `decode_lines`."""
    return decode_lines(read_given(path, option), str(path))


def read_given(path: Path, option: str) -> bytes:
    """Return the content of the file passed as `option`. Raise OSError with the reason if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; check {option}") from None
    except OSError as error:
        raise OSError(f"{path}: cannot be read: {error.strerror}; check {option}") from None


def decode_lines(data: bytes, where: str) -> list[str]:
    """Return the lines of UTF-8 text, without a byte order mark. Raise ValueError naming the line that is not UTF-8."""
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{where}: line {line} is not UTF-8 text; save the file as UTF-8") from None


def numbered_lines(data: bytes, where: str) -> Iterator[tuple[str, str]]:
    """Yield ("FILE: line N", line) for each non-blank line of UTF-8 text; the first item is for messages."""
    for number, line in enumerate(decode_lines(data, where), start=1):
        if line.strip():
            yield f"{where}: line {number}", line


def listed_paths(
    tree: Tree, name: str, base: str, mistakes: Mistakes, *, last_part: bool = False, may_be_empty: bool = False
) -> dict[str, str]:
    """Read a list of files, one path per line; return path → "FILE: line N" for messages.

    `name` is the list's name in `tree`. `base` is the folder to which its paths are relative, for messages. With
    `last_part`, only the last component of each path is used. An invalid path (see `check_name`) or a duplicate is left
    out, and an error is added to `mistakes`.

    Raise FileNotFoundError if the list is missing. Raise ValueError if it cannot be read, is not UTF-8 text or, unless
    `may_be_empty`, has no valid path.
    """
    found: dict[str, str] = {}
    for spot, line in numbered_lines(tree.read_needed(name), tree.where(name)):
        with mistakes:
            path = check_name(line.strip(), base, spot)
            path = path.rpartition("/")[2] if last_part else path
            if path in found:
                raise ValueError(f"{spot}: {path} is already listed on {found[path].rpartition(': ')[2]}; remove it")
            found[path] = spot
    if not found and not may_be_empty:
        raise ValueError(f"{tree.where(name)}: lists no image; fetch it again")
    return found


def read_names(path: Path) -> tuple[str, ...]:
    """Read class names, one per line.

    Raise the errors of `read_lines`, and ValueError for an empty file, an empty line or a duplicate name.
    """
    names = [line.strip() for line in read_lines(path, "--classes")]
    for number, name in enumerate(names, start=1):
        if not name:
            raise ValueError(f"{path}: line {number} is empty; one class name per line")
    check_unique(names, str(path))
    if not names:
        raise ValueError(f"{path}: empty; one class name per line")
    return tuple(names)


def check_unique(names: Sequence[str], where: str) -> None:
    """Raise ValueError, naming both lines, if a name occurs twice. `names` are all lines of the file `where`."""
    if double := first_double(names):
        again, before = double
        raise ValueError(f"{where}: line {again + 1}: {names[again]!r} is already on line {before + 1}")


def first_double(values: Sequence[Any]) -> tuple[int, int] | None:
    """Return the first pair of indices that `doubles` yields, or None if it yields none."""
    return next(doubles(values), None)


def doubles(values: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """Yield (index of a duplicate, index of its first occurrence) for each duplicate. None values are ignored."""
    seen: dict[Any, int] = {}
    for index, value in enumerate(values):
        before = seen.setdefault(value, index)
        if before != index and value is not None:
            yield index, before


def numbered_classes(highest: int, where: str) -> tuple[str, ...]:
    """Return the class names "0", "1", … up to `highest`. Raise ValueError if `highest` is at least 100,000."""
    if highest >= MAX_NUMBERED_CLASSES:
        raise ValueError(
            f"{where}: label {highest} would make {highest + 1:,} classes; name them with --classes FILE if so"
        )
    return tuple(str(number) for number in range(highest + 1))


def trees_of(root: Path, options: Options, *patterns: str) -> Iterator[Tree]:
    """Yield the tree of `root`, then for each regex in `patterns` the tree of an archive directly in folder `root`.

    It is the archive whose lowercase name contains a match of the regex. If there is none, nothing is yielded.

    Raise ValueError if several archives match one regex. Raise the errors of `open_tree`.
    """
    yield open_tree(root, options.follow_links)
    archives = [path for path in root.iterdir() if path.name.lower().endswith(ARCHIVES)] if root.is_dir() else []
    for pattern in patterns:
        found = sorted(path.name for path in archives if re.search(pattern, path.name.lower()))
        if len(found) > 1:
            raise ValueError(f"{root}: {' and '.join(found)} both match; pass one of them as --root")
        if found:
            yield open_tree(root / found[0])
