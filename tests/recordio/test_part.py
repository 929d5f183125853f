"""A .rec file whose pieces are stored out of order."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from dali_mix.recordio.part import Part


def test_pieces_may_be_stored_out_of_order(tmp_path: Path) -> None:
    pieces = [os.urandom(size) for size in (100, 1, 5000, 64)]
    part = Part(tmp_path / "part")
    offsets = [part.place(memoryview(piece)) for piece in pieces]
    part.end()
    for piece, at in reversed(list(zip(pieces, offsets, strict=True))):
        assert not part.closed
        part.store(memoryview(piece), at)
    assert part.closed  # closed after the last piece
    assert (tmp_path / "part").read_bytes() == b"".join(pieces)
    assert part.sha256 == hashlib.sha256(b"".join(pieces)).hexdigest() and part.size == 5165
