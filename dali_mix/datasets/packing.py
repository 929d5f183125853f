"""Pack one split of a dataset in a known layout, for `dali_mix.pack` and the command `dali-mix pack`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from dali_mix import _factories, tasks
from dali_mix._keywords import in_keywords, keywords
from dali_mix._machines import Machines
from dali_mix.datasets.archives import check_slices
from dali_mix.datasets.base import Layout, Listing, Options
from dali_mix.datasets.images.transform import Transform
from dali_mix.datasets.layouts.cifar import cifar10, cifar100
from dali_mix.datasets.layouts.coco import coco
from dali_mix.datasets.layouts.digit_scenes import digit_scenes
from dali_mix.datasets.layouts.digits import digits
from dali_mix.datasets.layouts.imagefolder import imagefolder
from dali_mix.datasets.layouts.imagenet_val import imagenet_val
from dali_mix.datasets.layouts.listfile import list_file
from dali_mix.datasets.layouts.nus_wide import nus_wide
from dali_mix.datasets.layouts.tiny_imagenet import tiny_imagenet
from dali_mix.datasets.layouts.vg500 import vg500
from dali_mix.datasets.layouts.voc import voc
from dali_mix.datasets.layouts.wider import wider
from dali_mix.datasets.layouts.yolo import yolo
from dali_mix.datasets.packer import PackOptions, pack_listing
from dali_mix.options import as_path, choice, flag, number
from dali_mix.recordio import SetInfo

LAYOUTS: dict[str, Layout] = {
    "imagefolder": imagefolder,
    "imagenet-val": imagenet_val,
    "tiny-imagenet": tiny_imagenet,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "voc": voc,
    "coco": coco,
    "yolo": yolo,
    "nus-wide": nus_wide,
    "vg500": vg500,
    "wider": wider,
    "list": list_file,
    "digits": digits,
    "digit-scenes": digit_scenes,
}
"""The bundled layouts by name."""

ENTRY_POINT_GROUP = "dali_mix.datasets"
"""The entry point group for layouts of installed packages."""

_log = logging.getLogger(__name__)
_ROOTLESS = ("digits", "digit-scenes")
_ONLY_FOR = {
    "list": ("list", "imagenet-val"),
    "years": ("voc", "coco"),
    "split_folders": ("imagefolder",),
    "val_share": ("imagefolder", "list", "voc", "coco", "yolo"),
    "exif": ("voc", "coco", "yolo", "list", "wider"),
    "bad_boxes": ("voc", "coco", "yolo", "list"),
    "unlabelled": ("voc", "coco", "yolo", "nus-wide", "vg500"),
    "scenes": ("digit-scenes",),
    "seed": ("digit-scenes",),
}
_Path = str | os.PathLike[str]


def layout_names() -> list[str]:
    """Return the names of all layouts, bundled and installed, sorted."""
    return sorted({*LAYOUTS, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def find_layout(name: str) -> Layout:
    """Return a layout by name, bundled ones first.

    Raise ValueError if it is unknown, cannot be imported, or is not callable.
    """
    if name in LAYOUTS:
        return LAYOUTS[name]
    found, origin = _factories.installed(ENTRY_POINT_GROUP, "layout", name, LAYOUTS)
    if not callable(found):
        raise ValueError(f"{origin} is a {type(found).__name__}, not a function (root, split, options) -> Listing")
    return found


@keywords
def pack(
    layout: str,
    *,
    out: _Path,
    root: _Path | None = None,
    split: str = "train",
    list: _Path | None = None,
    classes: _Path | Iterable[str] | None = None,
    task: str | None = None,
    years: Iterable[str | int] = (),
    unlabelled: str | None = None,
    val_share: float | None = None,
    split_folders: str | None = None,
    follow_links: bool = False,
    exif: str | None = None,
    bad_boxes: str | None = None,
    scenes: int | None = None,
    seed: int = 0,
    download: bool = False,
    max_pixels: int = Transform.max_pixels,
    check: str = "header",
    skip_bad: bool = False,
    resize: int | None = None,
    max_side: int | None = None,
    quality: int = Transform.quality,
    encoding: str = "keep",
    shuffle: int | bool | None = None,
    shards: int = 1,
    workers: int | None = None,
    force: bool = False,
    machines: Machines | None = None,
    each: Callable[[int, int], object] | None = None,
    note: Callable[[str], object] | None = None,
) -> SetInfo:
    """Pack one split of a dataset, like the command `dali-mix pack LAYOUT`. The keywords are the command's options.

    `dali-mix pack --help` describes those that are not listed here. If an exception is raised, no incomplete set is
    left behind.

    Args:
        layout: how the files are organized: "imagefolder", "coco", "voc", …; see docs/packing.md.
        out: prefix of the set; PREFIX.rec, .idx, .npy and .json are written.
        root: the dataset's folder, or an archive of it.
        list: the label file, for "list" and "imagenet-val".
        classes: class names in order, or a file with one per line; for "voc" also "auto".
        shuffle: a seed; False keeps the listed order; None shuffles training splits with seed 0.
        machines: machines that pack the shards, such as `dali_mix.service.RayMachines`; default: this one only.
        each: called as each(done, total) with numbers of images.
        note: called with each notice about the data; by default notices are logged as warnings.

    Returns:
        The manifest: `count`, `classes`, `report` (what was skipped, clipped, left out) and more.

    Raises:
        ValueError, FileNotFoundError: an invalid option or image, or mistakes in the annotations (up to 20, one per
            line).
        TypeError: an unknown keyword.
        FileExistsError: the set exists, and `force` is not set.
        OSError: the set cannot be written.
    """
    out = as_path("out", out)
    choice("check", check, ("header", "decode"))
    flag("download", download)
    if val_share is not None:
        number("val_share", val_share)
    for what, name in (("layout", layout), ("split", split)):
        if not isinstance(name, str):
            raise ValueError(f"{what}={name!r:.40}: must be the name of a {what}")
    transform = Transform(resize, max_side, quality, encoding, max_pixels, decode=check == "decode")
    how = PackOptions(transform, None if shuffle is False else shuffle, shards, workers, skip_bad, force, exif)
    reading: dict[str, Any] = {
        "task": task,
        "years": tuple(map(str, years if isinstance(years, Iterable) and not isinstance(years, str) else (years,))),
        "unlabelled": unlabelled,
        "val_share": val_share,
        "split_folders": split_folders,
        "follow_links": follow_links,
        "exif": exif,
        "bad_boxes": bad_boxes,
        "scenes": scenes,
        "seed": seed,
    }
    _check_layout(layout, root, classes, {**reading, "list": list})
    if download:
        _download(layout, root)
    folder = Path() if root is None else as_path("root", root)
    if machines is not None:
        check_slices(folder)  # before unpacking it
    options = Options(
        list_file=None if list is None else as_path("list", list),
        classes_file=Path(classes) if isinstance(classes, (str, os.PathLike)) else _names(classes),
        **{name: value for name, value in reading.items() if value is not None},
    )
    read = find_layout(layout)
    with options.mistakes.together(images=not skip_bad):
        listing = read(folder, split, options)
    if not isinstance(listing, Listing):
        raise ValueError(f"layout {layout} returned a {type(listing).__name__}, not a Listing; correct its function")
    if task not in (None, listing.task):
        raise ValueError(f"layout {layout} is for --task {listing.task}, not {task}")
    if bad_boxes and not tasks.get(listing.task).boxes:
        raise ValueError(f"--bad-boxes is for boxes, and {listing.task} labels have none: leave it out")

    def notify(notice: str) -> None:
        text = in_keywords(notice)
        note(text) if note else _log.warning("%s", text)

    notices = listing.report.get("notices", [])
    for notice in notices:
        notify(notice)
    if shuffle is None and listing.training:
        how = replace(how, shuffle=0)
    done, total = 0, len(listing.names)

    def progress(more: int) -> None:
        nonlocal done
        done += more
        if each is not None:
            each(done, total)

    info = pack_listing(listing, out, how, progress, machines)
    for notice in info.report.get("notices", [])[len(notices) :]:
        notify(notice)
    return info


def _names(classes: Iterable[str] | None) -> tuple[str, ...] | None:
    """Return `classes` as a tuple, or None if it is None.

    Raise ValueError if it has no names, or if a name is empty, a duplicate or not a string.
    """
    if classes is None:
        return None
    names = tuple(classes) if isinstance(classes, Iterable) else ()
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"classes={list(names) or classes!r:.80}: give names, each once, or the file that lists them")
    return names


def _check_layout(layout: str, root: _Path | None, classes: Any, options: dict[str, Any]) -> None:
    """Raise ValueError if `root` is missing, or if the layout does not use an option that is set.

    For a layout of another package, only `root` is checked.
    """
    if root is None and layout not in _ROOTLESS:
        raise ValueError(f"layout {layout} needs --root")
    if root is not None and layout in _ROOTLESS:
        raise ValueError(f"layout {layout} reads scikit-learn's scans, no files: leave --root out")
    if classes is not None and layout in _ROOTLESS:
        raise ValueError(f"layout {layout} has the classes 0 to 9: leave --classes out")
    for option, layouts in _ONLY_FOR.items() if layout in LAYOUTS else ():
        if options[option] and layout not in layouts:
            name = option.replace("_", "-")
            raise ValueError(f"--{name} is for {', '.join(layouts)}, not {layout}: leave it out")


def _download(layout: str, root: _Path | None) -> None:
    if layout not in ("cifar10", "cifar100"):
        raise ValueError(f"--download is for cifar10 and cifar100, not {layout}")
    from torchvision.datasets import CIFAR10, CIFAR100  # imported here because it imports torch
    from torchvision.datasets.utils import download_url

    kind = CIFAR10 if layout == "cifar10" else CIFAR100
    try:
        # Download only the archive and check its md5. torchvision's dataset class would also unpickle it.
        download_url(kind.url, str(root), filename=kind.filename, md5=kind.tgz_md5)
    except (RuntimeError, OSError) as error:
        raise OSError(f"{root}: download of {layout} failed: {error}; try again, or fetch {kind.url} by hand") from None
