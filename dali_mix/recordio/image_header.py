"""Height, width and format of an encoded image from its header alone: no decoding, no dependency.

Knows what DALI decodes and a training set holds: JPEG, PNG, WebP, BMP, binary PNM. Dimensions are those after turning
by EXIF, which is how DALI decodes. A GIF, a web page saved as an image, an empty or a cut file is a ValueError that
says so.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_JPEG_END = b"\xff\xd9"
# Markers that begin a frame (SOF0..SOF15) without DHT (C4), JPG (C8) and DAC (CC), which share the range.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NO_LENGTH = frozenset(range(0xD0, 0xD8)) | {0x01}
_MAX_SIDE = (1 << 31) - 1
PNM_MAXIMA = 255, 65535  # DALI 2.4 does not scale by a PNM's greatest value


class ImageHeader(NamedTuple):
    """`encoding` as in `manifest.ENCODINGS`; pixels `height` and `width` after EXIF turning; EXIF `orientation` 1 to
    8."""

    encoding: str
    height: int
    width: int
    orientation: int = 1


def read_image_header(data: bytes | memoryview) -> ImageHeader:
    """Reads the header of an encoded image and checks that its end is there.

    `data` is the whole file. The end of a JPEG is its EOI marker, of a PNG its IEND chunk, of WebP, BMP and PNM the
    size their header implies. Raises ValueError for an unknown or unsupported format and for a file that is cut.
    """
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    data = bytes(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:2] == b"BM":
        return _bmp(data)
    if data[:2] in (b"P5", b"P6") and data[2:3].isspace():
        return _pnm(data)
    raise ValueError(_what_else(data))


def _what_else(data: bytes) -> str:
    if not data:
        return "empty: 0 bytes"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "a GIF, which DALI does not decode; convert it to PNG, or pack with --encoding png"
    start = data[:256].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head")):
        return "a web page or XML, not an image: the download failed; fetch it again"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "a TIFF: training reads JPEG, PNG, WebP, BMP and PNM; pack with --encoding png"
    if not data.strip(b"\0"):
        return f"{len(data)} zero bytes: the file was never written"
    return f"not an image known here (JPEG, PNG, WebP, BMP, PNM): it begins with {data[:8].hex(' ')}"


def _sized(encoding: str, height: int, width: int, orientation: int = 1) -> ImageHeader:
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise ValueError(f"a damaged {encoding.upper()}: its header says {width}x{height} pixels")
    if orientation >= 5:
        height, width = width, height
    return ImageHeader(encoding, height, width, orientation)


def _cut(name: str, data: bytes | memoryview) -> ValueError:
    return ValueError(f"a {name} cut short after {len(data):,} bytes; fetch or copy the file again")


def _jpeg(data: bytes | memoryview) -> ImageHeader:
    size, place, orientation = len(data), 2, 1
    while place + 4 <= size:
        if data[place] != 0xFF:
            raise ValueError(f"a damaged JPEG: byte {place} is 0x{data[place]:02x} where a marker belongs")
        marker = data[place + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            place += 1
            continue
        if marker in _NO_LENGTH:
            place += 2
            continue
        if marker in (0xD9, 0xDA):
            raise ValueError("a damaged JPEG: its picture data begins before its dimensions")
        length = data[place + 2] << 8 | data[place + 3]
        if length < 2:
            raise ValueError(f"a damaged JPEG: the segment at byte {place} has length {length}")
        if marker in _FRAME_MARKERS:
            if place + 9 > size or length < 8:
                break
            height, width = struct.unpack_from(">HH", data, place + 5)
            if size < place + length + 4 or data[-2:] != _JPEG_END:
                _check_jpeg_end(bytes(data), place + length + 2)
            return _sized("jpeg", height, width, orientation)
        if marker == 0xE1 and data[place + 4 : place + 10] == b"Exif\0\0":
            orientation = exif_orientation(bytes(data[place + 10 : place + 2 + length]))
        place += 2 + length
    raise _cut("JPEG", data)


def _check_jpeg_end(data: bytes, start: int) -> None:
    """For files that do not end in EOI: padding and cameras' trailers may follow it, but a cut file has none after its
    last scan.
    """
    end = data.rfind(_JPEG_END)
    scan = data.rfind(b"\xff\xda", start)
    if end < start or end < scan or scan < 0:
        raise _cut("JPEG", data)


def exif_orientation(tiff: bytes) -> int:
    """The orientation (1 to 8) an EXIF block's first directory states; 1 when there is none or the block is damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (place,) = struct.unpack_from(order + "I", tiff, 4)
    if place + 2 > len(tiff):
        return 1
    (entries,) = struct.unpack_from(order + "H", tiff, place)
    for entry in range(place + 2, min(place + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, kind, count = struct.unpack_from(order + "HHI", tiff, entry)
        if tag == 0x0112:
            value = struct.unpack_from(order + ("H" if kind == 3 else "I"), tiff, entry + 8)[0]
            return value if count == 1 and kind in (3, 4) and 1 <= value <= 8 else 1
    return 1


def _png(data: bytes) -> ImageHeader:
    if len(data) < 33:
        raise _cut("PNG", data)
    if data[12:16] != b"IHDR":
        raise ValueError("a damaged PNG: its first chunk is not IHDR")
    width, height = struct.unpack_from(">II", data, 16)
    place, orientation = 33, 1
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind = data[place + 4 : place + 8]
        if kind == b"IEND":
            return _sized("png", height, width, orientation)
        if kind == b"eXIf":
            orientation = exif_orientation(data[place + 8 : place + 8 + length])
        place += 12 + length
    raise _cut("PNG", data)


def _webp(data: bytes) -> ImageHeader:
    if len(data) < 30:
        raise _cut("WebP", data)
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise _cut("WebP", data)
    kind = data[12:16]
    if kind == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            raise ValueError("a damaged WebP: its key frame has no start code")
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
        return _sized("webp", height, width)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return _sized("webp", (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    if kind != b"VP8X":
        raise ValueError(f"a damaged WebP: its first chunk is {kind!r}")
    if data[20] & 0x02:
        raise ValueError("an animated WebP, not one image; extract a frame")
    width = int.from_bytes(data[24:27], "little") + 1
    height = int.from_bytes(data[27:30], "little") + 1
    return _sized("webp", height, width, _webp_orientation(data))


def _webp_orientation(data: bytes) -> int:
    place = 30
    while place + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, place + 4)
        if data[place : place + 4] == b"EXIF":
            block = data[place + 8 : place + 8 + length]
            return exif_orientation(block.removeprefix(b"Exif\0\0"))
        place += 8 + length + (length & 1)
    return 1


def _bmp(data: bytes) -> ImageHeader:
    if len(data) < 26:
        raise _cut("BMP", data)
    start, head = struct.unpack_from("<II", data, 10)
    if head == 12:
        width, height, bits = *struct.unpack_from("<HH", data, 18), struct.unpack_from("<H", data, 24)[0]
        compression = 0
    else:
        if head < 40 or len(data) < 54:
            raise ValueError(f"a damaged BMP: its header has {head} bytes")
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)
    if compression in (0, 3) and width > 0 and len(data) < start + (width * bits + 31) // 32 * 4 * height:
        raise _cut("BMP", data)
    return _sized("bmp", height, width)


def _pnm(data: bytes) -> ImageHeader:
    width, height, maximum, place = pnm_numbers(data)
    if not 0 < maximum < 65536:
        raise ValueError(f"a damaged PNM: its greatest value is {maximum}")
    header = _sized("pnm", height, width)
    if len(data) < place + 1 + width * height * (3 if data[:2] == b"P6" else 1) * (2 if maximum > 255 else 1):
        raise _cut("PNM", data)
    if maximum not in PNM_MAXIMA:
        raise ValueError(
            f"a PNM whose white is {maximum}: DALI takes it for 255, or 65535, and the image would be too dark;"
            " convert it, or pack with --encoding png"
        )
    return header


def pnm_numbers(data: bytes) -> tuple[int, int, int, int]:
    """Width, height and greatest value a binary PNM states, and the byte its header ends at. Raises ValueError."""
    numbers: list[int] = []
    place = 2
    while len(numbers) < 3:
        while data[place : place + 1].isspace():
            place += 1
        if data[place : place + 1] == b"#":
            place = data.find(b"\n", place)
            if place < 0:
                raise _cut("PNM", data)
            continue
        end = place
        while data[end : end + 1].isdigit() and end - place < 10:
            end += 1
        if end == place:
            raise ValueError(f"a damaged PNM: no number at byte {place} of its header")
        numbers.append(int(data[place:end]))
        place = end
    return numbers[0], numbers[1], numbers[2], place
