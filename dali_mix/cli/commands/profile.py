"""`dali-mix profile`: show where a loader, or a run whose recipe sets `profile`, spends its time."""

from __future__ import annotations

import argparse
import json
import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from dali_mix.options import number, whole

WARM_UP = 8  # batches before timing starts, while DALI starts up and decodes ahead


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("what", metavar="PREFIX", help="a packed set, or the work directory of a run with `profile` in its recipe")
    add("--pipeline", default="imagenet", help="name of the pipeline (default: %(default)s)")
    add(
        "--pipeline-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="options of the pipeline, e.g. image_size=176",
    )
    add("--batch-size", type=int, default=64, metavar="N", help="records per batch (default: %(default)s)")
    add("--num-threads", type=int, metavar="N", help="DALI's threads (default: the cores available to this process)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--evaluate", action="store_true", help="use the pipeline for evaluation instead of training")
    add(
        "--service",
        metavar="ADDRESS",
        help="decode in a pool of workers (`dali-mix serve`): HOST:PORT, or auto for the pool on this machine",
    )
    add("--seconds", type=float, default=10.0, metavar="S", help="duration in seconds (default: %(default)g)")
    add("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    add("--out", type=Path, metavar="PNG", help="draw the figures as a bar chart")


def run(args: argparse.Namespace) -> int:
    from dali_mix.engine.checkpoint.files import check_out, json_text, write_text

    if args.json is not None:
        check_out("--json", args.json)
    written = Path(args.what) / "profile" / "profile.json"
    if Path(args.what).is_dir():
        if not written.is_file():
            raise FileNotFoundError(
                f"{written} does not exist: train with --cfg-options profile.first=10 for at least as many steps, or"
                " pass the path of a packed set"
            )
        found = _read(written)
    else:
        found = _of_loader(args)
    total = sum(found["milliseconds"].values())
    print(f"{found['what']}: milliseconds per batch")
    for name, value in found["milliseconds"].items():
        print(f"  {name:<10} {value:9.2f}  {value / max(total, 1e-9):6.1%}")
    print(f"{found['images_per_second']:,.0f} images per second; limited by {found['limit']}")
    if args.json is not None:
        write_text(args.json, json_text(found, indent=2) + "\n")
    if args.out is not None:
        from dali_mix.reports import profile

        print(f"wrote {profile(found, args.out)}")
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}): train with `profile` again") from None
    return found


def _of_loader(args: argparse.Namespace) -> dict[str, Any]:
    """Load `WARM_UP` batches, then measure for --seconds. Return the figures as the dict `found` of `reports.profile`.

    Raise ValueError unless --seconds is from 0.1 to 3600 and --batch-size at least 1.
    """
    from dali_mix.engine.config.recipe_files import parse_option
    from dali_mix.loading import build_loader
    from dali_mix.loading.stats import LOADING

    number("--seconds", args.seconds, 0.1, 3600)
    whole("--batch-size", args.batch_size, 1)
    workers = None
    if args.service is not None:
        from dali_mix.service import connect

        workers = connect(args.service)
    loader = build_loader(
        args.pipeline,
        args.what,
        batch_size=args.batch_size,
        train=not args.evaluate,
        device=args.device,
        num_threads=args.num_threads,
        pipeline_options=dict(parse_option(option, "--pipeline-options") for option in args.pipeline_options),
        workers=workers,
    )
    with closing(loader):
        loaded, end = 0, math.inf
        while time.monotonic() < end:
            for _ in loader:
                loaded += 1
                if loaded == WARM_UP:
                    loader.stats(reset=True)
                    end = time.monotonic() + args.seconds
                if time.monotonic() > end:
                    break
        stats = loader.stats()
    parts = {name: 1000 * getattr(stats, name) / max(stats.batches, 1) for name in LOADING}
    kind = "evaluation" if args.evaluate else "training"
    return {
        "what": f"{args.what}, {args.pipeline} for {kind}, batches of {args.batch_size} on {loader.device}",
        "milliseconds": parts,
        "images_per_second": stats.images_per_second,
        "limit": stats.limit,
    }
