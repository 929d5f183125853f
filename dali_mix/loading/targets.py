"""Build the targets of a batch as numpy arrays, which are cheap to send between processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dali_mix.pipelines import Pipeline
from dali_mix.recordio import RecordSet


def targets_of(records: RecordSet, pipeline: Pipeline, rows: np.ndarray, draws: Mapping[str, np.ndarray]) -> Any:
    """Return the targets of records `rows` (B,): an array (see `RecordSet.labels`), or for boxes a list of B dicts.

    A dict has the fields of a detection target in `Batch`, with arrays instead of tensors. Its boxes are transformed by
    `pipeline` with `draws`, the random values drawn for `rows`, and clipped to the image. The additional field
    `dropped` is the number of boxes that were dropped because no area remained.
    """
    labels = records.labels(rows)
    if not records.task.boxes:
        return labels
    table, found = np.asarray(records.table[rows]), []
    for sample, (label, size) in enumerate(zip(labels, pipeline.sizes(table, draws).tolist(), strict=True)):
        boxes = pipeline.map_boxes(label[:, 1:5], table[sample], draws, sample)
        boxes = np.clip(boxes, 0, [size[1], size[0], size[1], size[0]]).astype(np.float32)
        keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        found.append(
            {
                "boxes": boxes[keep],
                "labels": label[keep, 0].astype(np.int64),
                "difficult": label[keep, 5] > 0,
                "size": tuple(size),
                "original": (int(table[sample]["height"]), int(table[sample]["width"])),
                "dropped": int(len(keep) - keep.sum()),
            }
        )
    return found
