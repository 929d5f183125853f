"""What happens to an image between its file and its record: usually nothing; else a smaller or differently encoded one.

A resized image is decoded at the smallest power-of-two scale libjpeg offers above the wanted size, smoothed by a small
Gaussian that takes out what the new pixels cannot hold, and sampled bilinearly. docs/decisions.md compares it with
PIL's antialiased resize.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from dali_mix.datasets.decoding import converted_header, decode_bgr, decoded_size, needs_conversion
from dali_mix.datasets.turns import turn_crop
from dali_mix.recordio.image_headers.header import ImageHeader, read_image_header

TARGETS = ("keep", "jpeg", "png", "raw")
AS_ASKED = "as asked"
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
        self, data: bytes | memoryview, crop: Box | None = None, stored: bool = False
    ) -> tuple[bytes | memoryview, ImageHeader, str]:
        """Return the bytes to store (`data` itself where nothing changes), their header, and why they were encoded
        anew: "" where they were not, `AS_ASKED` for these options, else why decoders may differ on the image. The
        header's orientation is the file's.

        Of the part `crop` (x, y, width, height in pixels, with `stored` those before turning) if given, as JPEG unless
        `encoding` says otherwise. An image
        that decoders may differ on is stored as PNG, which loses nothing, unless the options have it encoded anyway.
        Raise ValueError for what is no whole image.
        """
        converted = self.encoding != "keep" and needs_conversion(data)
        header = converted_header(data) if converted else read_image_header(data, plain=False)
        pixels = header.height * header.width
        if pixels > self.max_pixels:
            raise ValueError(
                f"{header.width}x{header.height} is {pixels:,} pixels, more than --max-pixels"
                f" {self.max_pixels:,}: raise it if the image is meant"
            )
        if crop is not None:
            if stored:
                crop = turn_crop(crop, header.height, header.width, header.orientation)
            return self._cropped(bytes(data), header, crop)
        height, width = self.size(header.height, header.width)
        resized = (height, width) != (header.height, header.width)
        target = self._target(header.encoding)
        if header.odd and self.encoding == "keep" and not resized:
            target = "png"
        if target == header.encoding and not resized and not header.odd:
            if self.decode:
                decoded_size(data)
            return data, header, ""
        image_bgr = decode_bgr(bytes(data), header, height=height, strict=self.decode)
        encoded = _encode_bgr(_shrink(image_bgr, height, width), target, self.quality)
        return encoded, ImageHeader(target, height, width, header.orientation), header.odd or AS_ASKED

    @property
    def passes_through(self) -> bool:
        """Whether every image is stored as it is, without being decoded."""
        return not (self.resize or self.max_side or self.encoding != "keep" or self.decode)

    def _cropped(self, data: bytes, header: ImageHeader, crop: Box) -> tuple[bytes, ImageHeader, str]:
        image_bgr = decode_bgr(data, header, strict=self.decode)
        left, top = max(0, round(crop[0])), max(0, round(crop[1]))
        image_bgr = image_bgr[top : max(0, round(crop[1] + crop[3])), left : max(0, round(crop[0] + crop[2]))]
        if not image_bgr.size:
            raise ValueError(
                f"the box {list(crop)} (x, y, width, height) shows nothing of the {header.width}x{header.height} image"
            )
        height, width = self.size(*image_bgr.shape[:2])
        target = "jpeg" if self.encoding == "keep" else self._target(header.encoding)
        encoded = _encode_bgr(_shrink(np.ascontiguousarray(image_bgr), height, width), target, self.quality)
        return encoded, ImageHeader(target, height, width, header.orientation), header.odd or AS_ASKED

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after packing: at most `resize` on the shorter and `max_side` on the longer side."""
        short, long = min(height, width), max(height, width)
        scale = min(1.0, (self.resize or short) / short, (self.max_side or long) / long)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _target(self, encoding: str) -> str:
        if self.encoding == "raw":
            return "pnm"
        return encoding if self.encoding == "keep" else self.encoding


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
    try:
        done, encoded = cv2.imencode("." + encoding, image_bgr, options[encoding])
    except cv2.error:  # what older versions of OpenCV do
        done = False
    if not done:
        raise ValueError(f"cannot encode {width}x{height} pixels as {encoding}")
    return encoded.tobytes()


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
