"""Packing compared with mxnet's im2rec: images/s without changes, and resized to a shorter side of 256.

    python benchmarks/packing.py [--images FOLDER] [--count 1600] [--turns 7]

im2rec runs in its own environment (`python -m tests.recordio.mxnet_env` creates it in build/mxnet) and is timed inside
its process, so that starting Python and importing mxnet do not count. dali_mix is timed from listing the folder to the
published set. This includes checking the header and end of every image, crc32, sha256, fsync and the manifest, none of
which im2rec does. Output files are removed between turns, which is not timed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _compare import environment, report, table, take_turns, write_json
from loader import add_images, originals

from dali_mix.datasets import LAYOUTS, Options, PackOptions, Transform, pack_listing

HERE = Path(__file__).resolve().parent
PEER = HERE.parent / "build" / "mxnet" / "bin" / "python"
_TIMED = """
import contextlib, io, runpy, sys, time
import cv2, mxnet
script = mxnet.__path__[0] + "/tools/im2rec.py"
sys.argv = [script, *sys.argv[1:]]
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    runpy.run_path(script, run_name="__main__")
print(time.perf_counter() - start)
"""


def make_images(images: list[bytes], target: Path, count: int) -> int:
    """Write the images, repeated to `count` files, into class folders, and return their total bytes."""
    size = 0
    for number in range(count):
        folder = target / f"{number % 10:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        data = images[number % len(images)]
        (folder / f"{number:06d}.jpg").write_bytes(data)
        size += len(data)
    return size


def remove(folder: Path, *patterns: str) -> None:
    """Delete the files in `folder` that match a pattern."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def ours(root: Path, out: Path, count: int, resize: int | None) -> Callable[[], float]:
    """Return a function that packs the `count` images below `root` with dali_mix and returns images per second.

    The set is written to `out`/ours; each call first removes that of the last call. `resize` is the shorter side to
    resize images to; None to leave them unchanged.
    """

    def run() -> float:
        remove(out, "ours*")
        start = time.perf_counter()
        listing = LAYOUTS["imagefolder"](root, "train", Options())
        info = pack_listing(listing, out / "ours", PackOptions(Transform(resize=resize), shuffle=0))
        seconds = time.perf_counter() - start
        assert info.count == count
        return count / seconds

    return run


def im2rec(root: Path, out: Path, count: int, resize: int | None, threads: int) -> Callable[[], float]:
    """Write the list that im2rec needs, and return a function that runs im2rec and returns images per second.

    The list is `out`/peer.lst, and each call writes `out`/peer.rec and `out`/peer.idx. `threads` is im2rec's number of
    threads, and the other arguments are as for `ours`.
    """
    lines = []
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        lines.append(f"{number}\t{int(path.parent.name)}\t{path.relative_to(root)}\n")
    (out / "peer.lst").write_text("".join(lines))
    how = ["--resize", str(resize)] if resize else ["--pass-through"]

    def run() -> float:
        remove(out, "peer.rec", "peer.idx")
        command = [str(PEER), "-c", _TIMED, str(out / "peer"), str(root), *how, "--num-thread", str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return count / float(done.stdout.split()[-1])

    return run


def main() -> int:
    """Print a table per setting and write docs/benchmarks/packing.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_images(parser)
    parser.add_argument("--count", type=int, default=1600)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "benchmarks" / "packing.json")
    args = parser.parse_args()
    if not PEER.exists():
        print(
            f"im2rec is not installed: create {PEER.parent.parent} with python -m tests.recordio.mxnet_env",
            file=sys.stderr,
        )
        return 0
    results: dict[str, object] = {"count": args.count}
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="dali_mix-bench-", dir=memory) as name:
        root, out = Path(name, "images"), Path(name, "out")
        out.mkdir()
        results["mean_bytes"] = make_images(originals(args.images), root, args.count) // args.count
        for title, resize in (("pass-through", None), ("resize 256", 256)):
            count = args.count
            contestants = {
                "dali_mix": ours(root, out, count, resize),
                "im2rec, 1 thread": im2rec(root, out, count, resize, 1),
                "im2rec, 2 threads": im2rec(root, out, count, resize, 2),
            }
            rates = take_turns(contestants, args.turns)
            print(f"\n{title}, {count} images\n{table(rates, 'dali_mix', 'images/s')}")
            results[title] = report(rates, "dali_mix")
        shutil.rmtree(out)
    results["environment"] = environment(["numpy", "opencv-python", "pillow"])
    write_json(args.out, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
