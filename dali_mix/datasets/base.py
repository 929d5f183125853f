"""What a layout hands to the packer: the files of one split, their labels, and where to read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dali_mix._text import printable
from dali_mix.datasets.archives import ARCHIVES, open_tree
from dali_mix.datasets.trees import Tree
from dali_mix.recordio.header import Label

TRAINING_SPLITS = frozenset(("train", "trainval", "training"))
SPLIT_NAMES = frozenset((*TRAINING_SPLITS, "val", "valid", "validation", "test", "testing"))
MAX_NUMBERED_CLASSES = 100_000  # numbered classes are written out in the manifest: more than this is a mistaken label


@dataclass(frozen=True)
class Options:
    """What a user may say about a layout: a list of files and labels, class names in order ("auto": from the data),
    the task, the years of VOC or COCO, whether images without labels are to "keep" or "drop" (None: the layout's own
    rule), and for digit-scenes how many and their seed. `split_folders`: whether the root has a folder for each split
    ("yes", "no", or "auto": by what is there). `val_share`: which share of each class is split "val", the rest being
    "train". `follow_links`: whether symbolic links may leave the root. `exif`: as in
    `PackOptions`.
    """

    list_file: Path | None = None
    classes_file: Path | None = None
    task: str | None = None
    years: tuple[str, ...] = ()
    unlabelled: str | None = None
    scenes: int | None = None
    seed: int = 0
    split_folders: str = "auto"
    val_share: float | None = None
    follow_links: bool = False
    exif: str | None = None

    def class_names(self) -> tuple[str, ...] | None:
        """The names in `classes_file`, one a line; None without it. Raises ValueError for doubles and empty lines."""
        if self.classes_file is None:
            return None
        return read_names(self.classes_file)


@dataclass(frozen=True)
class Listing:
    """One split, ready to be packed, in a fixed order.

    `names` are relative to `tree`, which reads them; `labels` one a name, checked against `task` and `classes` when
    packed; `ids` one a name (unique), the position when None; `places` where each name is listed (file and line), for
    messages. `crops` one a name: the part of the image to store, x, y, width, height in pixels; `sizes` one a name:
    (height, width) the labels were made for, which the image must have. `report` goes into the manifest; its list
    `notices` is shown to the user.
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
            raise ValueError(f"{self.tree.root}: no image found for split {self.split!r} of layout {self.source}")
        for name in self.classes:
            if any("\ud800" <= character <= "\udfff" for character in name):
                raise ValueError(f"{self.tree.root}: the class name {printable(name)!r} is not UTF-8 text; rename it")
        assert len(self.names) == len(self.labels)

    def only(self, rows: Sequence[int]) -> Listing:
        """The listing of these rows."""
        columns = {name: getattr(self, name) for name in ("names", "labels", "ids", "places", "crops", "sizes")}
        kept: dict[str, Any] = {
            name: [values[row] for row in rows] for name, values in columns.items() if values is not None
        }
        return replace(self, **kept)

    @property
    def training(self) -> bool:
        """Whether the split is one to train on, and so is shuffled unless asked otherwise."""
        return self.split.rstrip("0123456789") in TRAINING_SPLITS  # train2017 too


Layout = Callable[[Path, str, Options], Listing]


def join_reports(*reports: dict[str, Any]) -> dict[str, Any]:
    """One report of several, with the notices of all."""
    joined: dict[str, Any] = {}
    notices: list[str] = []
    for report in reports:
        joined |= report
        notices += joined.pop("notices", ())
    return joined | ({"notices": notices} if notices else {})


def read_lines(path: Path, option: str) -> list[str]:
    """The lines of the UTF-8 text file given as `option`. Raises ValueError naming the line that is not UTF-8, OSError
    when it cannot be read.
    """
    return decode_lines(read_given(path, option), str(path))


def read_given(path: Path, option: str) -> bytes:
    """The content of a file the user gave as `option`. Raises FileNotFoundError, or OSError saying why it cannot be
    read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; check {option}") from None
    except OSError as error:
        raise OSError(f"{path}: cannot be read: {error.strerror}; check {option}") from None


def decode_lines(data: bytes, where: str) -> list[str]:
    """The lines of UTF-8 text, without a byte order mark. Raises ValueError naming the line that is not UTF-8."""
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{where}: line {line} is not UTF-8 text; save the file as UTF-8") from None


def read_names(path: Path) -> tuple[str, ...]:
    """Class names, one a line. Raises ValueError for an empty line or a name that is there twice."""
    names = [line.strip() for line in read_lines(path, "--classes")]
    for number, name in enumerate(names, start=1):
        if not name:
            raise ValueError(f"{path}: line {number} is empty; one class name a line")
    check_unique(names, str(path))
    if not names:
        raise ValueError(f"{path}: empty; one class name a line")
    return tuple(names)


def check_unique(names: Sequence[str], where: str) -> None:
    """Raises ValueError naming the first of `names` that is there twice."""
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if name in seen:
            raise ValueError(f"{where}: line {number}: {name!r} was on line {seen[name]} already")
        seen[name] = number


def first_double(values: Sequence[Any]) -> tuple[int, int] | None:
    """The places of the first value that is there again, and of where it was before; None where all differ."""
    seen: dict[Any, int] = {}
    for place, value in enumerate(values):
        before = seen.setdefault(value, place)
        if before != place:
            return place, before
    return None


def numbered_classes(highest: int, where: str) -> tuple[str, ...]:
    """Classes "0" to `highest`. Raises ValueError for more than are sensible without names."""
    if highest >= MAX_NUMBERED_CLASSES:
        raise ValueError(
            f"{where}: label {highest} would make {highest + 1:,} classes; name them with --classes FILE if so"
        )
    return tuple(str(number) for number in range(highest + 1))


def find_archive(root: Path, words: Sequence[str]) -> Path | None:
    """An archive in folder `root` whose name holds all `words`; None without. Raises ValueError when there are
    several."""
    if not root.is_dir():
        return None
    found = sorted(
        path
        for path in root.iterdir()
        if path.name.lower().endswith(ARCHIVES) and all(word in path.name.lower() for word in words) and path.is_file()
    )
    if len(found) > 1:
        raise ValueError(f"{root}: {' and '.join(path.name for path in found)} both fit; give one of them as --root")
    return found[0] if found else None


def tree_of(root: Path, options: Options | None = None) -> Tree:
    """The tree to read `root` from. Raises FileNotFoundError when it does not exist."""
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such folder or archive; check --root")
    return open_tree(root, options is not None and options.follow_links)
