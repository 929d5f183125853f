"""`Step`, the building block of pipelines, and helpers to check options."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
from dali_mix.pipelines.random import SampleRandom
from nvidia.dali.data_node import DataNode

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PAD_TO = 32  # pixels; the largest stride of the backbones


class Step(ABC):
    """One transformation in a pipeline: its random draws for a batch, and a DALI graph without other randomness.

    Attributes:
        active: False if the options disable the step; a pipeline then omits it.
        branch: number of the random sequence from which the step draws. All steps of branch 0 share one. A step on a
            branch of its own, 1 to 63 (`SampleRandom.branch`), can be enabled without changing other steps' draws.
        conditional: whether `graph` uses `if` on drawn values; the pipeline then enables DALI's conditionals.
        draws_from_boxes: whether `draw_from_boxes` is called instead of `draw`.
        moves: False for a step that does not change positions, such as a colour change. Other steps must override
            `map_boxes`, or sets with boxes are rejected.
    """

    active: bool = True
    branch: int = 0
    conditional: bool = False
    draws_from_boxes: bool = False
    moves: bool = True

    def on_branch(self, branch: int) -> Self:
        """Return a copy of the step with that `branch`."""
        step = copy.copy(self)
        step.branch = branch
        return step

    def draw(self, sizes: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Draw random values for a batch; return name → (B, …) array.

        `sizes` (B, 2) int32 are the height and width of each input image. Names, dtypes and ranks must be the same for
        every batch. Other steps do not see the draws.
        """
        return {}

    def draw_from_boxes(
        self, sizes: np.ndarray, boxes: Sequence[np.ndarray], random: SampleRandom
    ) -> dict[str, np.ndarray]:
        """Draw random values that depend on the images' boxes; return them in the format of `draw`.

        `boxes` has an array (n, 4) for each image, x1, y1, x2, y2 in pixels; n may be 0. Steps with `draws_from_boxes`
        must override this method.
        """
        raise NotImplementedError

    @abstractmethod
    def graph(self, images: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        """Add this step to the DALI graph: uint8 HWC `images` and their draws → uint8 HWC images.

        `device`, "cpu" or "gpu", is where the step runs.
        """

    def resized(self, sizes: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the height and width of the output for input of `sizes`, for a batch or for one image.

        `sizes` are (B, 2) with the draws of the batch, or (2,) with those of one image. By default they are returned
        unchanged: a step that changes the size must override this method.
        """
        return sizes

    def map_boxes(self, boxes: np.ndarray, size: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        """Transform one image's boxes (n, 4), x1, y1, x2, y2 in pixels.

        `size` is (height, width) of the input image, and `draws` are the draws for this image. Steps with `moves` must
        override this method, and raise ValueError if they cannot transform boxes. The result has the shape of `boxes`;
        to drop a box, return one without area in its row.
        """
        return boxes


def size_of(image_size: int | Sequence[int], low: int = 1, high: int = 8192) -> tuple[int, int]:
    """Return an image size as (height, width).

    Raise ValueError unless `image_size` is one integer or two, each from `low` to `high`.
    """
    pair = _several(image_size) or (image_size, image_size)
    if len(pair) != 2 or not all(type(side) is int and 1 <= side <= 8192 for side in pair):
        raise ValueError(f"image_size={image_size!r}: must be a number of pixels, or (height, width)")
    if not low <= min(pair) <= max(pair) <= high:
        raise ValueError(f"image_size={image_size!r}: must be {low} to {high} pixels per side for this pipeline")
    return pair[0], pair[1]


def channels(option: str, values: Sequence[float]) -> tuple[float, float, float]:
    """Return `values`, one per channel, as floats.

    Raise ValueError naming `option` unless they are three finite numbers.
    """
    numbers = _several(values)
    if len(numbers) != 3 or not all(isinstance(value, Real) and math.isfinite(value) for value in numbers):
        raise ValueError(f"{option}={values!r}: must be three numbers (red, green, blue) in 0..1 units")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def interval(option: str, values: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """Return `values` as two floats a, b. Raise ValueError naming `option` unless low ≤ a ≤ b ≤ high."""
    pair = _several(values)
    if len(pair) != 2 or not all(isinstance(value, Real) for value in pair) or not low <= pair[0] <= pair[1] <= high:
        raise ValueError(f"{option}={values!r}: must be two numbers, the smaller first, from {low:g} to {high:g}")
    return float(pair[0]), float(pair[1])


def _several(values: Any) -> tuple[Any, ...]:
    """Return the values of a sequence, or () if `values` is a number or a string."""
    return tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else ()
