"""Layout `digits`: the scans of handwritten digits that come with scikit-learn, for the recipe `quickstart`.

It needs no download. There are 1,797 real scans of 8x8 pixels in 17 grey levels, which are enlarged to 32x32 RGB. Split
"train" has about 80% of them and "val" the rest, stratified by class.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from dali_mix.datasets.base import Listing, Options
from dali_mix.datasets.images.transform import encode
from dali_mix.datasets.trees import MemoryTree

SIDE = 32
_SPLIT_KEY = 20  # fixes the held-out scans, so that "val" is the same for everyone
_HELD_OUT = 0.2


def digits(root: Path | None, split: str, options: Options) -> Listing:
    """List split "train", "val" (also called "test") or "all"; `root` is not read.

    Raise ValueError for any other split.
    """
    if split not in ("train", "val", "test", "all"):
        raise ValueError(f"digits has the splits train, val (test is the same) and all, not {split!r}")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    scans = images.reshape(-1, 8, 8)
    chosen = held_out_rows(labels, split)
    names = [f"digits/{row:04d}.png" for row in chosen.tolist()]

    def read(name: str) -> bytes:
        scan = np.round(scans[int(name[-8:-4])] * (255 / 16)).astype(np.uint8)
        enlarged = cv2.resize(scan, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        return encode(np.repeat(enlarged[:, :, None], 3, axis=2), "png")

    classes = tuple(str(digit) for digit in range(10))
    tree = MemoryTree("scikit-learn", read)
    return Listing(tree, names, labels[chosen].tolist(), classes, "digits", split, ids=chosen.tolist())


def held_out_rows(labels: np.ndarray, split: str) -> np.ndarray:
    """Return the sorted indices (n,) of the scans in `split`; `labels` (N,) are the classes of all scans.

    `split` is "train", "all", or any other name for the held-out scans, which are 20% of each class, rounded.
    """
    if split == "all":
        return np.arange(len(labels))
    random = np.random.Generator(np.random.Philox(_SPLIT_KEY))
    held_out = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        rows = random.permutation(np.flatnonzero(labels == digit))
        held_out[rows[: round(len(rows) * _HELD_OUT)]] = True
    return np.flatnonzero(held_out != (split == "train"))
