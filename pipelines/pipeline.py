"""`Pipeline`: random draws for each record, and the DALI graph that uses them.

More than 300 lines: draws, graph and boxes go through the same list of steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from dali_mix.pipelines.base import PAD_TO, Step, channels, size_of
from dali_mix.pipelines.kernels import fused
from dali_mix.pipelines.normalization import factors
from dali_mix.pipelines.random import SampleRandom
from dali_mix.pipelines.steps.geometry import CentreCrop, Crop, Flip, decode
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode

if TYPE_CHECKING:
    import torch


class Pipeline:
    """The random draws and the DALI graph that turn encoded images into batches.

    The graph decodes the images, runs `steps` in order and pads; loaders then call `normalize`. Drawing and graph are
    separate: `draw` takes all randomness from the generator passed to it, and `graph` uses none.

    A pipeline that is not a list of steps overrides `draw` and `graph`. Its graph may return float32, which loaders do
    not change. `plugins.build` constructs a pipeline with `train` and its options as keyword arguments, and the
    constructor raises ValueError for invalid ones. To register a pipeline of your own, see `plugins`.

    Attributes:
        name: its name in recipes.
        image_size: (height, width) of the output images in pixels, or None if each image keeps the size that its steps
            produce. In that case the images of a batch are padded on the right and below, to the smallest multiples of
            `PAD_TO` pixels that fit all of them, and the padding is 0 after normalization.
        mean, std: per channel, in 0..1 units, for `normalize`.
        steps: the active steps.
        conditional: whether `graph` uses `if` on drawn values, which DALI converts to branches.
        draws_from_boxes: whether loaders call `draw_from_boxes` instead of `draw` for sets with boxes.
        one_orientation: whether loaders should build training batches in which either all images are taller than wide,
            or none is.
        normalizing: whether the operator that resizes on a CPU may also normalize, which is bit-identical and saves a
            pass over the batch. Loaders set it on their own copy.
        takes_pixels: whether `graph` gets RGB images, uint8 (H, W, 3), instead of encoded ones. Loaders set it on their
            own copy if `may_take_pixels`.
    """

    name: ClassVar[str] = "steps"
    conditional: bool = False
    draws_from_boxes: bool = False
    one_orientation: bool = False
    normalizing: bool = False
    takes_pixels: bool = False

    def __init__(
        self,
        *,
        train: bool,
        image_size: int | Sequence[int] | None,
        mean: Sequence[float],
        std: Sequence[float],
        steps: Sequence[Step] = (),
    ) -> None:
        self.train = bool(train)
        self.image_size = None if image_size is None else size_of(image_size)
        self.mean = channels("mean", mean)
        self.std = channels("std", std)
        if min(self.std) <= 0:
            raise ValueError(f"std={list(std)}: must be above 0 in every channel")
        self.steps = [step for step in steps if step.active]
        self.conditional = self.conditional or any(step.conditional for step in self.steps)
        self.draws_from_boxes = self.draws_from_boxes or any(step.draws_from_boxes for step in self.steps)

    def draw(self, rows: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Draw all random values of a batch.

        Args:
            rows: (B,) of RECORD_DTYPE, the records' rows of the table (height, width, …).
            random: random generator for these records.

        Returns:
            name → (B, …) array; the same names, dtypes and ranks for every batch. Names of a step's draws are prefixed
            with its index: "0.anchor". If `image_size` is None, "canvas" is an empty array of shape (B, height, width,
            0) whose height and width are those of the padded images.
        """
        return self.draw_from_boxes(rows, random, [np.empty((0, 4))] * len(rows))

    def draw_from_boxes(
        self, rows: np.ndarray, random: SampleRandom, boxes: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Draw all random values of a batch with boxes; return them in the format of `draw`.

        Loaders call this method if `draws_from_boxes` is True and the set has boxes. `boxes` has an array (n, 4) for
        each record, x1, y1, x2, y2 in 0..1 of the record's size.

        Raise ValueError naming the step if a step's draws, windows or boxes are invalid, and ValueError naming the
        pipeline if the steps return images of a size other than `image_size`.
        """
        drawn: dict[str, np.ndarray] = {}
        sizes = sizes_of(rows)
        if self.draws_from_boxes:
            boxes = [own * np.tile(size[::-1], 2) for own, size in zip(boxes, sizes, strict=True)]
        for index, step in enumerate(self.steps):
            generator = random.branch(step.branch) if step.branch else random
            if step.draws_from_boxes:
                own = step.draw_from_boxes(sizes, boxes, generator)
            else:
                own = step.draw(sizes, generator)
            for name, value in own.items():
                if np.shape(value)[:1] != (len(rows),):
                    raise ValueError(
                        f"step {type(step).__name__}: draw's {name!r} has shape {np.shape(value)} for {len(rows)}"
                        f" images: must be ({len(rows)}, ...)"
                    )
            # Checked here, not in methods that a subclass could override, since the resampling operator relies on it.
            if isinstance(step, Crop) and type(step).graph is Crop.graph:
                _check_inside(step, sizes, own["anchor"], own["shape"])
            if isinstance(step, CentreCrop) and type(step).graph is CentreCrop.graph:
                _check_inside(step, own["size"], own["anchor"], np.full_like(own["anchor"], step.size))
            if self.draws_from_boxes:
                boxes = [
                    _mapped(step, boxes[at], sizes[at], {name: value[at] for name, value in own.items()})
                    for at in range(len(rows))
                ]
            sizes = step.resized(sizes, own)
            drawn |= {f"{index}.{name}": value for name, value in own.items()}
        if self.image_size is None:
            canvas = -(-sizes.max(axis=0, initial=1) // PAD_TO) * PAD_TO
            drawn["canvas"] = np.empty((len(rows), *canvas, 0), np.uint8)
        elif self.steps and (wrong := (sizes != self.image_size).any(axis=1)).any():
            raise ValueError(
                f"pipeline {self.name!r}: its steps return images of {sizes[wrong][0].tolist()} pixels, image_size is"
                f" {list(self.image_size)}"
            )
        return drawn

    @property
    def fixed_size(self) -> tuple[int, int]:
        """Return `image_size`. Raise ValueError if images have different sizes."""
        if self.image_size is None:
            raise ValueError(f"pipeline {self.name!r} returns images of different sizes; one size is needed")
        return self.image_size

    def sizes(self, rows: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the height and width of each image in the batch, without padding: (B, 2) int32."""
        if self.image_size is not None:
            return np.full((len(rows), 2), self.image_size, np.int32)
        sizes = sizes_of(rows)
        for index, step in enumerate(self.steps):
            sizes = step.resized(sizes, _own(draws, index))
        return sizes

    @property
    def may_take_pixels(self) -> bool:
        """Return True if a loader may set `takes_pixels`, because `graph` can start from decoded pixels.

        It can unless the pipeline overrides `draw`, `draw_from_boxes` or `graph`, or its first step is a `Crop` that
        overrides `decode`.
        """
        first, methods = self.steps[0] if self.steps else None, ("draw", "draw_from_boxes", "graph")
        if isinstance(first, Crop) and type(first).decode is not Crop.decode:
            return False
        return all(getattr(type(self), name) is getattr(Pipeline, name) for name in methods)

    def graph(self, encoded: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        """Build the DALI graph from encoded bytes and draws to uint8 images, CHW or HWC (see the node's layout).

        Images are float32 if `normalizing` is set and the graph can normalize. `device` is "cpu" or "gpu"; the same
        code serves both.

        If the first step is a `Crop`, the decoder performs it, unless `takes_pixels` is set. If the last step is a
        `Flip`, the padding operator performs it. Raise ValueError if there are no active steps.
        """
        if not self.steps:
            raise ValueError(f"pipeline {self.name!r} has no active step: it needs one that returns image_size")
        steps = [(step, _own(draws, index)) for index, step in enumerate(self.steps)]
        first, last, mirror = self.steps[0], self.steps[-1], None
        if self.takes_pixels:
            images = fn.reshape(encoded, layout="HWC")
        elif isinstance(first, Crop) and type(first).graph is Crop.graph:
            images = first.decode(encoded, steps.pop(0)[1], device)
        else:
            images = decode(encoded, device)
        if isinstance(last, Flip) and type(last).graph is Flip.graph:
            mirror = last.mirror(steps.pop()[1])
        return self.finish(images, steps, mirror, draws.get("canvas"), device)

    def finish(
        self,
        images: DataNode,
        steps: Sequence[tuple[Step, dict[str, Any]]],
        mirror: DataNode | None,
        canvas: DataNode | None,
        device: str,
    ) -> DataNode:
        """Add to the graph: run `steps`, each with its draws, then flip where `mirror` is 1 and pad to `canvas`.

        `canvas` is an empty node (h, w, 0) of the size to pad to. Without it, the last step must return images of
        `image_size`. Without `mirror`, images are not flipped. Return uint8 images, or normalized float32 images if
        `normalizing` is set and `fused.resize_flip` can replace the last step. On a CPU they are CHW. On a GPU they are
        HWC, which the loader returns as channels_last without a copy.
        """
        fusing, options = fused.ending(steps, device, of_known_size=self.takes_pixels)
        for step, own in steps[: len(steps) - fusing]:
            images = step.graph(images, own, device)
        if fusing:
            if canvas is None:
                canvas = types.Constant(np.empty((*self.fixed_size, 0), np.uint8), device="cpu")
            normalize = factors(self.mean, self.std) if self.normalizing else None
            return fused.resize_flip(images, canvas, mirror, normalize=normalize, **options)
        mirror = 0 if mirror is None else mirror
        return fn.crop_mirror_normalize(
            images,
            device=device,
            dtype=types.UINT8,
            output_layout="HWC" if device == "gpu" else "CHW",
            mirror=mirror,
            **({"crop": self.fixed_size} if canvas is None else _padding(canvas, mirror)),
            mean=[0.0],
            std=[1.0],
        )

    def check_boxes(self) -> None:
        """Raise ValueError if the pipeline, with these options, cannot transform boxes."""
        if not self.steps and type(self).map_boxes is Pipeline.map_boxes:
            raise ValueError(
                f"pipeline {self.name!r} does not support boxes; pack the set with --task multilabel, or choose"
                " another pipeline"
            )
        for step in self.steps:
            if step.moves and type(step).map_boxes is Step.map_boxes:
                raise ValueError(
                    f"step {type(step).__name__} does not define how boxes move: add `map_boxes`,"
                    " or, if it moves nothing, `moves = False`"
                )
        if self.steps:  # a step that cannot transform boxes raises ValueError
            rows = np.full(1, 256, [("height", np.int32), ("width", np.int32)])
            self.map_boxes(np.empty((0, 4)), rows[0], self.draw(rows, SampleRandom(0, 0, np.arange(1))), 0)

    def map_boxes(self, boxes: np.ndarray, row: np.void, draws: Mapping[str, np.ndarray], sample: int) -> np.ndarray:
        """Transform one image's boxes (n, 4), x1, y1, x2, y2, from 0..1 of the record's size to pixels in the batch.

        Results are not clipped to the image; boxes that a step dropped have no area. A pipeline without steps raises
        ValueError unless it overrides this method.

        Args:
            boxes: the boxes of the record.
            row: the record's row of the table.
            draws: the draws of the batch.
            sample: index of the image in the batch.
        """
        if not self.steps:
            self.check_boxes()
        size = np.array([row["height"], row["width"]])
        boxes = boxes * np.tile(size[::-1].astype(np.float64), 2)
        for index, step in enumerate(self.steps):
            own = {name: values[sample] for name, values in _own(draws, index).items()}
            boxes, size = _mapped(step, boxes, size, own), step.resized(size, own)
        return boxes


def _check_inside(step: Step, sizes: np.ndarray, anchor: np.ndarray, shape: np.ndarray) -> None:
    """Raise ValueError naming the step if a window is empty or exceeds its image, which operators may not detect."""
    wrong = ((anchor < 0) | (shape < 1) | (anchor + shape > sizes)).any(axis=1)
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(
            f"step {type(step).__name__}: its window of {shape[at].tolist()} pixels at {anchor[at].tolist()} is not"
            f" inside the image of {sizes[at].tolist()} pixels (height, width)"
        )


def _mapped(step: Step, boxes: np.ndarray, size: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the boxes that `step.map_boxes` returns.

    Raise ValueError naming the step unless they are a finite array of the same shape as `boxes`.
    """
    mapped = step.map_boxes(boxes, size, draws)
    if isinstance(mapped, np.ndarray) and mapped.shape == boxes.shape and math.isfinite(mapped.sum()):
        return mapped
    shape = f"an array of shape {mapped.shape}" if isinstance(mapped, np.ndarray) else f"a {type(mapped).__name__}"
    if isinstance(mapped, np.ndarray) and mapped.shape == boxes.shape:
        shape = f"{mapped[~np.isfinite(mapped).all(axis=1)][:1].tolist()}, which is not finite,"
    raise ValueError(
        f"step {type(step).__name__}: map_boxes returned {shape} for {len(boxes)} boxes: must be a finite array of"
        f" shape {boxes.shape}; a box without area is dropped"
    )


def _padding(canvas: DataNode, mirror: Any) -> dict[str, Any]:
    """Return the options with which `crop_mirror_normalize` pads images on the right and below to the size of `canvas`.

    The operator mirrors the padded image. Where `mirror` is 1, `crop_pos_x` therefore aligns the image on the right, so
    that the padding is on the right after mirroring.
    """
    size = canvas.shape(dtype=types.FLOAT)
    right = fn.cast(mirror, dtype=types.FLOAT) if isinstance(mirror, DataNode) else 0.0
    return {
        "crop_h": size[0],
        "crop_w": size[1],
        "crop_pos_x": right,
        "crop_pos_y": 0.0,
        "out_of_bounds_policy": "pad",
    }


def sizes_of(rows: np.ndarray) -> np.ndarray:
    """Return the height and width of records, (B, 2) int32."""
    return np.stack([rows["height"], rows["width"]], axis=1).astype(np.int32)


def _own(draws: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {name.partition(".")[2]: value for name, value in draws.items() if name.startswith(f"{index}.")}


class CachedPipeline(Pipeline, ABC):
    """Base class of pipelines for small sets, whose decoded images are kept in memory.

    `graph` decodes each image once, to uint8 (H, W, 3) of the size `cached_size`. The loader calls `prepare` with all
    decoded images, caches its result, and passes the cache to `apply` for each batch.
    """

    @property
    @abstractmethod
    def cached_size(self) -> tuple[int, int]:
        """Return (height, width) of the cached images that `graph` decodes."""

    @abstractmethod
    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Return the tensor to cache for the decoded `images` of a set, (N, 3, H, W) uint8: for instance, pad them."""

    @abstractmethod
    def apply(self, cache: torch.Tensor, ids: np.ndarray, draws: Mapping[str, np.ndarray]) -> torch.Tensor:
        """Return the batch of the records with the indices `ids` (B,): (B, 3, h, w) uint8 on the cache's device.

        `cache` holds the result of `prepare`, on the CPU or a GPU, and `draws` are the draws for these records. The
        batch is newly allocated.
        """
