"""Decode image files for packing and checking, to the same pixels as DALI, rotated by the header's orientation.

The values of a 16-bit image may differ from DALI's by 1.

OpenCV, which DALI uses on a CPU, decodes plain images (see `read_image_header`) of up to three channels. PIL decodes
all other images. For a strict check, PIL also decodes plain ones, since it detects more damage.

The orientation is taken from the header reader. No decoder rotates an image or reads its metadata, with one exception:
PIL rotates a TIFF.
"""

from __future__ import annotations

import io
import re
import struct

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from dali_mix.recordio.image_headers.header import ImageHeader, read_image_header
from dali_mix.recordio.image_headers.jpeg import image_segments
from dali_mix.recordio.image_headers.png import check_pixels, pixel_chunks
from dali_mix.recordio.image_headers.webp_bmp_pnm import PNM_MAXIMA, pnm_numbers

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
_CONVERTED = (b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")  # GIF, TIFF: DALI does not decode them
_TEXT_PNM = (b"P1", b"P2", b"P3", b"P4")
_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # any marker except stuffed zeros, fill bytes and restarts
# Arbitrary scan data: for the restart interval that is cut short, then for those that may follow.
_FILLER = bytes(range(1, 241)) + b"".join(bytes([0xFF, 0xD0 + number, *range(1, 65)]) for number in range(8))
_BETWEEN_SCANS = b"\xc4\xcc\xda\xdb\xdc\xdd"  # tables and the next scan of a progressive JPEG


def needs_conversion(data: bytes | memoryview) -> bool:
    """Return True for an image that PIL decodes, but that DALI decodes to wrong pixels or not at all.

    Raise ValueError for a damaged header of a binary PNM.
    """
    start = bytes(data[:8])
    if start[:2] in (b"P5", b"P6"):
        return pnm_numbers(bytes(data))[2] not in PNM_MAXIMA
    return start.startswith(_CONVERTED) or (start[:2] in _TEXT_PNM and start[2:3].isspace())


def converted_header(data: bytes | memoryview) -> ImageHeader:
    """Return the header of an image for which `needs_conversion` is True. Raise ValueError if it cannot be read."""
    try:
        with _opened(data) as image:
            width, height = image.size
            encoding = str(image.format).lower()
            odd = f"a {encoding.upper()} of several images (the first)" if getattr(image, "n_frames", 1) > 1 else ""
            return ImageHeader(encoding, height, width, odd=odd)
    except MemoryError:
        raise
    except Exception as error:  # PIL's parsers raise struct.error, KeyError, TypeError, zlib.error, …
        raise ValueError(f"cannot be read: {_reason(error)}") from None


def has_alpha(data: bytes) -> bool:
    """Return True if the header declares transparency. Return False if PIL cannot open the image."""
    if data[:2] == b"\xff\xd8":  # JPEGs have none, and PIL may warn about their EXIF block
        return False
    try:
        with _opened(data) as image:
            return image.has_transparency_data
    except MemoryError:
        raise
    except Exception:  # as in `converted_header`; decoding the image reports the reason
        return False


def decode_bgr(data: bytes, header: ImageHeader, *, height: int | None = None, strict: bool = False) -> np.ndarray:
    """Decode an image to (H, W, 3) uint8 BGR, rotated by EXIF.

    Alpha is dropped, as in DALI. 16-bit values are reduced to their upper 8 bits, whereas DALI rounds them. Raise
    ValueError for an image that cannot be decoded, or whose size differs from that in its header.

    Args:
        height: decode a JPEG at 1/2, 1/4 or 1/8 scale if the result is at least `height` pixels high. The size of an
            image is not checked if `height` is set. Ignored with `strict`.
        strict: also raise ValueError for damage that OpenCV ignores.
    """
    if strict:
        {"jpeg": _check_scans, "png": check_pixels}.get(header.encoding, bytes)(data)
    by_pil = bool(header.odd) or header.encoding in ("gif", "tiff", "ppm") or header.channels == 4
    if strict or by_pil:
        image = cv2.cvtColor(_pil_rgb(data, header), cv2.COLOR_RGB2BGR)
    if not by_pil and not (strict and header.encoding == "jpeg"):
        image = _opencv_bgr(data, header, None if strict else height)
    turned = _turn(image, header.orientation)
    if (strict or not height) and turned.shape[:2] != (header.height, header.width):
        raise ValueError(
            f"decodes to {turned.shape[1]}x{turned.shape[0]} pixels, its header says {header.width}x{header.height}"
        )
    return turned


def decoded_size(encoded: bytes | memoryview | np.ndarray) -> tuple[int, int]:
    """Decode a plain image strictly; return its height and width after rotation.

    Raise ValueError if it cannot be decoded, or for damage to a JPEG that decoders ignore: a marker that is invalid
    within scan data, or scan data that ends before the image is complete.
    """
    data = bytes(encoded)
    height, width = decode_bgr(data, read_image_header(data), strict=True).shape[:2]
    return height, width


def _check_scans(data: bytes) -> None:
    at, scanning = 2, False
    while match := _MARKER.search(data, at):
        found = match.start()
        marker = data[found + 1]
        if marker == 0xD9 or (scanning and (0xE0 <= marker <= 0xEF or marker == 0xFE)):
            _check_end(data, found)
            return  # any bytes after it are not part of the image
        if scanning and marker not in _BETWEEN_SCANS:
            raise ValueError(f"cannot be decoded: its image data is damaged at byte {found:,}; fetch the file again")
        scanning |= marker == 0xDA
        at = found + 2 + int.from_bytes(data[found + 2 : found + 4], "big")


def _check_end(data: bytes, end: int) -> None:
    """Raise ValueError if the scan data, which ends at `end`, is incomplete. Decoders leave the missing part grey.

    Decoders skip extra bytes before the end marker, but use them as pixel data if the image is incomplete. Inserting
    `_FILLER` there therefore changes the pixels only if the image is incomplete.
    """
    if _small(data) != _small(data[:end] + _FILLER + data[end:]):
        raise ValueError("cannot be decoded: its image data ends before the image is complete; fetch the file again")


def _small(data: bytes) -> bytes:
    """Return the pixels of a JPEG, at 1/8 scale unless it is progressive; empty if it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(image_segments(data)), formats=("JPEG",)) as image:
            if not image.info.get("progressive"):  # at reduced scale its last scans have no effect
                image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            return image.tobytes()
    except MemoryError:
        raise
    except Exception:  # as in `converted_header`; the decoder that runs next reports the reason
        return b""


def _opencv_bgr(data: bytes, header: ImageHeader, height: int | None) -> np.ndarray:
    flag = cv2.IMREAD_COLOR
    if header.encoding == "jpeg" and height:
        flag = next((reduced for scale, reduced in _REDUCED if header.height >= scale * height), flag)
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(f"cannot be decoded: {error}; fetch the file again") from None
    if image is None:
        raise ValueError(f"cannot be decoded: a damaged {header.encoding.upper()}; fetch the file again")
    return image


def _pil_rgb(data: bytes, header: ImageHeader) -> np.ndarray:
    """Decode strictly to (H, W, 3) uint8 RGB, without EXIF rotation (except a TIFF, which PIL always rotates).

    Raise ValueError for an image that is damaged or not of the size in its header.
    """
    parts = {"jpeg": image_segments, "png": pixel_chunks}.get(header.encoding, bytes)
    stored = (header.height, header.width)[:: -1 if header.orientation < 5 else 1]
    try:
        with _opened(parts(data)) as image:
            if image.size != stored:
                raise ValueError(f"decodes to {image.size} pixels, its header says {stored}")
            image.load()
            if image.mode.startswith("I;16") or image.mode in ("I", "F"):
                gray = np.asarray(image)
                deep = image.mode.startswith("I;16") or image.format == "PPM" or gray.max(initial=0) > 255
                gray = (gray / 256 if deep else gray).clip(0, 255).astype(np.uint8)
                return np.repeat(gray[:, :, None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # as in `converted_header`
        raise ValueError(f"cannot be decoded: {_reason(error)}; fetch the file again") from None


def _opened(data: bytes | memoryview) -> Image.Image:
    """Return the image that PIL's reader for its format opens, without the size limit of `Image.open`.

    The caller must check the size (see `Transform.max_pixels`). Raise UnidentifiedImageError if no reader in `_FORMATS`
    accepts the first 16 bytes, or if the first reader that does cannot parse the header.
    """
    Image.init()
    for name in _FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(bytes(data[:16])) is True:
            try:
                return factory(io.BytesIO(data), "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # as in Image.open
                break
    raise UnidentifiedImageError


def _turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and mirror an image (H, W, 3) according to an EXIF orientation, 1 to 8."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its text is only the address of a buffer
        return "its header is damaged"
    return str(error) if isinstance(error, (OSError, ValueError, SyntaxError)) else f"{type(error).__name__}: {error}"
