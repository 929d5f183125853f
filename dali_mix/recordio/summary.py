"""What a set holds, in figures: for `inspect` and the end of packing."""

from __future__ import annotations

from typing import Any

import numpy as np

from dali_mix._text import printable
from dali_mix.recordio.manifest import ENCODINGS, FLAG_SPLIT, SetInfo
from dali_mix.tasks import TASKS


def summarize(info: SetInfo, table: np.ndarray) -> dict[str, Any]:
    """Return figures as plain values: records, bytes, encodings, sizes in pixels, records a class, the report."""
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
    return figures | TASKS[info.task].figures(table, info.num_classes)


def _spread(values: np.ndarray) -> dict[str, int]:
    low, middle, high = np.percentile(values, [0, 50, 100])
    return {"least": int(low), "median": int(middle), "most": int(high)}


def lines(figures: dict[str, Any]) -> list[str]:
    """The figures as a table of text, a line each; the report's lists as their lengths."""

    def shown(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {shown(inner)}" for key, inner in value.items()) or "-"
        if isinstance(value, list):
            return str(len(value))
        return f"{value:,}" if isinstance(value, int) else str(value) or "-"

    width = max(len(key) for key in figures)
    return [printable(f"{key.replace('_', ' '):<{width}}  {shown(value)}") for key, value in figures.items()]
