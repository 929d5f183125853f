"""`BadRecords`: which records cannot be used, and what to do about one."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class BadRecords:
    """The records of the set at `prefix` that were found bad: raise, or skip them from then on.

    Attributes:
        prefix, skip: as in the constructor.
        skipped: (record number, reason) in the order found.
    """

    def __init__(self, prefix: Path, skip: bool) -> None:
        self.skip = skip
        self.skipped: list[tuple[int, str]] = []
        self.prefix = prefix
        self._decode: dict[int, bool] = {}

    def __len__(self) -> int:
        return len(self._decode)

    def found(self, row: int, reason: str, *, decode: bool = False) -> None:
        """Note a bad record. Raise ValueError naming file and record unless bad records are to be skipped.

        `decode`: whether it takes decoding to find such records.
        """
        if not self.skip:
            option = "--decode " if decode else ""
            raise ValueError(
                f"{reason}; run `dali-mix verify {option}{self.prefix}` to find all such records, pack the set"
                " again, or go on without them with on_bad_record='skip' (`dali-mix train`: --cfg-options"
                " loader.on_bad_record=skip)"
            )
        if row not in self._decode:
            self._decode[row] = decode
            self.skipped.append((row, reason))

    def among(self, rows: np.ndarray) -> list[tuple[int, str, bool]]:
        """Return those of `rows` that are bad: the arguments of `found`."""
        if not self._decode:
            return []
        reasons = dict(self.skipped)
        return [(row, reasons[row], self._decode[row]) for row in rows.tolist() if row in self._decode]

    def without(self, rows: np.ndarray) -> np.ndarray:
        """Return `rows` without the bad ones."""
        if not self._decode:
            return rows
        return np.array([row for row in rows.tolist() if row not in self._decode], dtype=np.int64)
