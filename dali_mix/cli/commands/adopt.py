"""`dali-mix adopt FILE.rec…`: a manifest, and an index when missing, for what something else wrote."""

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
    """Adds the arguments."""
    parser.add_argument("rec", nargs="+", type=Path, help="the .rec file, or several in the order they are read")
    parser.add_argument(
        "--out", type=Path, metavar="PREFIX", help="the set's prefix, in the same folder (FILE without .rec)"
    )
    parser.add_argument("--task", choices=TASKS, help="what the labels are (taken from them)")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class names, one a line (the numbers)")
    parser.add_argument(
        "--reindex",
        action="store_true",
        help="rewrite an .idx that does not match; a manifest that is there stays",
    )
    parser.add_argument("--renumber", action="store_true", help="number the records where their ids repeat")
    parser.add_argument("--skip-bad", action="store_true", help="pass over records without a readable image")
    parser.add_argument("--force", action="store_true", help="replace an existing manifest")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Adopts and prints the set's figures."""
    classes = read_names(args.classes) if args.classes else None
    with tqdm(unit="record", desc="adopt", disable=args.quiet or None) as bar:
        adopt(
            args.rec,
            args.out,
            task=args.task,
            classes=classes,
            reindex=args.reindex,
            renumber=args.renumber,
            skip_bad=args.skip_bad,
            force=args.force,
            progress=bar.update,
        )
    records = RecordSet(args.out or args.rec[0])
    for notice in records.info.report.get("notices", ()):
        print(printable(f"note: {notice}"), file=sys.stderr)
    print("\n".join(lines(summarize(records.info, records.table))))
    return 0
