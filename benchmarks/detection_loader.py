"""The detection loader on a CPU, compared with DALI's own operators, torchvision v2 and torchvision's references.

usage: python benchmarks/detection_loader.py [--images FOLDER] [--turns 7] [--threads 2]
         [--out docs/benchmarks/detection_loader.json]

All loaders read the same JPEGs, as in loader.py, with three boxes each, and produce batches of 8: shorter side 600,
longer side at most 1,000 pixels, flip, normalize, pad. Also prints the share of pixels in our batches that is not
padding, with and without batches of one orientation.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _compare import environment, report, table, take_turns, write_json
from _detection_peers import LOADERS
from loader import HERE, RECORDS, SETTLE, Contestant, add_images, originals

from dali_mix import build_loader, pipelines
from dali_mix.recordio import write_set


def prepare(work: Path, args: argparse.Namespace) -> Path:
    """Write the images as files and as a record set; return the settings file that the loaders read."""
    work.mkdir(parents=True, exist_ok=True)
    files, jpegs = [], originals(args.images)
    for number, jpeg in enumerate(jpegs):
        path = work / f"{number:04}.jpg"
        path.write_bytes(jpeg)
        files.append(str(path))
    random = np.random.default_rng(0)
    low = random.uniform(0, 0.5, (len(files), 3, 2))
    boxes = np.concatenate([low, low + random.uniform(0.1, 0.5, low.shape)], axis=2)
    repeated = [number % len(files) for number in range(RECORDS)]
    samples = []
    for number in repeated:
        rows = np.column_stack([np.zeros(3), boxes[number], np.zeros(3)])
        samples.append((jpegs[number], [2, 6, *rows.ravel().tolist()]))
    prefix = work / "records"
    write_set(prefix, samples, task="detection", classes=["object"], force=True)
    settings = {
        "prefix": str(prefix),
        "files": [files[number] for number in repeated],
        "boxes": boxes[repeated].tolist(),
    }
    settings |= {"shorter": 600, "longest": 1000, "batch_size": args.batch_size, "threads": args.threads}
    (work / "settings.json").write_text(json.dumps(settings))
    return work / "settings.json"


def fill(settings: dict[str, Any], grouped: bool) -> float:
    """Load one training epoch and return the share of the pixels in its batches that is not padding.

    With `grouped`, each batch contains images of one orientation.
    """
    pipeline = pipelines.build("detection", True, {"shorter": settings["shorter"], "longest": settings["longest"]})
    pipeline.one_orientation = grouped
    loader = build_loader(
        pipeline, settings["prefix"], batch_size=settings["batch_size"], train=True, device="cpu", drop_last=True
    )
    valid = total = 0
    for batch in loader:
        valid += sum(target["size"][0] * target["size"][1] for target in batch.targets)
        total += batch.images[:, 0].numel()
    return valid / total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images(parser)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--batches", type=int, default=20, help="batches per measurement")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "benchmarks" / "detection_loader")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "benchmarks" / "detection_loader.json")
    args = parser.parse_args()

    path = prepare(args.work, args)
    settings = json.loads(path.read_text())
    fills = {name: round(fill(settings, grouped), 3) for name, grouped in (("one orientation", True), ("any", False))}
    contestants: dict[str, Contestant] = {}
    try:
        for name in LOADERS:
            contestants[name] = Contestant(name, sys.executable, path, args.batches, "_detection_peers.py")
            first = contestants[name].first
            assert first["shape"][0] == args.batch_size and max(first["shape"][2:]) <= 1024, (name, first)
        time.sleep(SETTLE)
        rates = take_turns(contestants, args.turns)
    finally:
        for contestant in contestants.values():
            contestant.close()
    print(f"shorter side 600, batch {args.batch_size}, {args.threads} threads, {args.turns} turns")
    print(table(rates, "ours", "images/s"))
    print(f"pixels that are not padding: {fills}")
    results = {
        "environment": environment(["nvidia-dali-cuda120", "torch", "torchvision", "pillow", "numba", "numpy"]),
        "settings": {"batch_size": args.batch_size, "threads": args.threads, "turns": args.turns},
        "fill": fills,
        **report(rates, "ours"),
    }
    write_json(args.out, results)
    print(f"\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
