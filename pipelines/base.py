"""What a pipeline is: the numbers it draws for each record, and what it does with them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from dali_mix.pipelines.random import SampleRandom

if TYPE_CHECKING:
    import torch
    from nvidia.dali.data_node import DataNode

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Pipeline(ABC):
    """Encoded images → normalized float32 batches, by what `draw` drew and `graph` does with it.

    Both are pure: `draw` takes all its randomness from the generator it is given, `graph` has none. A pipeline is
    constructed with `train` and its options as keyword arguments and validates them there (ValueError). Others add
    pipelines of their own by an entry point of the group "dali_mix.pipelines": NAME = module:Class.

    Attributes:
        name: what recipes call it.
        image_size: (height, width) of the images it makes, pixels.
        mean, std: per channel, in 0..1 units; an image leaves as (x / 255 - mean) / std.
        conditional: whether `graph` has `if`s on drawn values, which DALI then turns into branches.
    """

    name: ClassVar[str]
    conditional: bool = False

    def __init__(
        self, *, train: bool, image_size: int | Sequence[int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.train = bool(train)
        self.image_size = size_of(image_size)
        self.mean = channels("mean", mean)
        self.std = channels("std", std)
        if min(self.std) <= 0:
            raise ValueError(f"std is {list(std)}: every channel's must be above 0")

    @abstractmethod
    def draw(self, rows: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Draws everything random about a batch.

        Args:
            rows: (B,) of RECORD_DTYPE, the records' rows of the table (height, width, … of each).
            random: generator of these records' numbers.

        Returns:
            name → (B, …) array; the same names, dtypes and ranks for every batch.
        """

    @abstractmethod
    def graph(self, encoded: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        """Builds the DALI graph: encoded bytes and one sample's draws → float32 images, CHW or HWC (by the node's
        layout).

        `device` is "cpu" or "gpu"; the same code serves both (see `dali_mix.pipelines.ops`).
        """

    def check_native(self) -> None:
        """Raises ValueError when the pipeline, with these options, cannot run from DALI's own reader."""
        raise ValueError(
            f"pipeline {self.name!r} draws per record and cannot run on source='native'; use source='exact'"
        )

    def native_graph(self, encoded: DataNode, device: str, seed: int) -> DataNode:
        """The graph for DALI's own reader, whose order we do not know: here DALI draws, from `seed`."""
        raise NotImplementedError(self.name)

    def check_boxes(self) -> None:
        """Raises ValueError when the pipeline, with these options, cannot carry boxes along."""
        if type(self).map_boxes is Pipeline.map_boxes:
            raise ValueError(
                f"pipeline {self.name!r} does not carry boxes along; pack the set with --task multilabel, or choose"
                " another pipeline"
            )

    def map_boxes(self, boxes: np.ndarray, row: np.void, draws: Mapping[str, np.ndarray], sample: int) -> np.ndarray:
        """Carries one image's boxes along: (n, 4) x1, y1, x2, y2 in 0..1 of the record's size → pixels of `image_size`,
        not yet clipped. A pipeline without it is refused for detection sets.
        """
        self.check_boxes()
        raise NotImplementedError(self.name)


class CachedPipeline(Pipeline):
    """A pipeline for small sets: `graph` decodes each image once, to uint8 (H, W, 3) of one size; `apply` does the rest
    per batch.
    """

    @property
    @abstractmethod
    def cached_size(self) -> tuple[int, int]:
        """(height, width) of the images `graph` decodes, which are kept."""

    @abstractmethod
    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """What is kept of the decoded set (N, H, W, 3) uint8: e.g. padded."""

    @abstractmethod
    def apply(self, cache: torch.Tensor, ids: np.ndarray, draws: Mapping[str, np.ndarray]) -> torch.Tensor:
        """The batch of records `ids` (B,), in memory of its own: (B, 3, h, w) float32 on the cache's device."""


def size_of(image_size: int | Sequence[int]) -> tuple[int, int]:
    """An image size as (height, width). Raises ValueError unless it is one number or two from 1 to 8192."""
    pair = _several(image_size) or (image_size, image_size)
    if len(pair) != 2 or not all(type(side) is int and 1 <= side <= 8192 for side in pair):
        raise ValueError(f"image_size is {image_size!r}: give a number of pixels, or (height, width)")
    return pair[0], pair[1]


def channels(option: str, values: Sequence[float]) -> tuple[float, float, float]:
    """Three finite numbers, one a channel. Raises ValueError naming the option."""
    numbers = _several(values)
    if len(numbers) != 3 or not all(isinstance(value, Real) and math.isfinite(value) for value in numbers):
        raise ValueError(f"{option} is {values!r}: give three numbers, one a channel (red, green, blue), in 0..1 units")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def interval(option: str, values: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """Two numbers low ≤ a ≤ b ≤ high. Raises ValueError naming the option."""
    pair = _several(values)
    if len(pair) != 2 or not all(isinstance(value, Real) for value in pair) or not low <= pair[0] <= pair[1] <= high:
        raise ValueError(f"{option} is {values!r}: give two numbers, the smaller first, from {low:g} to {high:g}")
    return float(pair[0]), float(pair[1])


def _several(values: Any) -> tuple[Any, ...]:
    """The values of a sequence; none for what is no sequence, or a text."""
    return tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else ()


def number(option: str, value: float, low: float, high: float) -> float:
    """A number from low to high. Raises ValueError naming the option."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{option} is {value!r}: give a number from {low:g} to {high:g}")
    return float(value)


def choice(option: str, value: str | None, known: Sequence[str]) -> str:
    """One of the known names; None is "none", as `--cfg-options` reads that word. Raises ValueError naming the option
    and listing them."""
    value = "none" if value is None else value
    if value not in known:
        raise ValueError(f"{option} is {value!r}: choose one of {', '.join(known)}")
    return value
