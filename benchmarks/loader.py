"""The training loader on a CPU, compared with DALI's own graph, torchvision with PIL, SPDL and FFCV.

usage: python benchmarks/loader.py [--images FOLDER] [--turns 7] [--threads 2]
         [--sets original longer500 shorter256 raw256]
         [--ffcv-python PYTHON] [--out docs/benchmarks/loader.json]

All loaders read the same images, repeated to 1,000 records: the JPEGs of a folder (--images or DALI_MIX_BENCH_IMAGES),
by default crops of scikit-learn's two photographs in several sizes. The sets contain the images unchanged, scaled down,
or scaled down and stored as raw pixels. Batches are 64 float32 images of 224 × 224: random-resized crop, flip,
normalize.

Every loader runs in its own process and is measured in turn, in mid-stream. Ratios are computed within a turn (see
_compare.py). "decoder alone" runs only DALI's decoder, on windows drawn like ours; our loader cannot be faster. SPDL is
included if installed, FFCV if --ffcv-python or DALI_MIX_FFCV_PYTHON names a Python that has it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _compare import environment, report, table, take_turns, write_json
from PIL import Image

from dali_mix.recordio import write_set

HERE = Path(__file__).resolve().parent
RECORDS = 1000
SETTLE = 0.4  # seconds for a contestant to fill its queues before the next one is timed
SKIP = 6  # batches before the clock starts: more than any loader prefetches
PEERS = ["ours", "ours, stock ops", "decoder alone", "stock DALI", "torchvision + PIL", "SPDL", "FFCV"]


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add the option --images to `parser`."""
    folder = "JPEGs to use, at any depth (default: DALI_MIX_BENCH_IMAGES, else scikit-learn's two photographs)"
    default = os.environ.get("DALI_MIX_BENCH_IMAGES")
    parser.add_argument("--images", type=Path, metavar="FOLDER", default=default, help=folder)


def originals(folder: Path | None) -> list[bytes]:
    """Return the JPEGs of a folder; without one, 40 crops of scikit-learn's two photographs in several sizes."""
    if folder is not None:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        if not paths:
            raise SystemExit(f"{folder}: contains no .jpg or .jpeg files: choose another folder with --images")
        return [path.read_bytes() for path in paths]
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    pieces = []
    for photograph in load_sample_images().images * 20:
        top, left = rng.integers(0, 120, 2)
        pieces.append(_jpeg(Image.fromarray(photograph[top:, left:]), 92))
    return pieces


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def scaled(jpeg: bytes, side: int, shorter: bool, raw: bool = False) -> bytes:
    """Return the image resized to a shorter or longer side of `side`, as a JPEG of quality 90 or, if `raw`, a PPM.

    If `shorter` is False, an image whose longer side is at most `side` is returned unchanged.
    """
    image = Image.open(io.BytesIO(jpeg))
    ratio = side / (min(image.size) if shorter else max(image.size))
    if not shorter and ratio >= 1:
        return jpeg
    size = tuple(max(1, round(length * ratio)) for length in image.size)
    resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    return b"P6 %d %d 255\n" % size + resized.tobytes() if raw else _jpeg(resized, 90)


SETS: dict[str, Callable[[bytes], bytes]] = {
    "original": lambda jpeg: jpeg,
    "longer500": lambda jpeg: scaled(jpeg, 500, shorter=False),
    "shorter256": lambda jpeg: scaled(jpeg, 256, shorter=True),
    "raw256": lambda jpeg: scaled(jpeg, 256, shorter=True, raw=True),
}


def prepare(name: str, jpegs: list[bytes], work: Path, args: argparse.Namespace) -> Path:
    """Write the images as files and as a record set; return the settings file that the loaders read."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, image in enumerate(SETS[name](jpeg) for jpeg in jpegs):
        path = folder / f"{number:04}{'.ppm' if image.startswith(b'P6') else '.jpg'}"
        path.write_bytes(image)
        files.append(str(path))
    files = [files[position % len(files)] for position in range(RECORDS)]
    prefix = folder / "records"
    write_set(prefix, [(Path(file).read_bytes(), 0) for file in files], classes=["image"], force=True)
    prefix.with_suffix(".beton").unlink(missing_ok=True)
    settings = {"prefix": str(prefix), "files": files, "size": args.size, "batch_size": args.batch_size}
    path = folder / "settings.json"
    path.write_text(json.dumps(settings | {"threads": args.threads}))
    return path


class Contestant:
    """A process that runs the loader `name` of `script` and is measured when called.

    The constructor starts the process and waits for the first batch. The attribute `first` is a dict of that batch's
    "shape", "mean", "std" and "dtype".
    """

    def __init__(self, name: str, python: str, settings: Path, batches: int, script: str = "_loader_peers.py") -> None:
        self.name = name
        self.batches = batches
        command = [python, str(HERE / script), name, str(settings)]
        self.log = settings.with_name(f"{name}.log").open("w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.first = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{self.name} ended early:\n{self.log.read()[-3000:]}")
        return json.loads(line)

    def __call__(self) -> float:
        """Skip `SKIP` batches, measure the next `batches` and return images per second.

        Then wait for `SETTLE` seconds, so that the loader fills its queues before another contestant is measured.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(f"{SKIP} {self.batches}\n")
        self.process.stdin.flush()
        answer = self._answer()
        time.sleep(SETTLE)
        return answer["images"] / answer["seconds"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


def _has_spdl() -> bool:
    command = [sys.executable, "-c", "import spdl.io; spdl.io.demux_config()"]
    return subprocess.run(command, capture_output=True).returncode == 0


def measure(name: str, settings: Path, args: argparse.Namespace) -> dict[str, Any]:
    contestants: dict[str, Contestant] = {}
    try:
        for peer in args.peers:
            python = args.ffcv_python if peer == "FFCV" else sys.executable
            if peer == "SPDL" and not _has_spdl():
                print("SPDL: skipped (needs pip install spdl, and FFmpeg's shared libraries)")
            elif python:
                contestants[peer] = Contestant(peer, python, settings, args.batches)
        for peer, contestant in contestants.items():
            first = contestant.first
            assert first["shape"] == [args.batch_size, 3, args.size, args.size], (peer, first)
            if peer != "decoder alone":
                assert abs(first["mean"] - contestants["ours"].first["mean"]) < 0.4, (peer, first)
        time.sleep(SETTLE)
        rates = take_turns(contestants, args.turns)
    finally:
        for contestant in contestants.values():
            contestant.close()
    print(f"\n{name}: batch {args.batch_size}, {args.threads} threads, {args.turns} turns")
    print(table(rates, "ours", "images/s"), flush=True)
    return report(rates, "ours")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images(parser)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--batches", type=int, default=16, help="batches per measurement")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ffcv-python", default=os.environ.get("DALI_MIX_FFCV_PYTHON"))
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "benchmarks" / "loader")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "benchmarks" / "loader.json")
    args = parser.parse_args()
    if "ours" not in args.peers:
        parser.error("--peers must include ours")

    jpegs = originals(args.images)
    results: dict[str, Any] = {
        "environment": environment(["nvidia-dali-cuda120", "torch", "torchvision", "pillow", "numba", "numpy"]),
        "settings": {"batch_size": args.batch_size, "size": args.size, "threads": args.threads, "turns": args.turns},
    }
    for name in args.sets:
        settings = prepare(name, jpegs, args.work, args)
        results[name] = measure(name, settings, args)
    write_json(args.out, results)
    print(f"\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
