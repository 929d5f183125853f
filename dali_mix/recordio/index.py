"""Read and write .idx files, one `id\\toffset` per line. Reading is strict: DALI silently stops at a malformed line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

_LINE = re.compile(rb"\d{1,20}\t\d{1,18}")


def read_index(path: Path, size: int, advice: str = "") -> np.ndarray:
    """Return the offsets (n,) uint64 of an index, in ascending order.

    `size` is the total size of the .rec files in bytes. Error messages end with `advice`, by default `reindex_advice`,
    which works only for a set with a manifest.

    Raise FileNotFoundError if the file does not exist. Raise ValueError if it is empty, if a line is malformed, or if
    an offset is not a multiple of four, is past the end, or occurs twice.
    """
    advice = advice or reindex_advice(path)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: the index is missing; copy it too, or {advice}") from None
    if not text.strip():
        raise ValueError(f"{path}: the index is empty; {advice}")
    lines = text.removesuffix(b"\n").split(b"\n")
    offsets = np.empty(len(lines), dtype=np.uint64)
    for number, line in enumerate(lines):
        if not _LINE.fullmatch(line.removesuffix(b"\r")):
            raise ValueError(f"{path}: line {number + 1} is {line[:60]!r}, not `id<TAB>offset`; {advice}")
        offsets[number] = int(line.split(b"\t")[1])
    for bad, why in ((offsets % 4 != 0, "not a multiple of four"), (offsets >= size, f"past the end, {size}")):
        if bad.any():
            line_number = int(np.flatnonzero(bad)[0])
            raise ValueError(f"{path}: line {line_number + 1}: offset {offsets[line_number]} is {why}; {advice}")
    ordered = np.sort(offsets)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if twice.size:
        raise ValueError(f"{path}: offset {ordered[twice[0]]} occurs twice; {advice}")
    return ordered


def joint_offsets(table: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Return the offset of each row of `table` in the concatenation of all .rec files, (n,) uint64.

    DALI expects these offsets in the .idx file. `sizes` are the sizes of the .rec files in bytes. A row whose part is
    out of range is treated as a part after the last file.
    """
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
    return table["offset"] + starts[np.minimum(table["part"], len(sizes))]


def index_bytes(table: np.ndarray, sizes: list[int]) -> bytes:
    """Return the content of the .idx file for a table; `sizes` are the sizes of the .rec files in bytes."""
    offsets = joint_offsets(table, sizes).tolist()
    return "".join([f"{key}\t{offset}\n" for key, offset in zip(table["id"].tolist(), offsets, strict=True)]).encode()


def reindex_advice(path: Path) -> str:
    """Return advice on rebuilding the index `path`, for the end of an error message."""
    return f"rebuild it with `dali-mix adopt --reindex {path.with_name(path.name.removesuffix('.idx'))}`"
