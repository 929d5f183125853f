"""Saliency of 224×224 images compared with OpenCV's StaticSaliencyFineGrained: ms per image, and differing pixels.

    python benchmarks/saliency.py [--photos FOLDER] [--count 200] [--turns 15] [--out FILE]

FOLDER contains JPEG or PNG photographs at any depth; without it, crops of scikit-learn's two photographs are used.
OpenCV's saliency runs in its own environment (`python -m tests.mixers.opencv_env` creates it) and answers turn by turn,
so that contestants run seconds after each other on the same cores.

Every photograph is also compared pixel by pixel at its own size. Where a sum exceeds 255, OpenCV's 8-bit value wraps
around and must be the sum's lower 8 bits, and ours must be 255.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from _compare import environment, report, table, take_turns, write_json

from dali_mix.mixers import SaliencyMix, fine_grained_saliency
from dali_mix.mixers.kernels import torch_saliency

HERE = Path(__file__).resolve().parent
PEER = HERE.parent / "build" / "opencv_contrib" / "bin" / "python"
SIDE = 224
_SERVER = """
import sys, time
import cv2, numpy as np
saliency = cv2.saliency.StaticSaliencyFineGrained_create()
with np.load(sys.argv[1]) as given:
    images = [np.ascontiguousarray(given[name][:, :, ::-1]) for name in given]
maps = [np.rint(saliency.computeSaliency(image)[1] * 255).astype(np.uint8) for image in images]
np.savez(sys.argv[2], **{str(i): found for i, found in enumerate(maps)})
squares = [np.ascontiguousarray(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)) for image in images]
print("ready", flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    for square in squares:
        saliency.computeSaliency(square)
    print(len(squares) / (time.perf_counter() - start), flush=True)
""".replace("SIDE", str(SIDE))


def load(folder: Path | None, count: int) -> list[np.ndarray]:
    """Return up to `count` RGB images (H,W,3) uint8 from `folder`; without one, `count` crops of two photographs.

    The photographs are those of scikit-learn. Raise SystemExit if the folder contains no JPEG or PNG.
    """
    if folder is not None:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not files:
            raise SystemExit(f"{folder}: contains no JPEG or PNG")
        read = (cv2.imread(str(path), cv2.IMREAD_COLOR) for path in files[:count])
        return [image[:, :, ::-1].copy() for image in read if image is not None]
    from sklearn.datasets import load_sample_images

    photos, rng = load_sample_images().images, np.random.default_rng(0)
    corners = [(i % 2, *rng.integers(0, (427 - 300, 640 - 300))) for i in range(count)]
    return [photos[i][top : top + 300, left : left + 300].copy() for i, top, left in corners]


def as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()


def differing(images: list[np.ndarray], maps: list[np.ndarray]) -> dict[str, int]:
    """Compare both implementations of our saliency with OpenCV's `maps` of the same images, pixel by pixel.

    Returns:
        a dict of counts: "images" and "pixels", those compared; "compiled" and "torch", the pixels that this
        implementation computes wrongly; and "wrapped", the pixels whose sum exceeds 255 (see the module).
    """
    counts = {"images": len(images), "pixels": 0, "compiled": 0, "torch": 0, "wrapped": 0}
    for image, found in zip(images, maps, strict=True):
        sums = torch_saliency._sums(as_batch(image))[0].numpy()
        counts["pixels"] += sums.size
        counts["torch"] += int(((sums & 255) != found).sum())
        ours = fine_grained_saliency(as_batch(image))[0].numpy()
        counts["compiled"] += int(np.where(sums > 255, ours != 255, ours != found).sum())
        counts["wrapped"] += int((sums > 255).sum())
    return counts


def main() -> int:
    """Print the table and the number of differing pixels, and write docs/benchmarks/saliency.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "benchmarks" / "saliency.json")
    args = parser.parse_args()
    if not PEER.exists():
        made_by = "python -m tests.mixers.opencv_env"
        print(f"OpenCV's saliency is not installed: create {PEER.parent.parent} with {made_by}")
        return 0
    images = load(args.photos, args.count)
    squares = [cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in images]
    batch = torch.cat([as_batch(square) for square in squares])
    normalized = SaliencyMix(None, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    floats = (batch / 255 - torch.tensor(normalized.mean)[:, None, None]) / torch.tensor(normalized.std)[:, None, None]

    def ours(compute: object, given: torch.Tensor, threads: int) -> float:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        for part in given.split(128):
            compute(part)  # type: ignore[operator]
        return len(given) / (time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "images.npz"), Path(folder, "maps.npz")
        np.savez(given, **{str(i): image for i, image in enumerate(images)})  # type: ignore[arg-type]
        command = [str(PEER), "-c", _SERVER, str(given), str(made)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
            assert peer.stdin is not None and peer.stdout is not None
            if peer.stdout.readline().strip() != "ready":
                raise SystemExit("OpenCV's process did not start")

            def opencv() -> float:
                peer.stdin.write("turn\n")  # type: ignore[union-attr]
                peer.stdin.flush()  # type: ignore[union-attr]
                return float(peer.stdout.readline())  # type: ignore[union-attr]

            threads = torch.get_num_threads()
            contestants = {
                "ours": lambda: ours(fine_grained_saliency, batch, threads),
                "ours, 1 thread": lambda: ours(fine_grained_saliency, batch, 1),
                "ours, from float32": lambda: ours(normalized.saliency, floats, threads),
                "ours, torch version": lambda: ours(torch_saliency.saliency, batch[:8], threads),
                "OpenCV": opencv,
            }
            rates = take_turns(contestants, args.turns)
            peer.stdin.close()
        with np.load(made) as maps:
            counts = differing(images, [maps[str(i)] for i in range(len(images))])
    print(table(rates, "ours", "images/s"))
    print("; ".join(f"{name}: {1000 / np.median(values):.3f} ms per image" for name, values in rates.items()))
    print(f"pixels that differ from OpenCV's: {counts}")
    settings = {"side": SIDE, "count": len(images), "turns": args.turns, "threads": threads}
    seen = environment(["torch", "numba", "numpy", "opencv-python"])
    result = {"settings": settings, "environment": seen, **report(rates, "ours"), "differing": counts}
    write_json(args.out, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
