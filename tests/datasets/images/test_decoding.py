"""Pixels as DALI decodes them: 16-bit images, transparency, and damage that only decoding finds."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from dali_mix.cli.main import main
from dali_mix.datasets import Transform
from dali_mix.datasets.images.decoding import decoded_size
from dali_mix.recordio import RecordSet
from tests.loading.sets import decoded_by_dali
from tests.recordio.odd_images import PICTURE, png
from tests.recordio.samples import encoded, image_folder, pixels, with_checksums


@pytest.mark.parametrize("brightest", [200, 4000, 65535])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_upper_8_bits(kind: str, brightest: int) -> None:
    gray = np.linspace(0, brightest, 600).reshape(20, 30).astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(gray).save(file, kind)
    data, header, reencoded = Transform(encoding="raw", decode=True)(file.getvalue())
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert reencoded and (header.height, header.width) == (20, 30)
    assert np.array_equal(found, np.repeat((gray >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


def pnm(channels: int, maximum: int, values: np.ndarray) -> bytes:
    kind = 6 if channels == 3 else 5
    height, width = values.shape[:2]
    return (
        b"P%d\n%d %d\n%d\n" % (kind, width, height, maximum) + values.astype(">u2" if maximum > 255 else "u1").tobytes()
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("brightest", [1, 0.003])  # relative to white; dark images keep their scale
@pytest.mark.parametrize("maximum", [1, 15, 127, 254, 255, 1023, 65535])
def test_pnm_is_scaled_by_its_maximum_value(maximum: int, brightest: float, channels: int) -> None:
    values = np.linspace(0, maximum * brightest, 9 * 13 * channels).round().astype(int).reshape(9, 13, channels)
    data, expected = pnm(channels, maximum, values), values * 255 / maximum
    for encoding in ("png", "raw"):
        stored, header, _ = Transform(encoding=encoding)(data)
        assert header[1:3] == (9, 13)
        assert abs(decoded_by_dali([bytes(stored)])[0] - expected).max() <= 1
    if maximum in (255, 65535):
        assert abs(decoded_by_dali([bytes(Transform()(data)[0])])[0] - expected).max() <= 1
    else:  # a level of 15 would decode to 15 out of 255
        with pytest.raises(ValueError, match=f"maximum value {maximum}: DALI"):
            Transform()(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"P6\nwide high\n255\n", "no number"),
        (b"P6\n4 3\n70000\n" + bytes(72), "cannot be"),
        (b"P5\n4 3\n15\n" + bytes(11), "cannot be decoded"),
        (b"P6", "not an image known here|cut short|no number"),
    ],
)
def test_converting_damaged_pnm_raises(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Transform(encoding="png", decode=True)(data)


def transparent(kind: str) -> bytes:
    """Return a picture with a transparent left half, with the transparency stored as `kind`."""
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[:, :, 0], pixels[:, :, 1], pixels[:, 15:, 3] = 200, np.arange(30) * 8, 255
    image, file, more = Image.fromarray(pixels, "RGBA"), io.BytesIO(), {}
    if kind in ("P", "L", "RGB"):
        image = image.convert("RGB").quantize(8) if kind == "P" else image.convert(kind)
        more["transparency"] = {"P": 3, "L": 60, "RGB": (200, 0, 0)}[kind]
    elif kind == "LA":
        image = image.convert("LA")
    if kind == "WebP":
        image.save(file, "WEBP", lossless=True, exact=True)
    else:
        image.save(file, "PNG", **more)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "L", "RGB", "WebP"])
def test_transparency_is_dropped_in_every_encoding(kind: str) -> None:
    """Transparent pixels show their stored colours in every encoding (NVIDIA/DIGITS#85, opencv/opencv#21694)."""
    data = transparent(kind)
    (kept,) = decoded_by_dali([bytes(Transform()(data)[0])])
    expected = Image.open(io.BytesIO(data)).convert("RGBA").convert("RGB")
    assert np.array_equal(kept, np.asarray(expected))
    for encoding in ("png", "raw"):
        assert np.array_equal(decoded_by_dali([bytes(Transform(encoding=encoding)(data)[0])])[0], kept)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL warns about unusual tags
@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("kind", ["TIFF", "GIF", "P2", "P3", "P4"])
def test_converting_damaged_image_raises_only_value_error(kind: str, decode: bool) -> None:
    plain = {"P2": b"P2\n4 3\n255\n" + b"17 " * 12, "P3": b"P3 4 3 9 " + b"7 " * 36, "P4": b"P4\n4 3\nabc"}
    data = plain[kind] if kind in plain else encoded(kind, 3, 4)
    transform, refused = Transform(encoding="png", decode=decode), 0
    assert transform(data)[1][:3] == ("png", 3, 4)
    for at in range(min(len(data), 200)):
        for value in (0, 2, 7, 255):
            with contextlib.suppress(ValueError):  # PIL itself raises TypeError, KeyError, struct.error, …
                transform(data[:at] + bytes([value]) + data[at + 1 :])
                continue
            refused += 1
    assert refused


@pytest.mark.parametrize("what", ["truncated", "no checksum", "wrong checksum", "garbage", "missing row", "extra byte"])
def test_decoded_size_finds_incomplete_png_pixels(what: str) -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in PICTURE)
    packed = zlib.compress(rows)
    content = {
        "truncated": packed[: len(packed) // 2],
        "no checksum": packed[:-4],
        "wrong checksum": packed[:-1] + bytes([packed[-1] ^ 1]),
        "garbage": packed[:40] + bytes(40) + packed[80:],
        "missing row": zlib.compress(rows[:-61]),
        "extra byte": zlib.compress(rows + b"x"),
    }[what]
    data = png(content=content)
    assert Transform()(data)[0] == data  # the header does not reveal the damage
    if what == "extra byte":
        assert decoded_size(data) == (12, 20)
    else:
        with pytest.raises(ValueError, match=r"cannot be decoded: (its pixels end|Error -3)"):
            decoded_size(data)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (12, 20), (9, 2)])
def test_decoded_size_checks_interlaced_png(size: tuple[int, int]) -> None:
    image = pixels(*size)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [image[top::down, left::right] for top, left, down, right in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    head = struct.pack(">IIBBBBB", size[1], size[0], 8, 2, 0, 0, 1)
    assert decoded_size(png(head=head, content=zlib.compress(rows))) == size
    with pytest.raises(ValueError, match="its pixels end after"):
        decoded_size(png(head=head, content=zlib.compress(rows[:-1])))


Capture = pytest.CaptureFixture[str]


def run_pack(root: Path, out: Path, *options: str, layout: str = "imagefolder") -> int:
    return main(["pack", layout, "--root", str(root), "--out", str(out), "--quiet", *options])


def test_check_decode_finds_damaged_image(tmp_path: Path, capsys: Capture) -> None:
    root = image_folder(tmp_path / "images", 1, 2, "PNG")
    data = bytearray(encoded("PNG", 40, 40))
    offset = data.index(b"IDAT") + 20
    data[offset : offset + 30] = bytes(30)
    (root / "class0" / "torn.png").write_bytes(with_checksums(bytes(data)))
    assert run_pack(root, tmp_path / "set") == 0
    assert run_pack(root, tmp_path / "set", "--check", "decode", "--force") == 1
    assert "class0/torn.png: cannot be decoded" in capsys.readouterr().err
    assert run_pack(root, tmp_path / "set", "--check", "decode", "--force", "--skip-bad") == 0
    assert len(RecordSet(tmp_path / "set")) == 2


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_decoded_size_finds_most_damaged_jpegs(options: dict[str, int]) -> None:
    random = np.random.default_rng(0)
    found = 0
    for seed in range(20):
        out = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (120, 90, 3), dtype=np.uint8)).save(out, "JPEG", **options)
        data = bytearray(out.getvalue() + b"\xff\xf3 and what cameras append")
        assert decoded_size(bytes(data)) == (120, 90)
        middle = len(data) // 2
        data[middle : middle + 600] = np.random.default_rng(seed).integers(0, 256, 600, dtype=np.uint8).tobytes()
        with contextlib.suppress(ValueError):
            assert Transform()(bytes(data))[0] == data  # the header does not reveal the damage
            decoded_size(bytes(data))
            continue
        found += 1
    assert found >= 13


@pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}, {"optimize": True, "quality": 30}],
    ids=["plain", "progressive", "restart markers", "4:4:4", "optimized"],
)
@pytest.mark.parametrize(("height", "width", "gray"), [(120, 90, False), (33, 200, True), (300, 17, False)])
def test_decoded_size_finds_truncated_jpeg_with_end_marker(
    options: dict[str, Any], left: float, height: int, width: int, gray: bool
) -> None:
    """Decoders fill the missing part with grey instead of failing (pytorch/examples#769, NVIDIA/DALI#2667)."""
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image, out = Image.fromarray(pixels), io.BytesIO()
    (image.convert("L") if gray else image).save(out, "JPEG", **options)
    data = out.getvalue()
    for complete in (data, data + b"and what cameras append", data[:-2] + bytes(9) + data[-2:]):
        assert decoded_size(complete) == (height, width)
    start = data.index(b"\xff\xda")
    cut = data[: start + int(left * (len(data) - start))].rstrip(b"\xff") + b"\xff\xd9"
    assert bytes(Transform()(cut)[0]) == cut  # the header does not reveal the damage
    with pytest.raises(ValueError, match=r"cannot be decoded: .*; fetch the file again"):
        decoded_size(cut)
