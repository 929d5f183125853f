"""Common parts of the image header readers: result type, errors, and EXIF."""

from __future__ import annotations

import struct
from typing import NamedTuple

MAX_SIDE = (1 << 31) - 1
# EXIF's integer types: code → format character of `struct`.
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
# Tags whose values OpenCV reads at an offset, regardless of the type in the entry. A string has as many bytes as the
# entry's count; the number of bytes of rationals is listed here.
_TEXTS = frozenset((0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x8298))
_RATIONALS = {0x011A: 8, 0x011B: 8, 0x013E: 16, 0x013F: 48, 0x0211: 24, 0x0214: 48}


class ImageHeader(NamedTuple):
    """Properties of an image file, used by packing, adopting, verifying and predicting.

    Attributes:
        encoding: one of `manifest.ENCODINGS`.
        height, width: in pixels, after rotation by `orientation`.
        orientation: the EXIF orientation, 1 to 8.
        odd: why decoders may disagree about rotation, size or colours; "" for an image that DALI decodes as stated
            here.
        channels: number of channels of a JPEG, PNG or PNM, 3 if it has a palette; 3 for other formats.
    """

    encoding: str
    height: int
    width: int
    orientation: int = 1
    odd: str = ""
    channels: int = 3


class Exif(NamedTuple):
    """Content of an EXIF block: its orientation (1 to 8, or 0 for none), and why readers may disagree on it, or ""."""

    orientation: int = 0
    odd: str = ""


def sized(
    encoding: str, height: int, width: int, exif: Exif | None = None, *, odd: str = "", channels: int = 3
) -> ImageHeader:
    """Return the header of an image that has `height` x `width` pixels before EXIF rotation.

    The header has the size after rotation. Its `odd` is the argument or, if that is "", the one of `exif`. Raise
    ValueError unless `height` and `width` are from 1 to 2^31 - 1.
    """
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ValueError(f"a damaged {encoding.upper()}: its header says {width}x{height} pixels")
    exif = exif or Exif()
    if exif.orientation >= 5:
        height, width = width, height
    return ImageHeader(encoding, height, width, exif.orientation or 1, odd or exif.odd, channels)


def cut_short(name: str, data: bytes | memoryview) -> ValueError:
    """Return the error for a truncated file of format `name`."""
    return ValueError(f"a {name} cut short after {len(data):,} bytes; fetch or copy the file again")


def read_exif(tiff: bytes) -> Exif:
    """Return the `Exif` of the EXIF block `tiff`, which begins with its TIFF header. Only the first directory is read.

    Its `odd` is set if decoders may read another orientation:

    - The block has no TIFF header or is truncated. Decoders stop at different points in a truncated block.
    - There are several orientation entries.
    - The orientation is not one short integer. DALI and OpenCV ignore the entry's type and count; PIL does not.
    - The orientation is from 2 to 8, and the value of a tag in `_TEXTS` or `_RATIONALS` lies outside the block. DALI
      does not rotate the image in this case.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return Exif(odd="an EXIF block without a TIFF header")
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    if start + 2 > len(tiff):
        return Exif(odd="an EXIF block that is cut short")
    (entries,) = struct.unpack_from(order + "H", tiff, start)
    end = start + 2 + 12 * entries
    odd = "an EXIF block that is cut short" if end > len(tiff) else ""
    found: int | None = None
    outside = False
    for entry in range(start + 2, min(end, len(tiff) - 11), 12):
        tag, kind, count = struct.unpack_from(order + "HHI", tiff, entry)
        if tag != 0x0112:
            needed = _RATIONALS.get(tag) or (count if tag in _TEXTS and count > 4 else 0)
            (value,) = struct.unpack_from(order + "I", tiff, entry + 8)
            outside |= needed > 0 and value + needed > len(tiff)
            continue
        if found is not None:
            odd = odd or "two EXIF orientations"
            continue
        found = 0
        if kind in _INTEGERS and 1 <= count <= 4 // struct.calcsize(_INTEGERS[kind]):
            (found,) = struct.unpack_from(order + _INTEGERS[kind], tiff, entry + 8)
        if (kind, count) != (3, 1):
            odd = odd or "an EXIF orientation that is not one short integer"
    if outside and found is not None and 2 <= found <= 8:
        odd = odd or "an EXIF block with values outside it"
    return Exif(found if found is not None and 1 <= found <= 8 else 0, odd)


def merged(blocks: list[Exif]) -> Exif:
    """Return the `Exif` of an image that has these EXIF blocks.

    With several blocks, the orientation is that of the first block that has one, and `odd` is set, since decoders use
    either the first or the last block.
    """
    if len(blocks) < 2:
        return blocks[0] if blocks else Exif()
    stated = next((block.orientation for block in blocks if block.orientation), 0)
    return Exif(stated, "two EXIF blocks")
