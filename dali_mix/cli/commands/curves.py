"""`dali-mix curves WORK_DIR`: plot the learning curves of a run."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("metrics", metavar="WORK_DIR", type=Path, help="work directory of a run, or its metrics.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--title", help="heading (default: the run's name and result)")


def run(args: argparse.Namespace) -> int:
    from dali_mix.reports import curves

    print(f"wrote {curves(args.metrics, args.out, title=args.title)}")
    return 0
