"""RecordIO's framing: how payloads are stored in a .rec file, as mxnet 1.9.1 writes and reads it.

A frame consists of `uint32 MAGIC`, `uint32 (cflag << 29 | length)`, the payload, and zeros up to a multiple of four
bytes. Integers are little-endian. A payload that contains MAGIC at an offset that is a multiple of four is split there:
the magic is dropped, and the pieces become separate frames with cflag 1 (first), 2 (middle) and 3 (last). An unsplit
payload has cflag 0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
MAX_LENGTH = 1 << 29  # a payload must be shorter: three bits of the length word are the cflag
WHOLE, FIRST, MIDDLE, LAST = range(4)
FRAME_HEAD = struct.Struct("<II")
_NOWHERE = np.empty(0, dtype=np.int64)
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length % 4


class Record(NamedTuple):
    """A record's first offset, end offset (exclusive, after the padding) and payload length in bytes.

    `split` is True if the record consists of several frames.
    """

    offset: int
    end: int
    length: int  # of the payload
    split: bool


def magic_offsets(payload: bytes | bytearray | memoryview) -> np.ndarray:
    """Return the offsets (int64, bytes, multiples of four) at which `payload` contains MAGIC and must be split."""
    found = np.frombuffer(payload, dtype="<u4", count=len(payload) // 4) == MAGIC
    return np.flatnonzero(found) * 4 if found.any() else _NOWHERE


def frame(payload: bytes) -> bytes:
    """Return the bytes of `payload` as one record, split at each MAGIC. Raise ValueError for 2^29 bytes or more."""
    check_length(len(payload))
    cuts = magic_offsets(payload).tolist()
    cflags = [FIRST, *[MIDDLE] * (len(cuts) - 1), LAST] if cuts else [WHOLE]
    out = bytearray()
    start = 0
    for cflag, cut in zip(cflags, [*cuts, len(payload)], strict=True):
        length = cut - start
        out += FRAME_HEAD.pack(MAGIC, cflag << 29 | length)
        out += payload[start:cut]
        out += _PADDING[length % 4]
        start = cut + 4
    return bytes(out)


def check_length(length: int) -> None:
    """Raise ValueError if a payload of `length` bytes does not fit into a record."""
    if length >= MAX_LENGTH:
        raise ValueError(
            f"a record of {length:,} bytes does not fit RecordIO, whose limit is {MAX_LENGTH - 1:,} bytes;"
            " make the image smaller (--resize, --max-side, --quality)"
        )


def read_record(buffer: memoryview, offset: int) -> tuple[memoryview, Record]:
    """Return the payload of the record at `offset`, and its `Record`.

    The payload is a view of `buffer`, or a joined copy if the record is split. Raise ValueError if no valid record
    starts at `offset`: for example if the magic is wrong, `offset` is past the end, or pieces are out of order.
    """
    first, cflag, end = _read_frame(buffer, offset)
    if cflag == WHOLE:
        return first, Record(offset, end, len(first), False)
    if cflag != FIRST:
        raise ValueError(
            f"the frame at byte {offset} is a later piece of a split record (cflag {cflag}), not its beginning"
        )
    joined = bytearray(first)
    while cflag != LAST:
        piece, cflag, next_end = _read_frame(buffer, end)
        if cflag not in (MIDDLE, LAST):
            raise ValueError(f"the split record at byte {offset} is not continued at byte {end} (cflag {cflag})")
        if len(joined) % 4:
            raise ValueError(
                f"the split record at byte {offset} has a piece that ends off a multiple of four, at byte {end}"
            )
        joined += MAGIC_BYTES
        joined += piece
        end = next_end
    return memoryview(joined).toreadonly(), Record(offset, end, len(joined), True)


def _read_frame(buffer: memoryview, offset: int) -> tuple[memoryview, int, int]:
    size = len(buffer)
    if offset < 0 or offset % 4:
        raise ValueError(f"no record can begin at byte {offset}: not a multiple of four from 0")
    if offset + 8 > size:
        raise ValueError(f"no record at byte {offset}: the file ends at byte {size}")
    magic, word = FRAME_HEAD.unpack_from(buffer, offset)
    if magic != MAGIC:
        raise ValueError(f"no record at byte {offset}: found 0x{magic:08x} where the magic 0x{MAGIC:08x} belongs")
    length = word & (MAX_LENGTH - 1)
    start = offset + 8
    end = start + (length + 3 & ~3)
    if end > size:
        raise ValueError(f"the record at byte {offset} claims {length} bytes but the file ends at byte {size}")
    return buffer[start : start + length], word >> 29, end


def walk(buffer: memoryview) -> Iterator[tuple[memoryview, Record]]:
    """Yield (payload, Record) for each record of a .rec file. Raise ValueError at the first framing error."""
    offset = 0
    while offset < len(buffer):
        payload, record = read_record(buffer, offset)
        yield payload, record
        offset = record.end
