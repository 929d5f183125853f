"""What happens to an image between its file and its record: usually nothing; else a smaller or differently encoded one.

A resized image is decoded at the smallest power-of-two scale libjpeg offers above the wanted size, smoothed by a small
Gaussian that takes out what the new pixels cannot hold, and sampled bilinearly. docs/decisions.md compares it with
PIL's antialiased resize.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageOps

from dali_mix.recordio.image_header import PNM_MAXIMA, ImageHeader, pnm_numbers, read_image_header

TARGETS = ("keep", "jpeg", "png", "raw")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # in picture data: all but stuffed bytes, fill and restarts
_BETWEEN_SCANS = b"\xc4\xcc\xda\xdb\xdc\xdd"  # tables and the next scan of a progressive JPEG
CONVERTED = (b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")  # GIF, TIFF: DALI does not decode them
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Transform:
    """How images are stored.

    `resize`: the shorter side in pixels, `max_side` the longer; images are only ever made smaller. `quality` of JPEGs
    that are encoded anew. `encoding` "keep" leaves the format; "raw" is a binary PPM. `max_pixels` refuses larger
    images before they are decoded. `decode` has every image decoded once as a check.
    """

    resize: int | None = None
    max_side: int | None = None
    quality: int = 95
    encoding: str = "keep"
    max_pixels: int = 100_000_000
    decode: bool = False

    def __post_init__(self) -> None:
        if self.encoding not in TARGETS:
            raise ValueError(f"encoding {self.encoding!r} is not one of {', '.join(TARGETS)}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality {self.quality} is not from 1 to 100")
        for name in ("resize", "max_side", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} is not a positive number")

    def __call__(
        self, data: bytes | memoryview, crop: Box | None = None
    ) -> tuple[bytes | memoryview, ImageHeader, bool]:
        """The bytes to store (`data` itself where nothing changes), their header, and whether they were encoded anew;
        of the part `crop` (x, y, width, height in pixels) if given, as JPEG unless `encoding` says otherwise. Raises
        ValueError for what is no whole image.
        """
        converted = self.encoding != "keep" and _only_pil_reads(data)
        header = _opened_header(data) if converted else read_image_header(data)
        pixels = header.height * header.width
        if pixels > self.max_pixels:
            raise ValueError(
                f"{header.width}x{header.height} is {pixels:,} pixels, more than --max-pixels"
                f" {self.max_pixels:,}: raise it if the image is meant"
            )
        if crop is not None:
            return self._cropped(bytes(data), header, crop, converted)
        height, width = self.size(header.height, header.width)
        target = self._target(header.encoding)
        if target == header.encoding and (height, width) == (header.height, header.width):
            if self.decode and decoded_size(data) != (height, width):
                raise ValueError("decodes to other dimensions than its header says")
            return data, header, False
        data = bytes(data)
        if self.decode:
            _check_scans(data)
        image_bgr = _pil_bgr(data) if converted or self.decode else _decode_bgr(data, header, height)
        encoded = _encode_bgr(_shrink(image_bgr, height, width), target, self.quality)
        return encoded, ImageHeader(target, height, width), True

    @property
    def passes_through(self) -> bool:
        """Whether every image is stored as it is, without being decoded."""
        return not (self.resize or self.max_side or self.encoding != "keep" or self.decode)

    def _cropped(self, data: bytes, header: ImageHeader, crop: Box, converted: bool) -> tuple[bytes, ImageHeader, bool]:
        if self.decode:
            _check_scans(data)
        image_bgr = _pil_bgr(data) if converted or self.decode else _decode_bgr(data, header, header.height)
        left, top = max(0, round(crop[0])), max(0, round(crop[1]))
        image_bgr = image_bgr[top : max(0, round(crop[1] + crop[3])), left : max(0, round(crop[0] + crop[2]))]
        if not image_bgr.size:
            raise ValueError(
                f"the box {list(crop)} (x, y, width, height) shows nothing of the {header.width}x{header.height} image"
            )
        height, width = self.size(*image_bgr.shape[:2])
        target = "jpeg" if self.encoding == "keep" else self._target(header.encoding)
        encoded = _encode_bgr(_shrink(np.ascontiguousarray(image_bgr), height, width), target, self.quality)
        return encoded, ImageHeader(target, height, width), True

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after packing: at most `resize` on the shorter and `max_side` on the longer side."""
        short, long = min(height, width), max(height, width)
        scale = min(1.0, (self.resize or short) / short, (self.max_side or long) / long)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _target(self, encoding: str) -> str:
        if self.encoding == "raw":
            return "pnm"
        return encoding if self.encoding == "keep" else self.encoding


def decoded_size(encoded: bytes | memoryview | np.ndarray) -> tuple[int, int]:
    """Decodes an image wholly; its height and width after EXIF turning. Raises ValueError when it cannot be decoded, or
    is a JPEG with a marker that none may hold in its picture data: decoders pass over these.
    """
    data = bytes(encoded)
    _check_scans(data)
    height, width = _pil_image(data).shape[:2]
    return height, width


def _check_scans(data: bytes) -> None:
    if not data.startswith(b"\xff\xd8"):
        return
    place, scanning = 2, False
    while match := _MARKER.search(data, place):
        at = match.start()
        marker = data[at + 1]
        if marker == 0xD9 or (scanning and (0xE0 <= marker <= 0xEF or marker == 0xFE)):
            return  # the end; what may follow it is no part of the picture
        if scanning and marker not in _BETWEEN_SCANS:
            raise ValueError(f"cannot be decoded: its picture data is damaged at byte {at:,}; fetch the file again")
        scanning |= marker == 0xDA
        place = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def encode(image_rgb: np.ndarray, encoding: str, quality: int = 95) -> bytes:
    """Encodes (H, W, 3) uint8 RGB as "jpeg", "png", "webp", "bmp" or "pnm" (binary PPM)."""
    return _encode_bgr(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), encoding, quality)


def _encode_bgr(image_bgr: np.ndarray, encoding: str, quality: int) -> bytes:
    height, width = image_bgr.shape[:2]
    if encoding == "pnm":
        return b"P6\n%d %d\n255\n" % (width, height) + cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB).tobytes()
    options = {
        "jpeg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
        "png": [],
        "bmp": [],
    }
    done, encoded = cv2.imencode("." + encoding, image_bgr, options[encoding])
    if not done:
        raise ValueError(f"cannot encode {width}x{height} pixels as {encoding}")
    return encoded.tobytes()


def _only_pil_reads(data: bytes | memoryview) -> bool:
    """Whether DALI does not decode an image, or not to the right pixels, and PIL does."""
    if bytes(data[:2]) in (b"P5", b"P6"):
        return pnm_numbers(bytes(data))[2] not in PNM_MAXIMA
    return bytes(data[:8]).startswith(CONVERTED)


def _opened_header(data: bytes | memoryview) -> ImageHeader:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            name, turned = str(image.format).lower(), image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be read: {error}") from None
    return ImageHeader(name, *((width, height) if turned else (height, width)))


def _decode_bgr(data: bytes, header: ImageHeader, height: int) -> np.ndarray:
    """Decodes to (H, W, 3) uint8, turned by EXIF; a JPEG at 1/2, 1/4 or 1/8 when that is still as large as wanted."""
    flag = cv2.IMREAD_COLOR
    if header.encoding == "jpeg":
        flag = next((reduced for scale, reduced in _REDUCED if header.height >= scale * height), flag)
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flag)
    except cv2.error as error:
        raise ValueError(f"cannot be decoded: {error}") from None
    return _pil_bgr(data) if image is None else image


def _pil_bgr(data: bytes) -> np.ndarray:
    return cv2.cvtColor(_pil_image(data), cv2.COLOR_RGB2BGR)


def _pil_image(data: bytes) -> np.ndarray:
    """Decodes strictly to (H, W, 3) uint8 RGB, turned by EXIF; alpha is dropped and 16 bits become their upper 8, as
    DALI does."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            image.load()
            turned = ImageOps.exif_transpose(image)
            if turned.mode.startswith("I;16") or turned.mode in ("I", "F"):
                gray = np.asarray(turned)
                deep = turned.mode.startswith("I;16") or image.format == "PPM" or gray.max(initial=0) > 255
                gray = (gray / 256 if deep else gray).clip(0, 255).astype(np.uint8)
                return np.repeat(gray[:, :, None], 3, axis=2)
            return np.asarray(turned.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be decoded: {error}; fetch the file again") from None


def _shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Makes (H, W, 3) uint8 `height` x `width`, antialiased."""
    if image.shape[:2] == (height, width):
        return image
    while image.shape[0] >= 2 * height and image.shape[1] >= 2 * width:
        half = max(width, (image.shape[1] + 1) // 2), max(height, (image.shape[0] + 1) // 2)
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
    ratio = image.shape[0] / height
    sigma = 0.45 * math.sqrt(max(ratio * ratio - 1, 0))
    if sigma > 0.15:
        image = cv2.GaussianBlur(image, (3, 3), sigma)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
