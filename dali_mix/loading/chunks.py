"""Chunks: decoded ranges of an epoch's order, which a worker pool sends to trainers. All functions are pure.

    position   0               64              128             192
    chunks     |   number 0    |   number 1    |   number 2    |
    steps      |  step 0   |  step 1   |  step 2   |  step 3   |

The example shows the steps of one rank with a batch size of 48. Every trainer cuts its steps, of any size and for any
rank, from the same chunks. A chunk that is decoded once therefore serves all trainers with the same order.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dali_mix.loading.order import Step
from dali_mix.pipelines import Pipeline
from dali_mix.pipelines.base import PAD_TO
from dali_mix.pipelines.normalization import normalize_into

POSITIONS = 64  # positions of the order per chunk: 9.6 MB at 224 × 224


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """A decoding request: records `rows` (n,) int64 with the random draws of `epoch`."""

    epoch: int
    rows: np.ndarray

    @property
    def key(self) -> bytes:
        """Return 16 bytes that identify the question among all questions for the same `Spec`."""
        return hashlib.blake2b(self.rows.tobytes(), digest_size=16, salt=self.epoch.to_bytes(16, "little")).digest()


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
    """The answer to a `Question`.

    Attributes:
        rows: (n,) int64, the requested records without bad ones; images and targets are in the same order.
        images: (n, 3, H, W) uint8, or the pipeline's output dtype; with `sizes`, the flattened images (3, height,
            width) concatenated.
        targets: see `targets.targets_of`.
        sizes: (n, 2) height and width of each image, if the pipeline has no fixed image size; else None.
        bad: (record number, reason, decode) of each bad record: see `BadRecords.among`.
    """

    rows: np.ndarray
    images: np.ndarray
    targets: Any
    sizes: np.ndarray | None = None
    bad: tuple[tuple[int, str, bool], ...] = ()


def numbers_of(step: Step) -> range:
    """Return the numbers of the chunks that cover a step's records; an empty range if the step has no records."""
    if not len(step.rows):
        return range(0)
    return range(step.first // POSITIONS, (step.first + len(step.rows) - 1) // POSITIONS + 1)


def question(order: np.ndarray, epoch: int, number: int) -> Question:
    """Return the question for chunk `number` of `epoch`. `order` (count,) contains the epoch's record numbers."""
    return Question(epoch, np.ascontiguousarray(order[POSITIONS * number : POSITIONS * (number + 1)], np.int64))


def pack(rows: np.ndarray, images: np.ndarray, targets: Any, sizes: np.ndarray | None, bad: Sequence[Any]) -> Chunk:
    """Return the chunk of `rows` (n,) with images (n, 3, H, W).

    With `sizes` (n, 2), padding is removed from the images. `bad` contains (record number, reason, decode) for each bad
    record: see `BadRecords.among`.
    """
    if sizes is None:
        return Chunk(rows, images, targets, None, tuple(bad))
    parts = [image[:, :height, :width].ravel() for image, (height, width) in zip(images, sizes.tolist(), strict=True)]
    return Chunk(rows, np.concatenate(parts or [images.ravel()]), targets, sizes, tuple(bad))


@dataclasses.dataclass(frozen=True)
class Cut:
    """The records of a step, cut from its chunks. Fields are as in `source.Fetched`."""

    rows: np.ndarray
    images: torch.Tensor | None
    targets: Any
    sizes: np.ndarray | None


def cut(chunks: Sequence[Chunk], rows: np.ndarray, normalizer: Pipeline | None = None) -> Cut:
    """Return the records `rows` (B,) of a step, copied from `chunks`, in the order of the chunks.

    `chunks` must be all chunks that cover the step, in order. Records that are in no chunk are bad and are left out. If
    no record remains, the other fields of the result are None.

    Images keep the dtype of the chunks, and images of several sizes are padded to a batch. With `normalizer`, uint8
    images of one size are normalized to float32, with the mean and std of this pipeline, while they are copied.
    """
    shares = [(chunk, np.flatnonzero(np.isin(chunk.rows, rows, assume_unique=True))) for chunk in chunks]
    shares = [(chunk, at) for chunk, at in shares if len(at)]
    if not shares:
        return Cut(rows[:0], None, None, None)
    first = shares[0][0]
    kept = np.concatenate([chunk.rows[at] for chunk, at in shares])
    if isinstance(first.targets, list):
        targets: Any = [_copied(chunk.targets[index]) for chunk, at in shares for index in at.tolist()]
    else:
        targets = np.concatenate([chunk.targets[at] for chunk, at in shares])
    if first.sizes is not None:
        sizes = np.concatenate([chunk.sizes[at] for chunk, at in shares if chunk.sizes is not None])
        return Cut(kept, _padded(shares, sizes), targets, sizes)
    normalizing = normalizer is not None and first.images.dtype == np.uint8
    out = np.empty((len(kept), *first.images.shape[1:]), np.float32 if normalizing else first.images.dtype)
    start = 0
    for chunk, at in shares:
        # Records that are consecutive in the order are consecutive in the chunk too, since it omits only bad ones. Then
        # a view suffices instead of a copy.
        together = at[-1] - at[0] == len(at) - 1
        own, into = chunk.images[at[0] : at[-1] + 1] if together else chunk.images[at], out[start : start + len(at)]
        if normalizer is not None and normalizing:
            normalize_into(into, own, normalizer.mean, normalizer.std)
        else:
            into[:] = own
        start += len(at)
    return Cut(kept, torch.from_numpy(out), targets, None)


def _copied(target: Mapping[str, Any]) -> dict[str, Any]:
    """Return a target with copied arrays, since a chunk's arrays may be read-only and shared with other steps."""
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in target.items()}


def _padded(shares: Sequence[tuple[Chunk, np.ndarray]], sizes: np.ndarray) -> torch.Tensor:
    """Return images of chunks as one uint8 batch (B, 3, H, W), padded with zeros on the right and below.

    `shares` are chunks, each with the indices of its images to return. `sizes` (B, 2) are the heights and widths of
    these images. H and W are multiples of `PAD_TO`.
    """
    height, width = -(-sizes.max(axis=0) // PAD_TO) * PAD_TO
    out = np.zeros((len(sizes), 3, height, width), np.uint8)
    canvases = iter(out)
    for chunk, at in shares:
        assert chunk.sizes is not None
        ends = np.cumsum(3 * chunk.sizes.astype(np.int64).prod(axis=1)).tolist()
        for index in at.tolist():
            tall, wide = chunk.sizes[index].tolist()
            image = chunk.images[ends[index] - 3 * tall * wide : ends[index]]
            next(canvases)[:, :tall, :wide] = image.reshape(3, tall, wide)
    return torch.from_numpy(out)
