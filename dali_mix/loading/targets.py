"""What a batch's targets are made of: finished, but in numpy still, which travels well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dali_mix.pipelines import Pipeline
from dali_mix.recordio import RecordSet


def targets_of(records: RecordSet, pipeline: Pipeline, rows: np.ndarray, draws: Mapping[str, np.ndarray]) -> Any:
    """Return the labels of records `rows` (B,), an array, or for boxes a list of dicts.

    A dict has the boxes as `draws` left them and as `Batch` describes them, and `dropped`: how many have no area left.
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
