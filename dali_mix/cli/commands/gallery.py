"""`dali-mix gallery PREFIX`: draw images of a packed set before and after mixing."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

DEFAULT, WITH_BOXES = "resizemix,cutmix,mixup,cutout", "boxresizemix,boxsplicemix"
_OWN = re.compile(r"[\w.]+:\w+(:|$)")  # module:name; not a bundled name, whose colon precedes option=value


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    mixers = (
        "mixers separated by commas, with options after colons, e.g. resizemix,mixup:alpha=0.2 (default: "
        f"{DEFAULT}; for a set with boxes: {WITH_BOXES}); "
        "module:name is a mixer of your own, from the current folder or an installed package; "
        "here the default alpha of mixup is 1, and the default size of cutout is half the image size"
    )
    outlines = "outline pasted and cut areas, and the cells of grids (default: yes)"
    add("prefix", help="the set: its path without .json")
    add("--mixers", help=mixers)
    add("--out", type=Path, required=True, help="the PNG to write")
    add("--rows", type=int, default=4, help="number of images (default: %(default)s)")
    add("--seed", type=int, default=0, help="random seed for choosing and mixing images (default: %(default)s)")
    add("--image-size", type=int, help="side of the images in pixels (default: depends on the set)")
    add("--boxes", action=argparse.BooleanOptionalAction, default=True, help=outlines)
    add(
        "--peaks",
        action="store_true",
        help="mark the most salient pixel of each image and of the area that SaliencyMix pasted",
    )
    add("--maps", action="store_true", help="add a column with the saliency map of each image")
    add("--title", help="heading (default: the set's name and size)")


def run(args: argparse.Namespace) -> int:
    from dali_mix import _factories
    from dali_mix.recordio import RecordSet
    from dali_mix.reports import gallery

    if args.mixers is None:
        args.mixers = WITH_BOXES if RecordSet(args.prefix).task.boxes else DEFAULT
    parts = re.split(r",(?![^(\[]*[)\]])", args.mixers)  # split at commas outside brackets
    mixers = [name.strip() for name in parts if name.strip()]
    if own := [name for name in mixers if _OWN.match(name)]:
        _factories.import_from(Path.cwd(), own)
    options = {name: getattr(args, name) for name in ("rows", "image_size", "seed", "boxes", "peaks", "maps", "title")}
    print(f"wrote {gallery(args.prefix, mixers, args.out, **options)}")
    return 0
