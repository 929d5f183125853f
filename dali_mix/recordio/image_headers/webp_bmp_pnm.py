"""Read the headers of WebP, BMP and binary PNM files."""

from __future__ import annotations

import re
import struct

from dali_mix.recordio.image_headers.common import ImageHeader, cut_short, merged, read_exif, sized

PNM_MAXIMA = 255, 65535  # DALI 2.4 does not scale by a PNM's maximum value
_PNM_NUMBER = re.compile(rb"(?:\s+|#[^\n]*\n)*+(\d{1,10})")  # *+ is possessive: backtracking would store each comment
_ORDER = (b"ICCP", b"ALPH", b"VP8 ", b"VP8L", b"EXIF", b"XMP ")  # in another order, libwebp ignores the rest
_ANIMATION, _EXIF = 0x02, 0x08  # flags of VP8X


def read_webp(data: bytes) -> ImageHeader:
    """Return the header of a WebP. Raise ValueError if it is damaged, truncated or animated."""
    if len(data) < 30:
        raise cut_short("WebP", data)
    end = int.from_bytes(data[4:8], "little") + 8
    if end > len(data):
        raise cut_short("WebP", data)
    kind = data[12:16]
    if kind not in (b"VP8 ", b"VP8L", b"VP8X"):
        raise ValueError(f"a damaged WebP: its first chunk is {kind!r}; fetch the file again")
    _riff_chunk(data, 12, end)
    if kind != b"VP8X":
        return sized("webp", *_webp_frame(data, 12))
    flags = data[20]
    if data[16:20] != b"\x0a\0\0\0":
        raise ValueError("a damaged WebP: its VP8X chunk does not have 10 bytes; fetch the file again")
    if flags & _ANIMATION:
        raise ValueError("an animated WebP, not one image; extract a frame")
    width = int.from_bytes(data[24:27], "little") + 1
    height = int.from_bytes(data[27:30], "little") + 1
    frame, exif, kinds = None, [], []
    padded = misread = False
    at = 30
    while at + 8 <= end:
        kind = data[at : at + 4]
        start, stop = _riff_chunk(data, at, end)
        kinds.append(kind)
        if kind == b"VP8X":
            raise ValueError("a damaged WebP: it has two canvases; fetch the file again")
        if kind == b"EXIF":
            misread |= padded
            exif.append(read_exif(data[start:stop].removeprefix(b"Exif\0\0")))
        elif kind in (b"VP8 ", b"VP8L"):
            if frame is not None:
                raise ValueError("a damaged WebP: it has two images; fetch the file again")
            frame = _webp_frame(data, at)
        padded |= bool(stop - start & 1)
        at = stop + (stop - start & 1)
    if frame != (height, width):
        found = "no image" if frame is None else f"an image of {frame[1]}x{frame[0]}"
        raise ValueError(f"a damaged WebP: {found} on a canvas of {width}x{height} pixels; fetch the file again")
    order = [_ORDER.index(kind) if kind in _ORDER else -1 for kind in kinds]
    odd = "" if order == sorted(set(order)) and -1 not in order else "a WebP with unknown, repeated or misplaced chunks"
    if misread:  # DALI 2.4 does not skip the padding byte when looking for the EXIF block
        odd = odd or "a WebP with a chunk of odd length before its EXIF block"
    if bool(flags & _EXIF) != bool(exif):
        odd, exif = "a WebP whose flags contradict its EXIF block", exif if flags & _EXIF else []
    return sized("webp", height, width, merged(exif), odd=odd)


def _riff_chunk(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return (start, stop) of the content of the chunk at byte `at`. Raise ValueError if `stop` is after `end`."""
    stop = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    if stop > end:
        raise cut_short("WebP", data)
    return at + 8, stop


def _webp_frame(data: bytes, at: int) -> tuple[int, int]:
    """Return the height and width of the image in the chunk at byte `at`. Raise ValueError if its header is invalid."""
    if len(data) < at + 18:
        raise cut_short("WebP", data)
    if data[at : at + 4] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, at + 9)
        if data[at + 8] != 0x2F or bits >> 29:
            raise ValueError("a damaged WebP: its lossless image has no signature; fetch the file again")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if data[at + 11 : at + 14] != b"\x9d\x01\x2a":
        raise ValueError("a damaged WebP: its key frame has no start code; fetch the file again")
    width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, at + 14))
    return height, width


def read_bmp(data: bytes) -> ImageHeader:
    """Return the header of a BMP. Raise ValueError if it is damaged or truncated."""
    if len(data) < 26:
        raise cut_short("BMP", data)
    start, head = struct.unpack_from("<II", data, 10)
    compression, colours = 0, 0
    if head == 12:
        width, height, planes, bits = struct.unpack_from("<HHHH", data, 18)
        odd = "a BMP of OS/2"
    else:
        if head < 40 or len(data) < 54:
            raise ValueError(f"a damaged BMP: its header has {head} bytes; fetch the file again")
        width, height, planes, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        (colours,) = struct.unpack_from("<I", data, 46)
        odd = "" if head in (40, 108, 124) else f"a BMP with a header of {head} bytes"
    palette = (colours or 1 << bits) if bits <= 8 else 0
    if width < 1 or not height or planes != 1 or bits not in (1, 4, 8, 16, 24, 32) or palette > 1 << bits:
        raise ValueError(
            f"a damaged BMP: its header says {width}x{abs(height)} pixels, {planes} planes, {bits} bits,"
            f" {colours} colours; fetch the file again"
        )
    if compression or bits == 16:
        odd = odd or f"a BMP of {bits} bits with compression {compression}"
    if not 14 + head + (3 if head == 12 else 4) * palette <= start <= len(data):
        odd = odd or f"a BMP whose pixels begin at byte {start}"
    if compression in (0, 3) and len(data) < start + (width * bits + 31) // 32 * 4 * abs(height):
        raise cut_short("BMP", data)
    return sized("bmp", abs(height), width, odd=odd)


def read_pnm(data: bytes) -> ImageHeader:
    """Return the header of a binary PGM or PPM.

    Raise ValueError if it is damaged, truncated, or has a maximum value that DALI does not support.
    """
    width, height, maximum, end = pnm_numbers(data)
    if not 0 < maximum < 65536:
        raise ValueError(f"a damaged PNM: its maximum value is {maximum}")
    channels = 3 if data[:2] == b"P6" else 1
    header = sized("pnm", height, width, channels=channels)
    if len(data) < end + 1 + width * height * channels * (2 if maximum > 255 else 1):
        raise cut_short("PNM", data)
    if maximum not in PNM_MAXIMA:
        raise ValueError(
            f"a PNM with maximum value {maximum}: DALI assumes 255 or 65535, and the image would be too dark;"
            " convert it, or pack with --encoding png"
        )
    comment = re.search(rb"\d#", data[:end])  # OpenCV, and therefore DALI, requires whitespace in between
    return header._replace(odd="a PNM with a comment right after a number") if comment else header


def pnm_numbers(data: bytes | memoryview) -> tuple[int, int, int, int]:
    """Return the width, height and maximum value of a binary PNM, and the offset of the byte after these numbers.

    Raise ValueError if a number is missing.
    """
    numbers, at = [], 2
    for _ in range(3):
        found = _PNM_NUMBER.match(data, at)
        if found is None:
            raise ValueError(f"a damaged or cut PNM: no number after byte {at} of its header")
        numbers.append(int(found[1]))
        at = found.end()
    return numbers[0], numbers[1], numbers[2], at
