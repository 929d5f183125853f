"""Framed records, concatenated in one buffer that is hashed and written as a single piece.

    | record                                                     | record …
    | frame head | IRHeader | label floats | image, zero padding | frame head …
                                             ^ reserved by `room`

`room` reserves space for the next image, so that a file is read directly to its final position.

A thread that hashes or writes single images needs the GIL for each of them. With blocks, it needs the GIL once for up
to 16 images.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

from dali_mix.recordio.framing import FRAME_HEAD, MAGIC, check_length, frame, magic_offsets
from dali_mix.recordio.header import HEADER, Label, pack_header
from dali_mix.recordio.image_headers.common import ImageHeader
from dali_mix.recordio.manifest import ENCODINGS, FLAG_SPLIT
from dali_mix.tasks import Task

_SMALLEST, _FULL = 1 << 21, 1 << 22  # initial size of the buffer, and size from which a block is full, in bytes
_MOST = 16  # number of records from which a block is full


class Entry(NamedTuple):
    """A record of a block: position in the set, framed size in bytes, and table row without offset and part."""

    position: int
    size: int
    row: tuple[int, int, int, int, int, float, int, int]  # length, crc32, height, width, id, label, encoding, flags


class Block:
    """A buffer of framed records, described by `entries`. Not thread-safe."""

    def __init__(self, task: Task, num_classes: int) -> None:
        self._task, self._num_classes = task, num_classes
        self.entries: list[Entry] = []
        self._buffer = bytearray(_SMALLEST)
        self._size = 0
        self._reserved = -1  # the offset of the buffer last returned by `room`; -1 before

    @property
    def capacity(self) -> int:
        """Return the number of bytes allocated."""
        return len(self._buffer)

    @property
    def full(self) -> bool:
        """Return True if the block has at least 16 records or 4 MiB.

        The caller should then write it and use another one; `add` does not enforce the limits.
        """
        return len(self.entries) >= _MOST or self._size >= _FULL

    def clear(self) -> None:
        """Remove the records; the memory stays allocated."""
        self.entries = []
        self._size = 0

    def view(self) -> memoryview:
        """Return a view of the records' bytes, which must be used before the block changes."""
        return memoryview(self._buffer)[: self._size]

    def room(self, size: int, label: Label) -> memoryview:
        """Return a writable buffer of `size` bytes for the next image, at its final position in the block.

        Write the image to the start of the buffer and pass the filled part to `add` as the next record, with the same
        `label`. Then `add` does not copy it.

        Raise ValueError, before allocating memory, if the record's payload would have 2^29 bytes or more.
        """
        self._reserved = self._body(label, size)
        return memoryview(self._buffer)[self._reserved : self._reserved + size]

    def add(
        self,
        position: int,
        encoded: bytes | memoryview,
        label: Label,
        record_id: int,
        header: ImageHeader,
    ) -> None:
        """Append an image (encoded bytes, or the start of the buffer returned by `room`) and its label.

        Raise ValueError for an invalid label or id, or a payload of 2^29 bytes or more.
        """
        self._task.check(label, self._num_classes)
        head = pack_header(label, record_id)
        length = len(head) + len(encoded)
        body = self._body(label, len(encoded))
        start, payload = self._size, body - len(head)
        view = memoryview(self._buffer)
        in_place = isinstance(encoded, memoryview) and encoded.obj is self._buffer and self._reserved == body
        if not in_place:
            view[body : body + len(encoded)] = bytes(encoded)
        view[payload:body] = head
        record = view[payload : payload + length]
        crc = zlib.crc32(record)
        split = len(magic_offsets(record)) > 0
        if split:
            framed = frame(bytes(record))
            self._reserve(start + len(framed))
            self._buffer[start : start + len(framed)] = framed
            self._size = start + len(framed)
        else:
            FRAME_HEAD.pack_into(view, start, MAGIC, length)
            self._size = payload + (length + 3 & ~3)
            view[payload + length : self._size] = bytes(self._size - payload - length)
        flags = FLAG_SPLIT if split else 0
        encoding = ENCODINGS.index(header.encoding)
        row = (length, crc, header.height, header.width, record_id, self._task.scalar(label), encoding, flags)
        self.entries.append(Entry(position, self._size - start, row))

    def _body(self, label: Label, size: int) -> int:
        """Return the offset in the buffer of the next record's image, which has `size` bytes.

        Enlarge the buffer if the record and its padding do not fit. Raise ValueError for a payload of 2^29 bytes or
        more.
        """
        floats = len(label) if hasattr(label, "__len__") else 0
        check_length(HEADER.size + 4 * floats + size)
        body = self._size + FRAME_HEAD.size + HEADER.size + 4 * floats
        self._reserve(body + size + 3)
        return body

    def _reserve(self, size: int) -> None:
        if size > len(self._buffer):
            larger = bytearray(max(size, 2 * len(self._buffer)))
            larger[: self._size] = self.view()
            self._buffer = larger  # views of the old buffer stay valid
