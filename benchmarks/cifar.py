"""The CIFAR pipeline compared with torchvision's CIFAR10 in a DataLoader with two workers.

Both make batches of 128 with padding by 4, random crop, flip and normalization. They keep the same images in memory and
take turns, one epoch each. Prints the medians over the rounds and the median of the ratio within each round.

    python benchmarks/cifar.py [--prefix PREFIX | --images N] [--rounds R] [--json FILE]

PREFIX is a packed CIFAR-10 training split. Without it, N random images of 32×32 pixels are used, which take as
long as those of CIFAR-10.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from dali_mix.pipelines.cifar import STATISTICS
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from dali_mix import build_loader
from dali_mix.recordio import write_set

BATCH = 128


class InMemoryCifar(datasets.CIFAR10):
    """torchvision's CIFAR10 with images passed to the constructor instead of downloaded; `__getitem__` is unchanged."""

    def __init__(self, data: np.ndarray, targets: list[int], transform: transforms.Compose) -> None:
        datasets.VisionDataset.__init__(self, root="", transform=transform)
        self.train, self.data, self.targets = True, data, targets


def random_set(folder: Path, count: int) -> Path:
    """Pack `count` random images of 32×32 pixels, stored raw, into a set in `folder`, and return its prefix."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    write_set(folder / "random", [(b"P6\n32 32\n255\n" + image.tobytes(), 0) for image in pixels], classes=("any",))
    return folder / "random"


def decoded(prefix: Path) -> np.ndarray:
    """Return the set's images as torchvision stores them, (N, 32, 32, 3) uint8."""
    options = {"mean": (0, 0, 0), "std": (1 / 255, 1 / 255, 1 / 255)}
    loader = build_loader("cifar", prefix, batch_size=500, train=False, device="cpu", pipeline_options=options)
    images = [batch.images.round().to(torch.uint8).permute(0, 2, 3, 1).numpy() for batch in loader]
    return np.concatenate(images)


def epoch(batches: object) -> float:
    """Return images per second over one epoch."""
    start, seen = time.perf_counter(), 0
    for batch in batches:  # type: ignore[attr-defined]  # a Loader or a DataLoader
        seen += len(batch[0])
    return seen / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prefix", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prefix = args.prefix or random_set(Path(folder), args.images)
        data = decoded(prefix)
        mean, std = STATISTICS["cifar10"]
        steps = [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
        theirs = DataLoader(
            InMemoryCifar(data, [0] * len(data), transforms.Compose(steps)),
            batch_size=BATCH,
            shuffle=True,
            num_workers=2,
            persistent_workers=True,
        )
        ours = build_loader("cifar", prefix, batch_size=BATCH, train=True, device="cpu", num_threads=2)
        epoch(ours), epoch(theirs)  # warm-up: decodes the set and starts the workers
        rounds = [(epoch(theirs), epoch(ours)) for _ in range(args.rounds)]
    found = {
        "images": len(data),
        "torchvision_img_s": statistics.median(a for a, _ in rounds),
        "dali_mix_img_s": statistics.median(b for _, b in rounds),
        "ratio": statistics.median(b / a for a, b in rounds),
        "ratios": [round(b / a, 2) for a, b in rounds],
        "torch": torch.__version__,
    }
    print(f"torchvision + DataLoader, 2 workers {found['torchvision_img_s']:10,.0f} img/s")
    print(f"dali_mix cifar                      {found['dali_mix_img_s']:10,.0f} img/s")
    print(f"ratio {found['ratio']:.1f}; rounds {found['ratios']}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
