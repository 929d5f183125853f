"""Unusual files of one picture, 12 pixels high and 20 wide.

Decoders read them differently (`ODD`), alike (`PLAIN`), or fail (`REFUSED`).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from tests.recordio.samples import encoded, pixels, png_chunk

PICTURE = pixels(12, 20)


def tiff(value: int, *, kind: int = 3, count: int = 1, order: str = "<", tag: int = 0x0112) -> bytes:
    """Return an EXIF block with one entry, by default a valid orientation."""
    stated = struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IHHHI", 8, 1, tag, kind, count) + stated + bytes(4)


def directory(turn: int, *entries: tuple[int, int, int, int]) -> bytes:
    """Return an EXIF block with an orientation and further entries (tag, type, count, value or offset).

    16 zero bytes follow the directory.
    """
    listed = struct.pack("<HHIHH", 0x0112, 3, 1, turn, 0) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, 1 + len(entries)) + listed + bytes(20)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def exif(block: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + block)


def segments(jpeg: bytes) -> list[bytes]:
    """Split a JPEG into SOI, each segment before the first scan, and the rest."""
    out, at = [jpeg[:2]], 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        out.append(jpeg[at:end])
        at = end
    return [*out, jpeg[at:]]


def without(jpeg: bytes, *markers: int) -> bytes:
    return b"".join(part for part in segments(jpeg) if part[1] not in markers)


def before(jpeg: bytes, marker: int, *new: bytes) -> bytes:
    """Return the JPEG with segments inserted before the first segment of type `marker`."""
    parts = segments(jpeg)
    at = next(number for number, part in enumerate(parts) if part[1] == marker)
    return b"".join([*parts[:at], *new, *parts[at:]])


def frame(jpeg: bytes, **changes: int) -> bytes:
    """Return the JPEG with changed bytes of its frame header: `marker`, or `byteN` for the byte at offset N."""
    parts = segments(jpeg)
    at = next(number for number, part in enumerate(parts) if part[1] in (0xC0, 0xC1, 0xC2))
    part = bytearray(parts[at])
    for name, value in changes.items():
        part[1 if name == "marker" else int(name.removeprefix("byte"))] = value
    parts[at] = bytes(part)
    return b"".join(parts)


def png(*chunks: bytes, after: bytes = b"", head: bytes | None = None, content: bytes | None = None) -> bytes:
    """Return an RGB PNG of the picture with `chunks` before its IDAT chunk and `after` following it.

    `head` and `content` replace the content of the IHDR and IDAT chunks.
    """
    head = struct.pack(">IIBBBBB", 20, 12, 8, 2, 0, 0, 0) if head is None else head
    rows = b"".join(b"\0" + row.tobytes() for row in PICTURE)
    data = png_chunk(b"IDAT", zlib.compress(rows) if content is None else content)
    start = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head)
    return start + b"".join(chunks) + data + after + png_chunk(b"IEND", b"")


def palette_png(depth: int, *chunks: bytes) -> bytes:
    row = b"\0" + bytes(20 * depth // 8)
    head = struct.pack(">IIBBBBB", 20, 12, depth, 3, 0, 0, 0)
    return png(*chunks, head=head, content=zlib.compress(row * 12))


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) & 1) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def canvas(flags: int, width: int = 20, height: int = 12) -> tuple[bytes, bytes]:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes([flags, 0, 0, 0]) + sides


def bmp(bits: int, rows: np.ndarray, *, compression: int = 0, masks: bytes = b"", height: int = 12) -> bytes:
    data = rows.tobytes()
    head = struct.pack("<IiiHHIIiiII", 40, 20, height, 1, bits, compression, len(data), 0, 0, 0, 0) + masks
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + data


JPEG = encoded("JPEG", quality=95, subsampling=0)
SOF = next(part for part in segments(JPEG) if part[1] == 0xC0)
CMYK = encoded("JPEG", mode="CMYK", quality=95)
WEBP = encoded("WEBP", quality=95)
VP8L = encoded("WEBP", lossless=True)[20:]  # 883 bytes and one padding byte
VP8 = WEBP[20 : 20 + int.from_bytes(WEBP[16:20], "little")]
BMP = bmp(24, PICTURE[::-1, :, ::-1])
_BGR = PICTURE[::-1, :, ::-1].astype(np.uint16) >> 3
_555 = (_BGR[:, :, 2] << 10 | _BGR[:, :, 1] << 5 | _BGR[:, :, 0]).astype("<u2")
_ANIMATION = png_chunk(b"acTL", struct.pack(">II", 1, 0))
_FRAME = png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 20, 12, 0, 0, 1, 1, 0, 0))

# Decoders disagree: name → (file, orientation in which it must be shown)
ODD: dict[str, tuple[bytes, int]] = {
    "exif 1, then 6": (before(JPEG, 0xE0, exif(tiff(1)), exif(tiff(6))), 1),
    "exif 6, then 1": (before(JPEG, 0xE0, exif(tiff(6)), exif(tiff(1))), 6),
    "exif 3, then an empty one": (before(JPEG, 0xE0, exif(tiff(3)), exif(b"")), 3),
    "exif 6, then one without orientation": (before(JPEG, 0xE0, exif(tiff(6)), exif(tiff(6, tag=0x100))), 6),
    "exif 8 before and after the frame": (before(before(JPEG, 0xC4, exif(tiff(8))), 0xE0, exif(tiff(8))), 8),
    "exif truncated in its entry": (before(JPEG, 0xE0, exif(tiff(6)[:20])), 1),
    "exif truncated before its directory": (before(JPEG, 0xE0, exif(tiff(6)[:8])), 1),
    "exif claiming 1000 entries": (before(JPEG, 0xE0, exif(tiff(6)[:8] + struct.pack("<H", 1000) + tiff(6)[10:])), 6),
    "exif with invalid byte order mark": (before(JPEG, 0xE0, exif(b"XX" + tiff(6)[2:])), 1),
    **{f"exif orientation type {kind}": (before(JPEG, 0xE0, exif(tiff(6, kind=kind))), 6) for kind in (4, 6, 8, 9)},
    **{f"exif orientation type {kind}": (before(JPEG, 0xE0, exif(tiff(6, kind=kind))), 1) for kind in (2, 5, 12)},
    "exif orientation type 4, big-endian": (before(JPEG, 0xE0, exif(tiff(6, kind=4, order=">"))), 6),
    "exif orientation count 0": (before(JPEG, 0xE0, exif(tiff(6, count=0))), 1),
    "exif orientation count 3": (before(JPEG, 0xE0, exif(tiff(6, count=3))), 1),
    "exif with text out of bounds": (before(JPEG, 0xE0, exif(directory(6, (0x010F, 2, 9, 47)))), 6),
    "exif with text far out of bounds": (before(JPEG, 0xE0, exif(directory(8, (0x8298, 7, 1 << 31, 5000)))), 8),
    "exif with resolution out of bounds": (before(JPEG, 0xE0, exif(directory(3, (0x011A, 5, 1, 47)))), 3),
    "exif with resolution of type short": (before(JPEG, 0xE0, exif(directory(5, (0x011B, 3, 1, 300)))), 5),
    "exif with truncated white point": (before(JPEG, 0xE0, exif(directory(7, (0x013E, 5, 2, 39)))), 7),
    "png exif with text out of bounds": (png(png_chunk(b"eXIf", directory(6, (0x0131, 2, 80, 38)))), 6),
    "cmyk without adobe": (without(CMYK, 0xEE), 1),
    "cmyk without adobe, rotated": (before(without(CMYK, 0xEE), 0xC0, exif(tiff(6))), 6),
    "png exif 6, then 1": (png(png_chunk(b"eXIf", tiff(6)), png_chunk(b"eXIf", tiff(1))), 6),
    "png exif 1, then 6 after the pixels": (png(png_chunk(b"eXIf", tiff(1)), after=png_chunk(b"eXIf", tiff(6))), 1),
    "png exif truncated": (png(png_chunk(b"eXIf", tiff(6)[:20])), 1),
    "png exif with a JPEG's prefix": (png(png_chunk(b"eXIf", b"Exif\0\0" + tiff(6))), 1),
    "png exif with type 4": (png(png_chunk(b"eXIf", tiff(8, kind=4))), 8),
    "animated png": (png(_ANIMATION, _FRAME), 1),
    "png with frame but no animation": (png(_FRAME), 1),
    "webp exif without its flag": (riff(canvas(0), (b"VP8 ", VP8), (b"EXIF", tiff(6))), 1),
    "webp flag without exif": (riff(canvas(8), (b"VP8 ", VP8)), 1),
    "webp with an unknown chunk": (riff(canvas(8), (b"ABCD", b""), (b"VP8 ", VP8), (b"EXIF", tiff(3))), 3),
    "webp exif before its image": (riff(canvas(8), (b"EXIF", tiff(8)), (b"VP8 ", VP8)), 8),
    "webp exif truncated": (riff(canvas(8), (b"VP8 ", VP8), (b"EXIF", tiff(6)[:20])), 1),
    "webp exif after chunk of odd length": (riff(canvas(8), (b"VP8L", VP8L[:-1]), (b"EXIF", tiff(6))), 6),
    "webp exif after profile of odd length": (
        riff(canvas(0x28), (b"ICCP", bytes(131)), (b"VP8 ", VP8), (b"EXIF", tiff(3))), 3),
    "webp exif 6, then 1": (riff(canvas(8), (b"VP8 ", VP8), (b"EXIF", tiff(6)), (b"EXIF", tiff(1))), 6),
    "16-bit bmp": (bmp(16, _555), 1),
    "bmp with pixels at byte 0": (BMP[:10] + bytes(4) + BMP[14:], 1),
    "ppm with comment after a number": (b"P6\n20#width\n 12\n255\n" + PICTURE.tobytes(), 1),
}  # fmt: skip

# Decoders and the header reader agree: name → (file, orientation)
PLAIN: dict[str, tuple[bytes, int]] = {
    "jpeg": (JPEG, 1),
    **{f"exif {turn}": (before(JPEG, 0xE0, exif(tiff(turn))), turn) for turn in range(1, 9)},
    "exif 0": (before(JPEG, 0xE0, exif(tiff(0))), 1),
    "exif 9": (before(JPEG, 0xE0, exif(tiff(9))), 1),
    "exif 6, big-endian": (before(JPEG, 0xE0, exif(tiff(6, order=">"))), 6),
    "exif 6 after ICC profile": (before(JPEG, 0xDB, segment(0xE2, b"ICC_PROFILE\0\1\1"), exif(tiff(6))), 6),
    "exif 6 before the scan": (before(JPEG, 0xDA, exif(tiff(6))), 6),
    "exif 6 after the end": (JPEG + exif(tiff(6)), 1),
    "exif with text at its end": (before(JPEG, 0xE0, exif(directory(6, (0x010F, 2, 8, 46)))), 6),
    "exif with short text": (before(JPEG, 0xE0, exif(directory(6, (0x010F, 2, 4, 5000)))), 6),
    "exif with unknown value out of bounds": (before(JPEG, 0xE0, exif(directory(6, (0xC4A5, 7, 99, 5000)))), 6),
    "exif 1 with text out of bounds": (before(JPEG, 0xE0, exif(directory(1, (0x010F, 2, 9, 50)))), 1),
    "xmp 6": (before(JPEG, 0xE0, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6'/>")), 1),
    "cmyk": (CMYK, 1),
    "cmyk, rotated": (before(CMYK, 0xC0, exif(tiff(5))), 5),
    "adobe marker truncated": (before(JPEG, 0xC0, segment(0xEE, b"Adobe\0")), 1),
    "rgb": (encoded("JPEG", quality=95, keep_rgb=True), 1),
    "progressive": (encoded("JPEG", quality=95, subsampling=0, progressive=True), 1),
    "two files in one": (JPEG + encoded("JPEG", 3, 4), 1),
    "png exif 6": (png(png_chunk(b"eXIf", tiff(6))), 6),
    "png exif 8 after the pixels": (png(after=png_chunk(b"eXIf", tiff(8))), 8),
    "png exif as text": (png(png_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n8\n" + tiff(6).hex().encode())), 1),
    "png with gamma": (png(png_chunk(b"gAMA", struct.pack(">I", 100000))), 1),
    "png with text that unpacks to 50 MB": (png(png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(50_000_000)))), 1),
    "webp exif 6": (riff(canvas(8), (b"VP8 ", VP8), (b"EXIF", tiff(6))), 6),
    "webp exif after chunk of even length": (riff(canvas(8), (b"VP8L", VP8L), (b"EXIF", tiff(6))), 6),
    "webp xmp after chunk of odd length": (riff(canvas(4), (b"VP8L", VP8L[:-1]), (b"XMP ", b"")), 1),
    "webp xmp 6": (riff(canvas(4), (b"VP8 ", VP8), (b"XMP ", b"<x tiff:Orientation='6'/>")), 1),
    "top-down bmp": (bmp(24, PICTURE[:, :, ::-1], height=-12), 1),
    "ppm with comments": (b"P6 # a\n# b\n20 12\n# c\n255\n" + PICTURE.tobytes(), 1),
}

# Rejected before decoding: name → (file, pattern of the error message)
REFUSED: dict[str, tuple[bytes, str]] = {
    "12-bit jpeg": (frame(JPEG, byte4=12), "12 bits per sample.*convert"),
    "jpeg with 2 components": (without(JPEG, 0xC0)[:2] + segment(0xC0, bytes([8, 0, 12, 0, 20, 2, 1, 17, 0, 2, 17, 0]))
                             + without(JPEG, 0xC0)[2:], "2 components.*convert"),
    "jpeg with height 0": (frame(JPEG, byte6=0), "20x0 pixels"),
    "jpeg with two frames": (before(JPEG, 0xC4, SOF), "dimensions twice"),
    "jpeg with restart marker in header": (before(JPEG, 0xC4, b"\xff\xd0"), "marker 0xd0"),
    "jpeg followed by truncated jpeg": (JPEG + JPEG[:-30], "cut short"),
    "jpeg in a jpeg": (JPEG[:2] + JPEG, "marker 0xd8"),
    "jpeg with sampling factor 5": (frame(JPEG, byte11=0x51), "sampling factors 0x51"),
    "png exif with wrong checksum": (png(png_chunk(b"eXIf", tiff(6), crc=False)), "chunk eXIf at byte 33"),
    "png text with wrong checksum": (png(png_chunk(b"tEXt", b"a\0b", crc=False)), "chunk tEXt"),
    "png with two headers": (png(png_chunk(b"IHDR", bytes(13))), "IHDR occurs twice"),
    "png with 14-byte header": (png(head=struct.pack(">IIBBBBBB", 20, 12, 8, 2, 0, 0, 0, 0)), "IHDR of 13 bytes"),
    "png with 12-byte header": (png(head=struct.pack(">IIBBBB", 20, 12, 8, 2, 0, 0)), "IHDR of 13 bytes"),
    "3-bit png": (png(head=struct.pack(">IIBBBBB", 20, 12, 3, 0, 0, 0, 0)), "colour type 0, 3 bits"),
    "png without palette": (palette_png(8), "0 bytes of palette"),
    "png with 4-byte palette": (palette_png(8, png_chunk(b"PLTE", bytes(4))), "4 bytes of palette"),
    "4-bit png with 17 palette entries": (palette_png(4, png_chunk(b"PLTE", bytes(51))), "51 bytes of palette"),
    "png with too much transparency": (
        palette_png(8, png_chunk(b"PLTE", bytes(6)), png_chunk(b"tRNS", bytes(3))), "tRNS"),
    "png with an unknown critical chunk": (png(png_chunk(b"ABCD", b"")), "critical chunk ABCD"),
    "png without pixels": (png()[:33] + png_chunk(b"IEND", b""), "IDAT"),
    "webp on a larger canvas": (riff(canvas(0, 40, 24), (b"VP8 ", VP8)), "20x12 on a canvas of 40x24"),
    "webp on a smaller canvas": (riff(canvas(0, 10, 6), (b"VP8 ", VP8)), "20x12 on a canvas of 10x6"),
    "webp with two canvases": (riff(canvas(8), (b"VP8 ", VP8), canvas(8), (b"EXIF", tiff(6))), "two canvases"),
    "webp with two images": (riff(canvas(0), (b"VP8 ", VP8), (b"VP8 ", VP8)), "two images"),
    "2-bit bmp": (bmp(2, np.zeros((12, 20), np.uint8)), "2 bits"),
    "bmp with negative width": (bmp(24, PICTURE)[:18] + struct.pack("<i", -20) + bmp(24, PICTURE)[22:], "-20x12"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC.*convert it to JPEG"),
    "avif": (b"\0\0\0\x18ftypavif" + bytes(20), "AVIF.*convert it to JPEG"),
}  # fmt: skip
