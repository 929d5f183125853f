"""A few images of a packed set, decoded to one size, for pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dali_mix.datasets.decoding import decode_bgr
from dali_mix.recordio import RecordSet, read_image_header

SMALLEST, LARGEST = 32, 224


def natural_size(records: RecordSet) -> int:
    """Return a side, in pixels, that suits the set: its median shorter side, at least 32 and at most 224."""
    shorter = np.median(np.minimum(records.table["height"], records.table["width"]))
    return min(max(int(shorter), SMALLEST), LARGEST)


def read_images(records: RecordSet, rows: Sequence[int], size: int) -> Tensor:
    """Return the central square of each image: (len(rows), 3, size, size) uint8 RGB.

    Raises:
        ValueError: a record that cannot be decoded; the message names it.
    """
    images = np.empty((len(rows), size, size, 3), dtype=np.uint8)
    for index, row in enumerate(rows):
        data = records.encoded(row).tobytes()
        try:
            upright = Image.fromarray(decode_bgr(data, read_image_header(data, plain=False))[:, :, ::-1])
        except ValueError as error:
            raise ValueError(
                f"{records.prefix}: record {row}: {error} (`dali-mix verify --decode {records.prefix}` finds all such)"
            ) from error
        # Enlarged pixels stay sharp squares; reduced ones are averaged.
        enlarged = min(upright.size) < size
        resampling = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
        images[index] = np.asarray(ImageOps.fit(upright, (size, size), resampling))
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def read_targets(records: RecordSet, rows: Sequence[int]) -> Tensor:
    """Return (B,) int64 class numbers or (B,K) float32 multi-hot rows.

    Raises:
        ValueError: a set whose targets mixers do not take.
    """
    if (task := records.task).target_kind is None:
        raise ValueError(f"{records.prefix} is a {task.name} set: mixers take class numbers or multi-hot labels")
    return torch.from_numpy(np.asarray(records.labels(np.asarray(rows, dtype=np.int64))))
