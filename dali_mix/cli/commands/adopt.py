"""`dali-mix adopt FILE.rec…`: write the manifest, and a missing index, for .rec files written by other software."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from dali_mix._text import printable
from dali_mix.datasets.base import read_names
from dali_mix.recordio import RecordSet
from dali_mix.recordio.adopt import adopt
from dali_mix.recordio.summary import lines, summarize
from dali_mix.tasks import TASKS


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("rec", nargs="+", type=Path, help="the .rec file, or several in the order of their records")
    add(
        "--out",
        type=Path,
        metavar="PREFIX",
        help="the set's prefix, in the same folder (default: the .rec file's name without .rec)",
    )
    add("--task", choices=TASKS, help="kind of labels (default: inferred from the labels)")
    add("--classes", type=Path, metavar="FILE", help="class names in order, one per line (default: the class indices)")
    add("--reindex", action="store_true", help="rewrite an .idx that does not match; an existing manifest is kept")
    add("--renumber", action="store_true", help="number the records in their order, and use these numbers as ids")
    add("--skip-bad", action="store_true", help="leave out records without a readable image")
    add("--force", action="store_true", help="replace an existing manifest")
    add("--quiet", action="store_true", help="print only errors and notes")


def run(args: argparse.Namespace) -> int:
    """Write the manifest and a missing index of the set, print notices and, unless --quiet, a summary. Return 0."""
    classes = read_names(args.classes) if args.classes else None
    options = {name: getattr(args, name) for name in ("task", "reindex", "renumber", "skip_bad", "force")}
    with tqdm(unit="record", desc="adopt", disable=args.quiet or None) as bar:
        adopt(args.rec, args.out, classes=classes, progress=bar.update, **options)
    records = RecordSet(args.out or args.rec[0])
    for notice in records.info.report.get("notices", ()):
        print(printable(f"note: {notice}"), file=sys.stderr)
    if not args.quiet:
        print("\n".join(lines(summarize(records))))
    return 0
