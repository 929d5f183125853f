"""`dali-mix pack LAYOUT --root R --out PREFIX --split S`: pack a dataset into records with a manifest."""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dali_mix._machines import Machines
from dali_mix._text import printable
from dali_mix.cli.bars import Bar
from dali_mix.cli.cluster import add_cluster, with_cluster
from dali_mix.datasets import Transform, layout_names, pack
from dali_mix.datasets.images import TARGETS
from dali_mix.datasets.turns import CHOICES
from dali_mix.recordio import RecordSet
from dali_mix.recordio.summary import lines, summarize
from dali_mix.tasks import TASKS

_SHOWN = 10
_PASSED_ON = set(inspect.signature(pack).parameters) - {"layout", "shuffle"}


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("layout", choices=layout_names(), help="how the files lie")
    add("--root", type=Path, help="the dataset's folder or an archive of it (digits and digit-scenes need none)")
    add("--out", required=True, metavar="PREFIX", help="write PREFIX.rec, .idx, .npy and .json")
    add("--split", default="train", help="which split (train)")
    add("--quiet", action="store_true", help="no progress bar")
    _configure_reading(parser.add_argument_group("what is read").add_argument)
    _configure_writing(parser.add_argument_group("what is written").add_argument)


def _configure_reading(add: Callable[..., object]) -> None:
    add("--list", type=Path, metavar="FILE", help="list, imagenet-val: the file of labels (found in the root)")
    add("--classes", type=Path, metavar="FILE|auto", help="class names in order, one a line; voc: auto finds them")
    add(
        "--task",
        choices=TASKS,
        help="what the labels are (voc, coco, digit-scenes: multilabel; yolo: detection; list: by its labels)",
    )
    add("--years", type=_years, default=(), metavar="Y[,Y]", help="voc, coco: e.g. 2007,2012 (the one that is there)")
    unlabelled = "images without labels (dropped by multi-label coco, nus-wide and vg500, else kept)"
    add("--unlabelled", choices=("keep", "drop"), help=unlabelled)
    share = "no split val is there: share F of the split train (of each class) becomes --split val, the rest train"
    add("--val-share", type=float, metavar="F", help=share)
    folders = "imagefolder: whether the root has a folder for each split: root/SPLIT/CLASS (by what is there)"
    add("--split-folders", choices=("auto", "yes", "no"), help=folders)
    add("--follow-links", action="store_true", help="follow symbolic links that leave the root, if you trust them")
    boxes = "voc, coco, yolo, list, wider: boxes are for images turned by EXIF (apply, default) or as stored (ignore)"
    add("--exif", choices=CHOICES, help=boxes)
    add("--scenes", type=int, metavar="N", help="digit-scenes: how many (train 2000, val 500)")
    add("--seed", type=int, default=0, metavar="S", help="digit-scenes: of what is drawn (0)")
    add("--download", action="store_true", help="cifar10, cifar100: fetch it into the root through torchvision")
    add("--max-pixels", type=int, default=Transform.max_pixels, metavar="N", help="refuse larger images (%(default)s)")
    check = "header (default): dimensions and end of each image, not damage between; decode: the pixels too (slower)"
    add("--check", choices=("header", "decode"), default="header", help=check)
    add("--skip-bad", action="store_true", help="leave unreadable images out and list them in the manifest")


def _configure_writing(add: Callable[..., object]) -> None:
    add("--resize", type=int, metavar="SHORTER_SIDE", help="make the shorter side this long; never enlarges")
    add("--max-side", type=int, metavar="N", help="make the longer side at most this long")
    add("--quality", type=int, default=95, help="of JPEGs that are encoded here (95)")
    add("--encoding", choices=TARGETS, default="keep", help="keep (default) stores files as they are if it can")
    add("--shuffle", type=int, metavar="SEED", help="shuffle (training splits: by default, with seed 0)")
    add("--no-shuffle", action="store_true", help="keep the listed order")
    add("--shards", type=int, default=1, metavar="N", help="write N .rec files (1)")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="threads (by the cores; with --cluster 1 a shard); the bytes are the same for any number",
    )
    add("--force", action="store_true", help="replace an existing set")
    add_cluster(add, "write")


def _years(text: str) -> tuple[str, ...]:
    years = tuple(text.split(","))
    if not all(len(year) == 4 and year.isdigit() for year in years) or len(set(years)) < len(years):
        raise argparse.ArgumentTypeError(f"{text!r} is not a year, or years with commas between: 2007,2012")
    return years


def run(args: argparse.Namespace) -> int:
    """Pack and print the set's figures."""
    if args.no_shuffle and args.shuffle is not None:
        raise ValueError("--shuffle takes a seed of at least 0, and excludes --no-shuffle")
    return with_cluster("pack", args, partial(_pack, args))


def _pack(args: argparse.Namespace, machines: Machines | None) -> int:
    shuffle = False if args.no_shuffle else args.shuffle
    others = {name: value for name, value in vars(args).items() if name in _PASSED_ON}
    start = time.perf_counter()
    with Bar("pack", "img", shown=not args.quiet, leave=True) as bar:
        inspect.unwrap(pack)(
            args.layout, **others, shuffle=shuffle, machines=machines, each=bar.reach, note=_print_notice
        )
    _print_summary(args.out, time.perf_counter() - start)
    return 0


def _print_notice(notice: str) -> None:
    print(printable(f"note: {notice}"), file=sys.stderr)


def _print_summary(prefix: str, seconds: float) -> None:
    records = RecordSet(prefix)
    print("\n".join(lines(summarize(records))))
    skipped = records.info.report["skipped"]
    for entry in skipped[:_SHOWN]:
        print(f"skipped {entry['file']}: {entry['reason']}")
    if len(skipped) > _SHOWN:
        print(f"skipped {len(skipped) - _SHOWN} more: see 'report' in {records.prefix}.json")
    for reason, count in records.info.report.get("normalized", {}).items():
        print(f"{count:,} images stored as PNG or as asked, in one turn, size and colours: decoders differ on {reason}")
    rate = (len(records) + len(skipped)) / seconds
    skips = f" packed, {len(skipped):,} skipped," if skipped else ""
    print(printable(f"{records.prefix}: {len(records):,} images{skips} in {seconds:.1f} s, {rate:,.0f} images/s"))
