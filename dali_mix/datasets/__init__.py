"""Dataset layouts, one a file, and the parallel packer: what lies on disk becomes a set of records.

`find_layout(name)` finds a layout among ours and among those that installed packages offer by an entry point of the
group "dali_mix.datasets" (NAME = module:function).
"""

from __future__ import annotations

from importlib.metadata import entry_points

from dali_mix import _factories
from dali_mix.datasets.base import Layout, Listing, Options
from dali_mix.datasets.images import Transform
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
from dali_mix.datasets.packer import PackOptions, pack

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
"""The group of entry points in which a package announces layouts."""

__all__ = [
    "ENTRY_POINT_GROUP",
    "LAYOUTS",
    "Layout",
    "Listing",
    "Options",
    "PackOptions",
    "Transform",
    "find_layout",
    "layout_names",
    "pack",
]


def layout_names() -> list[str]:
    """Return the names of all layouts, ours and installed ones, sorted."""
    return sorted({*LAYOUTS, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def find_layout(name: str) -> Layout:
    """Return a layout by name, ours first. Raise ValueError if none has it, it does not load, or it is no function."""
    if name in LAYOUTS:
        return LAYOUTS[name]
    found, origin = _factories.installed(ENTRY_POINT_GROUP, "layout", name, LAYOUTS)
    if not callable(found):
        raise ValueError(f"{origin} is a {type(found).__name__}, not a function (root, split, options) -> Listing")
    return found
