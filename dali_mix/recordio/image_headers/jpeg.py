"""Read the header of a JPEG, which is in the segments before the first scan."""

from __future__ import annotations

import struct

from dali_mix.recordio.image_headers.common import Exif, ImageHeader, cut_short, merged, read_exif, sized

_END = b"\xff\xd9"
# Markers that begin a frame (SOF0..SOF15), without DHT (C4), JPG (C8) and DAC (CC), which are in the same range.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PLAIN_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive with Huffman codes
_SCAN, _APP1, _APP14 = 0xDA, 0xE1, 0xEE
_NO_LENGTH = frozenset(range(0xD0, 0xDA)) | {0x00, 0x01}


def read_jpeg(data: bytes | memoryview) -> ImageHeader:
    """Return the header of a JPEG.

    Raise ValueError if it is truncated, if it is damaged before its first scan, or if DALI does not support its bits
    per sample or its number of components.
    """
    size, at = len(data), 2
    frame: tuple[int, int, int, int] | None = None  # marker, height, width, components
    blocks: list[Exif] = []
    adobe = False
    while at + 4 <= size:
        if data[at] != 0xFF:
            raise ValueError(f"a damaged JPEG: byte {at} is 0x{data[at]:02x} where a marker belongs")
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            at += 1
            continue
        if marker in _NO_LENGTH:
            raise ValueError(f"a damaged JPEG: its header has a marker 0x{marker:02x} at byte {at}")
        length = data[at + 2] << 8 | data[at + 3]
        if length < 2:
            raise ValueError(f"a damaged JPEG: the segment at byte {at} has length {length}")
        end = at + 2 + length
        if marker == _SCAN:
            return _verdict(data, at, frame, merged(blocks), adobe)
        if marker in _FRAMES:
            if end > size:
                break
            if frame is not None:
                raise ValueError(f"a damaged JPEG: it states its dimensions twice, again at byte {at}")
            frame = _frame(data, at, length)
        elif marker == _APP1 and data[at + 4 : at + 10] == b"Exif\0\0":
            blocks.append(read_exif(bytes(data[at + 10 : end])))
        elif marker == _APP14 and length >= 14 and data[at + 4 : at + 9] == b"Adobe":
            adobe = True
        at = end
    raise cut_short("JPEG", data)


def _frame(data: bytes | memoryview, at: int, length: int) -> tuple[int, int, int, int]:
    """Return (marker, height, width, number of components) of the frame segment at byte `at`.

    `length` is the length that the segment states. Raise ValueError if the segment is damaged, or if DALI does not
    support its bits per sample or its number of components.
    """
    if length < 8 or length != 8 + 3 * data[at + 9]:
        raise ValueError(f"a damaged JPEG: the frame at byte {at} has length {length}")
    bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
    if bits != 8:
        raise ValueError(f"a JPEG of {bits} bits per sample, which DALI does not decode; convert it to PNG")
    if components not in (1, 3, 4):
        raise ValueError(f"a JPEG of {components} components, which DALI does not decode; convert it to PNG")
    for component in range(components):
        sampling = data[at + 11 + 3 * component]
        if not (1 <= sampling >> 4 <= 4 and 1 <= sampling & 15 <= 4):
            raise ValueError(f"a damaged JPEG: component {component + 1} has sampling factors 0x{sampling:02x}")
    return data[at + 1], height, width, components


def _verdict(
    data: bytes | memoryview, scan: int, frame: tuple[int, int, int, int] | None, exif: Exif, adobe: bool
) -> ImageHeader:
    if frame is None:
        raise ValueError("a damaged JPEG: its image data begins before its dimensions")
    if data[-2:] != _END:
        _check_end(bytes(data), scan)
    marker, height, width, components = frame
    odd = ""
    if marker not in _PLAIN_FRAMES:
        odd = f"a lossless, arithmetic or hierarchical JPEG (SOF{marker - 0xC0})"
    elif components == 4 and not adobe:
        odd = "a CMYK JPEG without an Adobe marker, which does not say whether it is inverted"
    return sized("jpeg", height, width, exif, odd=odd, channels=components)


def _check_end(data: bytes, scan: int) -> None:
    """Raise ValueError if no EOI marker follows the last scan. Padding and camera trailers may follow the EOI."""
    end = data.rfind(_END)
    if end < scan or end < data.rfind(b"\xff\xda"):
        raise cut_short("JPEG", data)


def image_segments(data: bytes) -> bytes:
    """Return a JPEG without metadata: only the segments that determine its pixels.

    The strict decoder reads the result, so that EXIF, XMP, thumbnails or colour profiles cannot affect it or make it
    fail. `data` must have passed `read_jpeg`.
    """
    kept, at = [data[:2]], 2
    while data[at + 1] != _SCAN:
        if data[at + 1] == 0xFF:
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        marker = data[at + 1]
        adobe = marker == _APP14 and end - at >= 16
        if adobe or marker == 0xE0 or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])
