"""Size, orientation and format read from image headers; truncated files and files that are not images."""

from __future__ import annotations

import io
import struct
import tracemalloc

import cv2
import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nvidia.dali import Pipeline
from PIL import Image, ImageOps

from dali_mix.recordio import RecordSet, read_image_header, write_set
from tests.recordio.samples import encoded, pixels, with_checksums


def png16(channels: int) -> bytes:
    deep = pixels(12, 20).astype(np.uint16) * 257
    return cv2.imencode(".png", deep if channels == 3 else deep[:, :, 0])[1].tobytes()


IMAGES = {
    "jpeg": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "restart markers": encoded("JPEG", restart_marker_blocks=1),
    "gray": encoded("JPEG", mode="L"),
    "cmyk": encoded("JPEG", mode="CMYK"),
    "1x1": encoded("JPEG", 1, 1),
    "png": encoded("PNG"),
    "png with alpha": encoded("PNG", mode="RGBA"),
    "png with palette": encoded("PNG", mode="P"),
    "1-bit png": encoded("PNG", mode="1"),
    "16-bit png": png16(3),
    "16-bit gray png": png16(1),
    "webp": encoded("WEBP"),
    "lossless webp": encoded("WEBP", lossless=True),
    "webp with alpha": encoded("WEBP", mode="RGBA"),
    "bmp": encoded("BMP"),
    "ppm": encoded("PPM"),
    "pgm": encoded("PPM", mode="L"),
    "16-bit ppm": b"P6\n20 12\n65535\n" + bytes(range(240)) * 6,
    "16-bit pgm": b"P5 # grey\n20 12\n65535\n" + bytes(range(240)) * 2,
    **{f"jpeg orientation {turn}": encoded("JPEG", turn=turn) for turn in range(2, 9)},
    "png orientation 6": encoded("PNG", turn=6),
    "webp orientation 8": encoded("WEBP", turn=8),
}


@pytest.mark.parametrize("name", IMAGES)
def test_size_and_format_match_pil(name: str) -> None:
    data = IMAGES[name]
    with Image.open(io.BytesIO(data)) as image:
        width, height = ImageOps.exif_transpose(image).size
        kind = "pnm" if image.format == "PPM" else str(image.format).lower()
    header = read_image_header(data)
    assert (header.height, header.width, header.encoding) == (height, width, kind)


def test_dali_decodes_to_shape_in_table(tmp_path) -> None:
    write_set(tmp_path / "set", [(data, 0) for data in IMAGES.values()], classes=["all"])
    records = RecordSet(tmp_path / "set")
    pipeline = Pipeline(batch_size=len(records), num_threads=2, device_id=None)
    with pipeline:
        source = fn.external_source(source=lambda: [records.encoded(row) for row in range(len(records))], batch=True)
        pipeline.set_outputs(fn.decoders.image(source, device="cpu", output_type=types.RGB))
    pipeline.build()
    (images,) = pipeline.run()
    shapes = {name: np.asarray(images[row]).shape for row, name in enumerate(IMAGES)}
    table = records.table
    assert shapes == {name: (table["height"][row], table["width"][row], 3) for row, name in enumerate(IMAGES)}
    turned = np.asarray(images[list(IMAGES).index("jpeg orientation 6")]).astype(int)
    upright = np.asarray(images[list(IMAGES).index("jpeg")]).astype(int)
    assert np.abs(turned - np.rot90(upright, -1)).mean() < 3  # orientation 6: rotate clockwise to make it upright


def test_exif_thumbnail_size_is_ignored() -> None:
    inner = encoded("JPEG", 3, 4)
    plain = encoded("JPEG", 30, 40)
    segment = b"Exif\0\0" + b"II*\0\x08\0\0\0\0\0" + inner
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    assert read_image_header(data)[:3] == ("jpeg", 30, 40)


def test_fill_bytes_and_trailers_are_allowed() -> None:
    plain = encoded("JPEG")
    assert read_image_header(plain[:2] + b"\xff\xff" + plain[2:] + bytes(64))[:3] == ("jpeg", 12, 20)


BROKEN = {
    "an empty file": (b"", "empty"),
    "a web page": (b"\n<!DOCTYPE html><html>404</html>", "web page"),
    "a GIF": (encoded("GIF"), "GIF"),
    "a TIFF": (encoded("TIFF"), "TIFF"),
    "zeros": (bytes(100), "zero bytes"),
    "text": (b"hello, world", "not an image"),
    **{
        f"half a {kind}": ((data := encoded(kind))[: len(data) // 2], "cut short")
        for kind in ("JPEG", "PNG", "WEBP", "BMP", "PPM")
    },
    "a JPEG without its last byte": (encoded("JPEG")[:-1], "cut short"),
    "a JPEG truncated in its headers": (encoded("JPEG")[:30], "cut short"),
    "a JPEG that begins with its scan": (b"\xff\xd8\xff\xda\0\x08" + bytes(20), "damaged"),
    "a PNG of size 0x0": (with_checksums(encoded("PNG")[:16] + bytes(8) + encoded("PNG")[24:]), "0x0"),
    "a PNM with maximum value 15": (
        b"P5\n4 3\n15\n" + bytes(12),
        r"maximum value 15: DALI assumes 255.*--encoding png",
    ),
    "a PNM with maximum value 1023": (b"P6\n4 3\n1023\n" + bytes(72), "maximum value 1023"),
    "a PNM with maximum value 0": (b"P6\n4 3\n0\n" + bytes(72), "maximum value is 0"),
    "a PNM without a size": (b"P6\nwide high\n255\n" + bytes(100), "no number"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_truncated_or_non_image_data_is_refused(name: str) -> None:
    data, reason = BROKEN[name]
    with pytest.raises(ValueError, match=reason):
        read_image_header(data)


@pytest.mark.parametrize("filler", [b" ", b"#\n", b"\n#"], ids=["spaces", "comments", "lines"])
def test_long_pnm_header_uses_little_memory(filler: bytes) -> None:
    data = b"P5\n" + filler * (1 << 18)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="no number"):
            read_image_header(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=400)
@given(st.sampled_from(sorted(IMAGES)), st.data())
def test_damaged_image_raises_only_value_error(name: str, data: st.DataObject) -> None:
    image = bytearray(IMAGES[name])
    for _ in range(data.draw(st.integers(0, 4))):
        image[data.draw(st.integers(0, min(len(image), 400) - 1))] = data.draw(st.integers(0, 255))
    image = image[: data.draw(st.integers(0, len(image)))]
    try:
        header = read_image_header(bytes(image))
    except ValueError as error:
        assert str(error)
    else:
        assert header.height > 0 and header.width > 0
