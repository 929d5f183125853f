"""Convert images for storage: unchanged by default, optionally resized or re-encoded.

An image is resized in these steps:

1. A JPEG is decoded at the smallest scale of 1, 1/2, 1/4 and 1/8 whose result is at least as high as the target.
2. While the image has at least twice the target's height and width, it is halved by area averaging.
3. A small Gaussian smooths the image against aliasing.
4. Bilinear sampling produces the target size.

docs/decisions.md compares the result with PIL's antialiased resize.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from dali_mix.datasets.images.decoding import converted_header, decode_bgr, decoded_size, needs_conversion
from dali_mix.datasets.images.orientation import turn_crop
from dali_mix.options import choice, set_whole
from dali_mix.recordio.image_headers.header import ImageHeader, read_image_header

TARGETS = ("keep", "jpeg", "png", "raw")
AS_ASKED = "as asked"
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Transform:
    """Options for how images are stored, and a callable that converts an encoded image accordingly.

    Images are never enlarged.

    Attributes:
        resize: maximum length of the shorter side in pixels.
        max_side: maximum length of the longer side in pixels.
        quality: JPEG quality of re-encoded images.
        encoding: "keep" (the format of the file), "jpeg", "png" or "raw" (a binary PPM).
        max_pixels: images with more pixels are refused before they are decoded.
        decode: decode every image once, as a check.
    """

    resize: int | None = None
    max_side: int | None = None
    quality: int = 95
    encoding: str = "keep"
    max_pixels: int = 100_000_000
    decode: bool = False

    def __post_init__(self) -> None:
        choice("encoding", self.encoding, TARGETS)
        set_whole(self, "quality", 1, 100)
        set_whole(self, "max_pixels", 1)
        set_whole(self, "resize", 1, optional=True)
        set_whole(self, "max_side", 1, optional=True)

    def __call__(
        self, data: bytes | memoryview, crop: Box | None = None, stored: bool = False
    ) -> tuple[bytes | memoryview, ImageHeader, str]:
        """Convert an encoded image; return the bytes to store, their header, and the reason for re-encoding.

        The bytes are `data` itself if nothing changes. The header keeps the file's orientation, even if the stored
        pixels are already rotated.

        The reason is "" if the image is not re-encoded. Otherwise it says why decoders may disagree on the image, or is
        `AS_ASKED` if they agree. An image on which they may disagree is stored losslessly as PNG, unless the options
        re-encode it anyway.

        `crop` is the part to store: x, y, width, height in pixels, before EXIF rotation if `stored`. It is encoded as
        JPEG if `encoding` is "keep".

        Raise ValueError for truncated or non-image data, an image of more than `max_pixels`, or an empty crop.
        """
        converted = self.encoding != "keep" and needs_conversion(data)
        header = converted_header(data) if converted else read_image_header(data, plain=False)
        pixels = header.height * header.width
        if pixels > self.max_pixels:
            raise ValueError(
                f"{header.width}x{header.height} is {pixels:,} pixels, more than --max-pixels"
                f" {self.max_pixels:,}: raise the limit if the image is intended"
            )
        target = {"keep": header.encoding, "raw": "pnm"}.get(self.encoding, self.encoding)
        if crop is not None:
            if stored:
                crop = turn_crop(crop, header.height, header.width, header.orientation)
            target = "jpeg" if self.encoding == "keep" else target
            image_bgr = _cut(decode_bgr(bytes(data), header, strict=self.decode), crop)
            height, width = self.size(*image_bgr.shape[:2])
        else:
            height, width = self.size(header.height, header.width)
            resized = (height, width) != (header.height, header.width)
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
        """Return True if no option changes or decodes images, so that most files are stored unchanged.

        Images on which decoders may disagree are still re-encoded.
        """
        return not (self.resize or self.max_side or self.encoding != "keep" or self.decode)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width after packing: at most `resize` on the shorter and `max_side` on the longer side."""
        short, long = min(height, width), max(height, width)
        scale = min(1.0, (self.resize or short) / short, (self.max_side or long) / long)
        return max(1, round(height * scale)), max(1, round(width * scale))


def encode(image_rgb: np.ndarray, encoding: str, quality: int = 95) -> bytes:
    """Encode (H, W, 3) uint8 RGB as "jpeg", "png", "webp", "bmp" or "pnm" (binary PPM). Raise ValueError on failure."""
    return _encode_bgr(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), encoding, quality)


def _cut(image_bgr: np.ndarray, crop: Box) -> np.ndarray:
    """Return the part `crop` (x, y, width, height) of an image, rounded to pixels and clipped to the image.

    Raise ValueError if no pixel remains.
    """
    left, top, right, bottom = (max(0, round(side)) for side in (*crop[:2], crop[0] + crop[2], crop[1] + crop[3]))
    cut = image_bgr[top:bottom, left:right]
    if not cut.size:
        height, width = image_bgr.shape[:2]
        raise ValueError(f"the box {list(crop)} (x, y, width, height) contains no pixel of the {width}x{height} image")
    return np.ascontiguousarray(cut)


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
    except cv2.error:  # older versions of OpenCV raise instead of returning False
        done = False
    if not done:
        raise ValueError(f"cannot encode {width}x{height} pixels as {encoding}")
    return encoded.tobytes()


def _shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image (H, W, 3) uint8 to `height` x `width`, antialiased."""
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
