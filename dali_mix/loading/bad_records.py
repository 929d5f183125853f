"""`BadRecords`: keep track of records that cannot be used, and raise an error for them or skip them."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class BadRecords:
    """The bad records found so far in a set. If `skip` is False, `found` raises an error for the first one.

    Attributes:
        prefix: prefix of the set.
        skip: True to skip bad records, False to raise an error.
        skipped: (record number, reason) pairs in the order found.
    """

    def __init__(self, prefix: Path, skip: bool) -> None:
        self.skip = skip
        self.skipped: list[tuple[int, str]] = []
        self.prefix = prefix
        self._decode: dict[int, bool] = {}

    def __len__(self) -> int:
        return len(self._decode)

    def found(self, row: int, reason: str, *, decode: bool = False) -> None:
        """Add record `row` to `skipped`, unless it is there already. If `skip` is False, raise ValueError instead.

        `reason` begins the error message, so it should name file and record. `decode` is True if the error is found
        only by decoding the record; the message then recommends `dali-mix verify --decode`.
        """
        if not self.skip:
            option = "--decode " if decode else ""
            raise ValueError(
                f"{reason}; run `dali-mix verify {option}{self.prefix}` to find all such records, pack the set"
                " again, or go on without them with on_bad_record='skip' (in a recipe"
                " loader.on_bad_record)"
            )
        if row not in self._decode:
            self._decode[row] = decode
            self.skipped.append((row, reason))

    def among(self, rows: np.ndarray) -> list[tuple[int, str, bool]]:
        """Return (record number, reason, decode), the arguments of `found`, for each bad record in `rows`."""
        if not self._decode:
            return []
        reasons = dict(self.skipped)
        return [(row, reasons[row], self._decode[row]) for row in rows.tolist() if row in self._decode]

    def without(self, rows: np.ndarray) -> np.ndarray:
        """Return `rows` without the records known to be bad, in the same order."""
        if not self._decode:
            return rows
        return np.array([row for row in rows.tolist() if row not in self._decode], dtype=np.int64)
