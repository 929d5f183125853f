"""Small images and sets shared by the tests of records and datasets."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dali_mix.recordio import SetInfo, write_set
from dali_mix.recordio.framing import MAGIC_BYTES


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a smooth, asymmetric (H, W, 3) uint8 picture."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encoded(
    kind: str, height: int = 12, width: int = 20, *, seed: int = 0, mode: str = "RGB", turn: int = 1, **save: Any
) -> bytes:
    """Return an encoded image. `kind` is the format name in PIL, and `turn` is the EXIF orientation."""
    image = Image.fromarray(pixels(height, width, seed)).convert(mode)
    if turn != 1:
        exif = Image.Exif()
        exif[0x0112] = turn
        save["exif"] = exif
    out = io.BytesIO()
    image.save(out, kind, **save)
    return out.getvalue()


def png_chunk(kind: bytes, content: bytes, *, crc: bool = True) -> bytes:
    """Return a PNG chunk; if `crc` is False, one bit of its checksum is wrong."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ (not crc))


def with_checksums(png: bytes) -> bytes:
    """Return the PNG with corrected chunk checksums, which hide damage from checksum tests."""
    out, at = png[:8], 8
    while at + 12 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if end > len(png):
            break
        out += png_chunk(png[at + 4 : at + 8], png[at + 8 : end - 4])
        at = end
    return out + png[at:]


def jpeg_with_magic(*places: str) -> bytes:
    """Return a JPEG with RecordIO's magic in its comment, once per item of `places`.

    The magic is aligned to four bytes, except for "unaligned".
    """
    plain = encoded("JPEG")
    comment = b""
    for place in places:
        filler = -(6 + len(comment)) % 4 + (2 if place == "unaligned" else 0)
        comment += b"-" * filler + MAGIC_BYTES
    return plain[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + plain[2:]


def small_set(prefix: Path, count: int = 10, **options: Any) -> SetInfo:
    """Write a set of `count` JPEGs of three classes."""
    samples = [(encoded("JPEG", 10 + row, 17, seed=row), row % 3) for row in range(count)]
    return write_set(prefix, samples, classes=("ant", "bee", "cat"), **options)


def image_folder(root: Path, classes: int = 3, each: int = 4, kind: str = "JPEG") -> Path:
    """Write `each` images per class, named classN/M.jpeg for JPEGs, below `root`. Return `root`."""
    for label in range(classes):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(each):
            data = encoded(kind, 20 + number, 30, seed=10 * label + number)
            (folder / f"{number}.{kind.lower()}").write_bytes(data)
    return root
