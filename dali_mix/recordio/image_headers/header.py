"""Read an image header: format, size, rotation, and whether DALI decodes the file like other decoders.

Packing, adopting, verifying and predicting all use `read_image_header`. It supports the formats that DALI decodes and
datasets contain: JPEG, PNG, WebP, BMP, binary PNM. A GIF, a web page saved as an image, an empty or a truncated file
raises ValueError.

PIL is not used. It takes several times as long as this reader, which needs 6 µs per JPEG, and differs from DALI on
EXIF, CMYK and damaged files (docs/decisions.md).

Invariant: DALI decodes an image that is not `odd` to the size and rotation stated here. The loader compares them.
"""

from __future__ import annotations

from dali_mix.recordio.image_headers.common import ImageHeader
from dali_mix.recordio.image_headers.jpeg import read_jpeg
from dali_mix.recordio.image_headers.png import SIGNATURE, read_png
from dali_mix.recordio.image_headers.webp_bmp_pnm import read_bmp, read_pnm, read_webp

__all__ = ["ImageHeader", "read_image_header"]


def read_image_header(data: bytes | memoryview, *, plain: bool = True) -> ImageHeader:
    """Return the header of an encoded image; `data` is the complete file.

    Pixels are not decoded. The segments or chunks before the pixels, and the checksums of a PNG, must be valid. The
    file must not be truncated: a JPEG needs an EOI marker, a PNG an IEND chunk, and a WebP, BMP or PNM at least the
    size implied by its header.

    Raise ValueError for an unknown or unsupported format, or a damaged or truncated file. With `plain`, also raise it
    for an image that decoders may interpret differently (`odd`). Packing stores such an image as PNG.
    """
    header = _read(data)
    if plain and header.odd:
        raise ValueError(f"{header.odd}: decoders differ on it; pack its file again, which stores it as PNG")
    return header


def _read(data: bytes | memoryview) -> ImageHeader:
    if data[:3] == b"\xff\xd8\xff":
        return read_jpeg(data)
    data = bytes(data)
    if data[:8] == SIGNATURE:
        return read_png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return read_webp(data)
    if data[:2] == b"BM":
        return read_bmp(data)
    if data[:2] in (b"P5", b"P6") and data[2:3].isspace():
        return read_pnm(data)
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
    if data[:2] in (b"P1", b"P2", b"P3", b"P4") and data[2:3].isspace():
        return "a PNM of text or bits: training reads binary PGM and PPM; pack with --encoding png"
    if kind := _FOREIGN.get(data[4:12]) or _FOREIGN.get(data[:8]) or _FOREIGN.get(data[:4]):
        return f"{kind}, which training does not read; convert it to JPEG or PNG"
    if not data.strip(b"\0"):
        return f"{len(data)} zero bytes: the file was never written"
    return f"not an image known here (JPEG, PNG, WebP, BMP, PNM): it begins with {data[:8].hex(' ')}"


_FOREIGN = {
    **dict.fromkeys((b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1", b"ftyphevc"), "a HEIC image"),
    b"ftypavif": "an AVIF image",
    b"jP  \r\n\x87\n": "a JPEG 2000 image",
    b"\xff\x4f\xff\x51": "a JPEG 2000 image",
    b"JXL \r\n\x87\n": "a JPEG XL image",
    b"8BPS": "a Photoshop file",
}
