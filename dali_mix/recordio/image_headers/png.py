"""Read the header of a PNG, and check its chunks and their checksums."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from dali_mix.recordio.image_headers.common import ImageHeader, cut_short, merged, read_exif, sized

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_DEPTHS = {_GRAY: (1, 2, 4, 8, 16), _RGB: (8, 16), _PALETTE: (1, 2, 4, 8), _GRAY_ALPHA: (8, 16), _RGBA: (8, 16)}
_CHANNELS = {_GRAY: 1, _RGB: 3, _PALETTE: 3, _GRAY_ALPHA: 2, _RGBA: 4}
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # the chunks that determine the pixels


_ANIMATION = (b"acTL", b"fcTL", b"fdAT")  # DALI fails on a frame header even without an acTL chunk


class _Chunk(NamedTuple):
    kind: bytes
    start: int  # offset of its length field
    end: int  # offset of the byte after its CRC

    def content(self, data: bytes) -> bytes:
        return data[self.start + 8 : self.end - 4]


def read_png(data: bytes) -> ImageHeader:
    """Return the header of a PNG.

    Raise ValueError if it is truncated, has an unknown critical chunk, or has an invalid header, checksum, chunk order
    or chunk length.
    """
    chunks = list(_chunks(data))
    head = _header(data, chunks[0])
    blocks = [read_exif(chunk.content(data)) for chunk in chunks if chunk.kind == b"eXIf"]
    odd = "an animated PNG" if any(chunk.kind in _ANIMATION for chunk in chunks) else ""
    _check_order(data, chunks, head)
    return sized("png", head.height, head.width, merged(blocks), odd=odd, channels=_CHANNELS[head.color])


class _Head(NamedTuple):
    width: int
    height: int
    depth: int
    color: int
    compression: int
    filtering: int
    interlace: int


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks up to and including IEND.

    Raise ValueError for a chunk with an invalid name or a wrong CRC, or if the data ends before the end of IEND.
    """
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if not kind.isalpha():
            raise ValueError(f"a damaged PNG: the chunk at byte {at} is called {kind!r}; fetch the file again")
        if end > len(data):
            break
        if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ValueError(
                f"a damaged PNG: the checksum of its chunk {kind.decode()} at byte {at} is wrong; fetch the file again"
            )
        yield _Chunk(kind, at, end)
        if kind == b"IEND":
            return
        at = end
    raise cut_short("PNG", data)


def _header(data: bytes, first: _Chunk) -> _Head:
    content = first.content(data)
    if first.kind != b"IHDR" or len(content) != 13:
        raise ValueError("a damaged PNG: its first chunk is not an IHDR of 13 bytes; fetch the file again")
    head = _Head(*struct.unpack(">IIBBBBB", content))
    if head.depth not in _DEPTHS.get(head.color, ()) or head.compression or head.filtering or head.interlace > 1:
        raise ValueError(
            f"a damaged PNG: its header says colour type {head.color}, {head.depth} bits, compression"
            f" {head.compression}, filter {head.filtering}, interlace {head.interlace}; fetch the file again"
        )
    return head


def _check_order(data: bytes, chunks: list[_Chunk], head: _Head) -> None:
    """Raise ValueError unless critical chunks are known and in order, and palette, tRNS and IEND have valid sizes."""
    kinds = [chunk.kind for chunk in chunks]
    unknown = [kind for kind in kinds if kind[0] < 0x61 and kind not in _PIXELS]
    if unknown:
        raise ValueError(f"a PNG with the critical chunk {unknown[0].decode()}, which decoders refuse; convert it")
    data_chunks = [number for number, kind in enumerate(kinds) if kind == b"IDAT"]
    if not data_chunks or data_chunks[-1] - data_chunks[0] != len(data_chunks) - 1:
        raise ValueError("a damaged PNG: its IDAT chunks are missing or not consecutive; fetch the file again")
    for kind, most in ((b"IHDR", 1), (b"PLTE", 1), (b"tRNS", 1)):
        numbers = [number for number, other in enumerate(kinds) if other == kind]
        if len(numbers) > most or (numbers and numbers[0] > data_chunks[0]):
            raise ValueError(f"a damaged PNG: {kind.decode()} occurs twice or after IDAT; fetch the file again")
    contents = {chunk.kind: chunk.content(data) for chunk in chunks if chunk.kind in (b"PLTE", b"tRNS", b"IEND")}
    entries, rest = divmod(len(contents.get(b"PLTE", b"")), 3)
    if rest or entries > 256 or (head.color == _PALETTE and not 1 <= entries <= 1 << head.depth):
        raise ValueError(f"a damaged PNG: {len(contents.get(b'PLTE', b''))} bytes of palette; fetch the file again")
    transparent = len(contents.get(b"tRNS", b""))
    most = {_PALETTE: entries, _GRAY: 2, _RGB: 6}.get(head.color, 0)
    if transparent > most or contents[b"IEND"]:
        raise ValueError(
            f"a damaged PNG: {transparent} bytes of tRNS where at most {most} belong, or an IEND that is not empty;"
            " fetch the file again"
        )


def pixel_chunks(data: bytes) -> bytes:
    """Return a PNG with only the chunks that determine its pixels: no text, EXIF, colour profile or animation frames.

    `data` must have passed `read_png`.
    """
    return SIGNATURE + b"".join(data[chunk.start : chunk.end] for chunk in _chunks(data) if chunk.kind in _PIXELS)


def check_pixels(data: bytes) -> None:
    """Raise ValueError unless the pixels can be decompressed and are complete.

    No decoder is used for this check, since programs based on libpng tolerate different kinds of damage. `data` must
    have passed `read_png`.
    """
    chunks = list(_chunks(data))
    expected = _raw_size(_header(data, chunks[0]))
    packed = b"".join(chunk.content(data) for chunk in chunks if chunk.kind == b"IDAT")
    stream, found = zlib.decompressobj(), 0
    try:
        while found <= expected and (piece := stream.decompress(packed, 1 << 20)):
            found += len(piece)
            packed = stream.unconsumed_tail
    except zlib.error as error:
        raise ValueError(f"cannot be decoded: {error}; fetch the file again") from None
    if found < expected or (found == expected and not stream.eof):
        raise ValueError(
            f"cannot be decoded: its pixels end after {found:,} of {expected:,} bytes; fetch the file again"
        )


def _raw_size(head: _Head) -> int:
    """Return the size of the decompressed pixels in bytes, including the filter byte of each row."""
    samples = {_PALETTE: 1}.get(head.color, _CHANNELS[head.color])
    passes = [(0, 0, 1, 1)]
    if head.interlace:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    total = 0
    for top, left, down, right in passes:
        rows, columns = -(-(head.height - top) // down), -(-(head.width - left) // right)
        if rows > 0 and columns > 0:
            total += rows * (1 + (columns * samples * head.depth + 7) // 8)
    return total
