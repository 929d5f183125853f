"""`dali-mix verify PREFIX…`: check every byte of packed sets against their manifests."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from tqdm import tqdm

from dali_mix._machines import Machines
from dali_mix._text import printable
from dali_mix.cli.cluster import add_cluster, with_cluster
from dali_mix.recordio.manifest import read_info, set_prefix
from dali_mix.recordio.verify import verify_set


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", nargs="+", help="the set: its path without .json")
    slow = "also decode every image, which finds images damaged before packing (slow)"
    parser.add_argument("--decode", action="store_true", help=slow)
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N", help="stop after N problems (default: %(default)s)"
    )
    add_cluster(parser.add_argument, "check")
    parser.add_argument("--quiet", action="store_true", help="print only problems")


def run(args: argparse.Namespace) -> int:
    """Print the problems to stderr, up to --limit per set. Return the exit status: 1 if there are any, else 0."""
    return with_cluster("verify", args, partial(_verify, args))


def _verify(args: argparse.Namespace, machines: Machines | None) -> int:
    decode = None
    if args.decode:
        from dali_mix.datasets.images.decoding import decoded_size

        decode = decoded_size
    failed = False
    for prefix in args.prefix:
        prefix = str(set_prefix(prefix))
        problems, total = 0, None
        with suppress(OSError, ValueError):  # verify_set reports it
            total = read_info(Path(prefix + ".json")).count
        with (
            tqdm(total=total, unit="record", desc="verify", disable=args.quiet or None) as bar,
            closing(verify_set(prefix, decode=decode, progress=bar.update, machines=machines)) as found,
        ):
            for problem in found:
                problems += 1
                bar.write(printable(f"dali-mix verify: error: {problem}"), file=sys.stderr)
                if problems >= args.limit:
                    bar.write(f"dali-mix verify: stopped after {problems} problems (--limit)", file=sys.stderr)
                    break
        if not problems and not args.quiet:
            print(printable(f"{prefix}: {total:,} records are intact"))
        failed |= problems > 0
    return int(failed)
