"""Summarize a set, for `dali-mix inspect` and at the end of packing."""

from __future__ import annotations

from typing import Any

import numpy as np

from dali_mix._text import printable
from dali_mix.recordio.manifest import ENCODINGS, FLAG_SPLIT
from dali_mix.recordio.reader import RecordSet

_SHOWN = 20  # entries of a dict in a line


def summarize(records: RecordSet) -> dict[str, Any]:
    """Return statistics of a set as a dict of JSON values: records, bytes, encodings, height, width, report, …"""
    info, table = records.info, records.table
    heights, widths = table["height"], table["width"]
    kinds, counts = np.unique(table["encoding"], return_counts=True)
    names = [ENCODINGS[kind] if kind < len(ENCODINGS) else str(kind) for kind in kinds.tolist()]
    figures: dict[str, Any] = {
        "task": info.task,
        "classes": info.num_classes,
        "records": info.count,
        "source": info.source,
        "split": info.split,
        "files": len(info.parts),
        "bytes": sum(part.size for part in info.parts),
        "encodings": dict(zip(names, counts.tolist(), strict=True)),
        "height": _spread(heights),
        "width": _spread(widths),
        "bytes_a_record": _spread(table["length"]),
        "split_records": int(np.count_nonzero(table["flags"] & FLAG_SPLIT)),
        "fingerprint": info.fingerprint,
        "report": info.report,
    }
    return figures | records.task.figures(records)


def _spread(values: np.ndarray) -> dict[str, int]:
    low, middle, high = np.percentile(values, [0, 50, 100])
    return {"least": int(low), "median": int(middle), "most": int(high)}


def lines(figures: dict[str, Any]) -> list[str]:
    """Return the result of `summarize` as lines of text, one per key.

    A list is shown as its length, and a dict by its first 20 items. The number of split records is omitted if it is 0.
    """

    def shown(value: Any) -> str:
        if isinstance(value, dict):
            most = [f"{key} {shown(inner)}" for key, inner in list(value.items())[:_SHOWN]]
            return ", ".join(most + [f"… ({len(value)})"] * (len(value) > _SHOWN)) or "-"
        if isinstance(value, list):
            return str(len(value))
        return f"{value:,}" if isinstance(value, int) else str(value) or "-"

    figures = {key: value for key, value in figures.items() if key != "split_records" or value}
    width = max(len(key) for key in figures)
    return [printable(f"{key.replace('_', ' '):<{width}}  {shown(value)}") for key, value in figures.items()]
