"""`Pipeline`: the numbers that are drawn for each record, and the DALI graph that uses them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from dali_mix.pipelines.base import Step, channels, size_of
from dali_mix.pipelines.kernels import fused
from dali_mix.pipelines.random import SampleRandom
from dali_mix.pipelines.steps.geometry import Crop, Flip, decode
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode

if TYPE_CHECKING:
    import torch


class Pipeline:
    """Encoded images → normalized float32 batches: decode, run `steps` in their order, normalize.

    A pipeline draws and builds its graph apart: `draw` takes all its randomness from the generator it is given, `graph`
    has none. One that is no list of steps overrides both. A pipeline is constructed with `train` and its options as
    keyword arguments and validates them there (ValueError). Others add pipelines of their own: see `plugins`.

    Attributes:
        name: what recipes call it.
        image_size: (height, width) of the images it makes, pixels.
        mean, std: per channel, in 0..1 units; an image leaves as (x / 255 - mean) / std.
        steps: those that are active.
        conditional: whether `graph` has `if`s on drawn values, which DALI then turns into branches.
    """

    name: ClassVar[str] = "steps"
    conditional: bool = False

    def __init__(
        self,
        *,
        train: bool,
        image_size: int | Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        steps: Sequence[Step] = (),
    ) -> None:
        self.train = bool(train)
        self.image_size = size_of(image_size)
        self.mean = channels("mean", mean)
        self.std = channels("std", std)
        if min(self.std) <= 0:
            raise ValueError(f"std={list(std)}: must be above 0 in every channel")
        self.steps = [step for step in steps if step.active]
        self.conditional = self.conditional or any(step.conditional for step in self.steps)

    def draw(self, rows: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Draws everything random about a batch.

        Args:
            rows: (B,) of RECORD_DTYPE, the records' rows of the table (height, width, … of each).
            random: generator of these records' numbers.

        Returns:
            name → (B, …) array; the same names, dtypes and ranks for every batch. A step's have its index in front, as
            "0.anchor".
        """
        drawn: dict[str, np.ndarray] = {}
        sizes = np.stack([rows["height"], rows["width"]], axis=1).astype(np.int32)
        for index, step in enumerate(self.steps):
            own = step.draw(sizes, random.branch(step.branch) if step.branch else random)
            for name, value in own.items():
                if np.shape(value)[:1] != (len(rows),):
                    raise ValueError(
                        f"step {type(step).__name__}: draw's {name!r} has shape {np.shape(value)} for {len(rows)}"
                        f" images: must be ({len(rows)}, ...)"
                    )
            sizes = step.resized(sizes, own)
            drawn |= {f"{index}.{name}": value for name, value in own.items()}
        if self.steps and (wrong := (sizes != self.image_size).any(axis=1)).any():
            raise ValueError(
                f"pipeline {self.name!r}: its steps end in images of {sizes[wrong][0].tolist()} pixels, image_size is"
                f" {list(self.image_size)}"
            )
        return drawn

    def graph(self, encoded: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        """Builds the DALI graph: encoded bytes and one sample's draws → float32 images, CHW or HWC (the node's layout).

        `device` is "cpu" or "gpu"; the same code serves both. A `Crop` at the head of the list is left to the decoder,
        a `Flip` at its end to the operator that normalizes.
        """
        if not self.steps:
            raise ValueError(f"pipeline {self.name!r} has no active step: it needs one that makes images of image_size")
        steps = [(step, _own(draws, index)) for index, step in enumerate(self.steps)]
        first, last, mirror = self.steps[0], self.steps[-1], None
        if isinstance(first, Crop) and type(first).graph is Crop.graph:
            images = first.decode(encoded, steps.pop(0)[1], device)
        else:
            images = decode(encoded, device)
        if isinstance(last, Flip) and type(last).graph is Flip.graph:
            mirror = last.mirror(steps.pop()[1])
        return self.finish(images, steps, mirror, device)

    def finish(
        self, images: DataNode, steps: Sequence[tuple[Step, dict[str, Any]]], mirror: DataNode | None, device: str
    ) -> DataNode:
        """Run `steps`, each with its draws, then flip where `mirror` is 1, and normalize.

        Images leave a GPU as HWC, which the loader hands out as channels_last without moving a byte.
        """
        fusing = fused.ending(steps, device)
        for step, own in steps if fusing is None else steps[:-1]:
            images = step.graph(images, own, device)
        if fusing is not None:
            return fused.resize_flip_normalize(images, self.image_size, self.mean, self.std, mirror, **fusing)
        return fn.crop_mirror_normalize(
            images,
            device=device,
            dtype=types.FLOAT,
            output_layout="HWC" if device == "gpu" else "CHW",
            crop=self.image_size,
            mirror=0 if mirror is None else mirror,
            mean=[255.0 * value for value in self.mean],
            std=[255.0 * value for value in self.std],
            rounding="round",
        )

    def check_boxes(self) -> None:
        """Raises ValueError when the pipeline, with these options, cannot carry boxes along."""
        if not self.steps and type(self).map_boxes is Pipeline.map_boxes:
            raise ValueError(
                f"pipeline {self.name!r} does not carry boxes along; pack the set with --task multilabel, or choose"
                " another pipeline"
            )
        if self.steps:  # a step that cannot says so by itself
            rows = np.full(1, 256, [("height", np.int32), ("width", np.int32)])
            self.map_boxes(np.empty((0, 4)), rows[0], self.draw(rows, SampleRandom(0, 0, np.arange(1))), 0)

    def map_boxes(self, boxes: np.ndarray, row: np.void, draws: Mapping[str, np.ndarray], sample: int) -> np.ndarray:
        """Carries one image's boxes along: (n, 4) x1, y1, x2, y2 in 0..1 of the record's size → pixels of `image_size`,
        not yet clipped. A pipeline without steps is refused for detection sets.
        """
        if not self.steps:
            self.check_boxes()
        size = np.array([row["height"], row["width"]])
        boxes = boxes * np.tile(size[::-1].astype(np.float64), 2)
        for index, step in enumerate(self.steps):
            own = {name: values[sample] for name, values in _own(draws, index).items()}
            boxes, size = step.map_boxes(boxes, size, own), step.resized(size, own)
        return boxes


def _own(draws: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {name.partition(".")[2]: value for name, value in draws.items() if name.startswith(f"{index}.")}


class CachedPipeline(Pipeline, ABC):
    """A pipeline for small sets: `graph` decodes each image once, to uint8 (H, W, 3) of one size; `apply` does the rest
    per batch.
    """

    @property
    @abstractmethod
    def cached_size(self) -> tuple[int, int]:
        """(height, width) of the images `graph` decodes, which are kept."""

    @abstractmethod
    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Return what is kept of the decoded set (N, H, W, 3) uint8, padded for instance."""

    @abstractmethod
    def apply(self, cache: torch.Tensor, ids: np.ndarray, draws: Mapping[str, np.ndarray]) -> torch.Tensor:
        """The batch of records `ids` (B,), in memory of its own: (B, 3, h, w) float32 on the cache's device."""
