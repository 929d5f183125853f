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
from dali_mix._text import counted, printable
from dali_mix.cli.arguments import Parser
from dali_mix.cli.bars import Bar
from dali_mix.cli.cluster import add_cluster, with_cluster
from dali_mix.datasets import Transform, layout_names, pack
from dali_mix.datasets.base import BAD_BOXES
from dali_mix.datasets.images.orientation import CHOICES
from dali_mix.datasets.images.transform import TARGETS
from dali_mix.recordio import RecordSet
from dali_mix.recordio.summary import lines, summarize
from dali_mix.tasks import TASKS

_SHOWN = 10
_PASSED_ON = set(inspect.signature(pack).parameters) - {"layout", "shuffle"}


def configure(parser: Parser) -> None:
    parser.instead_of_word = "--root"
    add = parser.add_argument
    add("layout", choices=layout_names(), help="how the files are organized")
    add("--root", type=Path, help="the dataset's folder or an archive of it (digits and digit-scenes need none)")
    add("--out", required=True, metavar="PREFIX", help="write PREFIX.rec, .idx, .npy and .json")
    add("--split", default="train", help="the split to pack (default: %(default)s)")
    add("--quiet", action="store_true", help="print only errors, notes and skipped images")
    _configure_reading(parser.add_argument_group("what is read").add_argument)
    _configure_writing(parser.add_argument_group("what is written").add_argument)


def _configure_reading(add: Callable[..., object]) -> None:
    add(
        "--list",
        type=Path,
        metavar="FILE",
        help="list, imagenet-val: the file with the labels (default: looked up in the root)",
    )
    names = "class names in order, one per line; voc: auto collects them from the annotations"
    add("--classes", type=Path, metavar="FILE|auto", help=names)
    add(
        "--task",
        choices=TASKS,
        help="kind of labels (default: voc, coco, digit-scenes: multilabel; yolo: detection; list: by its labels)",
    )
    add(
        "--years",
        type=_years,
        default=(),
        metavar="Y[,Y]",
        help="voc: years to pack, e.g. 2007,2012; coco: one year (default: the only year found)",
    )
    unlabelled = (
        "keep or drop images without labels (default: drop for multi-label coco, nus-wide and vg500, else keep)"
    )
    add("--unlabelled", choices=("keep", "drop"), help=unlabelled)
    share = "for data without a split val: use the fraction F of each class as val, and the rest as train"
    add("--val-share", type=float, metavar="F", help=share)
    folders = "imagefolder: whether the root has a folder per split, root/SPLIT/CLASS (default: auto, by the folders)"
    add("--split-folders", choices=("auto", "yes", "no"), help=folders)
    add("--follow-links", action="store_true", help="follow symbolic links that leave the root, if you trust them")
    boxes = "voc, coco, yolo, list, wider: boxes refer to images rotated by EXIF (apply, default) or as stored (ignore)"
    add("--exif", choices=CHOICES, help=boxes)
    bad = "voc, coco, yolo, list: boxes that exceed or lie outside their image: error (default), clip or drop them"
    add("--bad-boxes", choices=BAD_BOXES, help=bad)
    add("--scenes", type=int, metavar="N", help="digit-scenes: number of scenes (default: train 2000, val 500)")
    add("--seed", type=int, default=0, metavar="S", help="digit-scenes: seed of the scenes (default: %(default)s)")
    add("--download", action="store_true", help="cifar10, cifar100: download the set into the root, with torchvision")
    add(
        "--max-pixels",
        type=int,
        default=Transform.max_pixels,
        metavar="N",
        help="refuse images with more than N pixels (default: %(default)s)",
    )
    check = "header (default) checks the dimensions and the end of each image; decode also its pixels (slower)"
    add("--check", choices=("header", "decode"), default="header", help=check)
    add("--skip-bad", action="store_true", help="skip unreadable images and list them in the manifest")


def _configure_writing(add: Callable[..., object]) -> None:
    add("--resize", type=int, metavar="SHORTER_SIDE", help="shrink images to a shorter side of at most this length")
    add("--max-side", type=int, metavar="N", help="shrink images to a longer side of at most N pixels")
    add("--quality", type=int, default=95, help="quality of re-encoded JPEGs (default: %(default)s)")
    add("--encoding", choices=TARGETS, default="keep", help="keep (default) stores files unchanged where possible")
    add("--shuffle", type=int, metavar="SEED", help="shuffle with this seed (default for training splits: 0)")
    add("--no-shuffle", action="store_true", help="keep the order in which files are listed")
    add("--shards", type=int, default=1, metavar="N", help="write N .rec files (default: %(default)s)")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="threads (default: one per core; with --cluster, one per shard); the packed bytes do not depend on it",
    )
    add("--force", action="store_true", help="replace an existing set")
    add_cluster(add, "write")


def _years(text: str) -> tuple[str, ...]:
    years = tuple(text.split(","))
    if not all(len(year) == 4 and year.isdigit() for year in years) or len(set(years)) < len(years):
        raise argparse.ArgumentTypeError(f"{text!r} is not a comma-separated list of distinct years, such as 2007,2012")
    return years


def run(args: argparse.Namespace) -> int:
    """Pack the dataset, print a summary of the set, and return the exit status: 0, or 1 if the pool of --cluster ends.

    Raise ValueError for --shuffle with --no-shuffle, and the errors of `datasets.pack` and `service.connect`.
    """
    if args.no_shuffle and args.shuffle is not None:
        raise ValueError("--shuffle takes a seed of at least 0, and excludes --no-shuffle")
    return with_cluster("pack", args, partial(_pack, args))


def _pack(args: argparse.Namespace, machines: Machines | None) -> int:
    shuffle = False if args.no_shuffle else args.shuffle
    others = {name: value for name, value in vars(args).items() if name in _PASSED_ON}
    start = time.perf_counter()
    with Bar("pack", "img", shown=not args.quiet, leave=True) as bar:
        pack(args.layout, **others, shuffle=shuffle, machines=machines, each=bar.reach, note=_print_notice)
    _print_results(RecordSet(args.out), time.perf_counter() - start, quiet=args.quiet)
    return 0


def _print_notice(notice: str) -> None:
    print(printable(f"note: {notice}"), file=sys.stderr)


def _print_results(records: RecordSet, seconds: float, *, quiet: bool) -> None:
    if not quiet:
        print("\n".join(lines(summarize(records))))
    skipped = records.info.report["skipped"]
    for entry in skipped[:_SHOWN]:
        print(f"skipped {entry['file']}: {entry['reason']}")
    if len(skipped) > _SHOWN:
        print(f"skipped {len(skipped) - _SHOWN} more: see 'report' in {records.prefix}.json")
    if quiet:
        return
    for reason, count in records.info.report.get("normalized", {}).items():
        images = counted(count, "image was", "images were")
        print(f"{images} re-encoded, as PNG or as requested, since decoders disagree on {reason}")
    rate = (len(records) + len(skipped)) / seconds
    skips = f" packed, {len(skipped):,} skipped," if skipped else ""
    print(printable(f"{records.prefix}: {len(records):,} images{skips} in {seconds:.1f} s, {rate:,.0f} images/s"))
