"""Layout `digit-scenes`: several of scikit-learn's scanned digits on one canvas, for multi-label targets and boxes.

It needs no download. A scene is 96 pixels high and 128 wide. It shows one to five light digits of 20 to 40 pixels,
which do not overlap, on a plain dark background with some noise. Split "val" uses different scans from "train": those
that layout `digits` holds out. A scene depends only on (seed, split, index); `root` is not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dali_mix._labels import label_of
from dali_mix.datasets.annotations import choose_task, multi_hot
from dali_mix.datasets.base import Listing, Options
from dali_mix.datasets.images.transform import encode
from dali_mix.datasets.layouts.digits import held_out_rows
from dali_mix.datasets.trees import MemoryTree
from dali_mix.tasks import DETECTION, MULTILABEL

HEIGHT, WIDTH = 96, 128
MOST_DIGITS = 5
SIDES = (20, 40)  # smallest and largest side of a digit's square in pixels
_TRIES = 20  # attempts to find free space for a digit
_SCENES = {"train": 2000, "val": 500, "test": 500}
_KEYS = {"train": 0, "val": 1, "test": 1}
_SCANS = 8  # side of a scan in pixels


class Digit(NamedTuple):
    """A digit in a scene: the index of its scan, its square in pixels, and its color (RGB, 0 to 255)."""

    scan: int
    top: int
    left: int
    side: int
    color: tuple[int, int, int]


def digit_scenes(root: Path | None, split: str, options: Options) -> Listing:
    """List split "train" (2,000 scenes, or `--scenes`) or "val" (500, or `--scenes`; also called "test").

    Labels are the digits present (`--task multilabel`, default), or a box around the ink of each (detection). Raise
    ValueError for any other split.
    """
    task = choose_task("digit-scenes", options, MULTILABEL, DETECTION)
    if split not in _SCENES:
        raise ValueError(f"digit-scenes has the splits train and val (test is the same), not {split!r}")
    count = _SCENES[split] if options.scenes is None else options.scenes
    from sklearn.datasets import load_digits

    values, kinds = load_digits(return_X_y=True)
    scans = (values.reshape(-1, _SCANS, _SCANS) / 16).astype(np.float32)
    rows = held_out_rows(kinds, split)
    scenes = [_draw(_generator(options.seed, split, number), rows) for number in range(count)]
    names = [f"scenes/{number:07d}.png" for number in range(count)]

    def read(name: str) -> bytes:
        number = int(name[-11:-4])
        return encode(render(scenes[number], scans, _generator(options.seed, split, number, pixels=True)), "png")

    labels = []
    for scene in scenes:
        classes = [int(kinds[digit.scan]) for digit in scene]
        if task.boxes:
            objects = [(kind, *ink_box(digit, scans), 0) for kind, digit in zip(classes, scene, strict=True)]
            labels.append(label_of(np.array(objects, dtype=np.float64) / (1, WIDTH, HEIGHT, WIDTH, HEIGHT, 1)))
        else:
            labels.append(multi_hot(classes, 10))
    tree = MemoryTree("scikit-learn", read)
    report = {"seed": options.seed}
    return Listing(tree, names, labels, tuple("0123456789"), "digit-scenes", split, task=task.name, report=report)


def _generator(seed: int, split: str, number: int, pixels: bool = False) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 2 * _KEYS[split] + pixels, number]))


def _draw(random: np.random.Generator, rows: np.ndarray) -> list[Digit]:
    """Return one to five randomly drawn digits that do not overlap. Their scans are drawn from the indices `rows`.

    A digit is left out if it overlaps earlier ones at each of 20 random positions.
    """
    digits: list[Digit] = []
    for _ in range(int(random.integers(1, MOST_DIGITS + 1))):
        scan, side = int(rows[random.integers(len(rows))]), int(random.integers(SIDES[0], SIDES[1] + 1))
        red, green, blue = random.integers(150, 256, 3).tolist()
        for _ in range(_TRIES):
            top, left = int(random.integers(HEIGHT - side + 1)), int(random.integers(WIDTH - side + 1))
            if all(
                top + side <= other.top
                or other.top + other.side <= top
                or left + side <= other.left
                or other.left + other.side <= left
                for other in digits
            ):
                digits.append(Digit(scan, top, left, side, (red, green, blue)))
                break
    return digits


def render(scene: list[Digit], scans: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the pixels of a scene, (96, 128, 3) uint8 RGB; `scans` are (N, 8, 8) float32 in 0..1."""
    image = random.integers(0, 60, 3) + random.normal(0, 5, (HEIGHT, WIDTH, 3))
    for digit in scene:
        ink = cv2.resize(scans[digit.scan], (digit.side, digit.side), interpolation=cv2.INTER_LINEAR)[:, :, None]
        square = image[digit.top : digit.top + digit.side, digit.left : digit.left + digit.side]
        square += ink * (np.array(digit.color) - square)
    return image.round().clip(0, 255).astype(np.uint8)


def ink_box(digit: Digit, scans: np.ndarray) -> tuple[float, float, float, float]:
    """Return the box (x1, y1, x2, y2) in scene pixels around the nonzero pixels of the scan."""
    ink = scans[digit.scan] > 0
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    scale = digit.side / _SCANS
    left, right = digit.left + columns[0] * scale, digit.left + (columns[-1] + 1) * scale
    return left, digit.top + rows[0] * scale, right, digit.top + (rows[-1] + 1) * scale
