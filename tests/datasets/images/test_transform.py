"""Sizes, formats and quality of the stored images."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dali_mix.cli.main import main
from dali_mix.datasets import Transform
from dali_mix.datasets.images.decoding import decoded_size
from dali_mix.recordio import ENCODINGS, RecordSet
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded, image_folder, pixels

Capture = pytest.CaptureFixture[str]


def run_pack(root: Path, out: Path, *options: str, layout: str = "imagefolder") -> int:
    return main(["pack", layout, "--root", str(root), "--out", str(out), "--quiet", *options])


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--resize", "24"], (24, 40)),
        (["--resize", "100"], (48, 80)),
        (["--max-side", "40"], (24, 40)),
        (["--resize", "36", "--max-side", "40"], (24, 40)),
        (["--resize", "7"], (7, 12)),
    ],
)
def test_resize_and_max_side_set_stored_size(tmp_path: Path, options: list[str], size: tuple[int, int]) -> None:
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    original = encoded("JPEG", 48, 80)
    (folder / "wide.jpg").write_bytes(original)
    (folder / "turned.jpg").write_bytes(encoded("JPEG", 48, 80, turn=6))
    assert run_pack(tmp_path / "images", tmp_path / "set", "--no-shuffle", *options) == 0
    records = RecordSet(tmp_path / "set")
    assert list(zip(records.table["height"], records.table["width"], strict=True)) == [size[::-1], size]
    for row in range(2):
        image = Image.open(io.BytesIO(records.encoded(row).tobytes()))
        if size != (48, 80):  # re-encoded: upright, without EXIF
            assert image.size == (records.table["width"][row], records.table["height"][row])
            assert image.getexif().get(0x0112, 1) == 1
    assert (records.encoded(1).tobytes() == original) == (size == (48, 80))
    assert records.info.report["reencoded"] == (0 if size == (48, 80) else 2)


@pytest.mark.parametrize(("encoding", "kind"), [("jpeg", "jpeg"), ("png", "png"), ("raw", "pnm"), ("keep", None)])
def test_encoding_sets_stored_format(tmp_path: Path, encoding: str, kind: str | None) -> None:
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    kinds = ["BMP", "JPEG", "PNG", "PPM", "WEBP"]
    for name in kinds:
        data = encoded(name, 40, 30, lossless=True) if name == "WEBP" else encoded(name, 40, 30)
        (folder / f"{name}.{name.lower()}").write_bytes(data)
    assert run_pack(tmp_path / "images", tmp_path / "set", "--encoding", encoding, "--no-shuffle") == 0
    records = RecordSet(tmp_path / "set")
    found = [ENCODINGS[number] for number in records.table["encoding"]]
    assert found == ([kind] * 5 if kind else ["bmp", "jpeg", "png", "pnm", "webp"])
    for row, name in enumerate(kinds):
        stored = np.asarray(Image.open(io.BytesIO(records.encoded(row).tobytes())).convert("RGB")).astype(int)
        source = np.asarray(Image.open(folder / f"{name}.{name.lower()}").convert("RGB"))
        assert np.abs(stored - source).mean() < (6 if encoding == "jpeg" else 0.01), name
    assert list(verify_set(tmp_path / "set")) == []


def test_gif_and_tiff_can_be_converted(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    (folder / "a.gif").write_bytes(encoded("GIF"))
    (folder / "b.tif").write_bytes(encoded("TIFF"))
    assert run_pack(tmp_path / "images", tmp_path / "set") == 1
    assert "images/a/a.gif: a GIF, which DALI does not decode" in capsys.readouterr().err
    assert run_pack(tmp_path / "images", tmp_path / "set", "--encoding", "png", "--no-shuffle") == 0
    records = RecordSet(tmp_path / "set")
    tiff = Image.open(io.BytesIO(records.encoded(1).tobytes()))
    assert np.array_equal(np.asarray(tiff), pixels(12, 20))


def test_lower_quality_gives_smaller_files(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", 1, 3, "PNG")
    sizes = []
    for quality in ("30", "95"):
        assert run_pack(root, tmp_path / quality, "--encoding", "jpeg", "--quality", quality) == 0
        sizes.append(RecordSet(tmp_path / quality).info.parts[0].size)
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("side", [256, 150, 64])
def test_resize_is_antialiased_like_pil(side: int) -> None:
    """Stripes narrower than the resized pixels become grey instead of aliasing, as in PIL."""
    fine = np.zeros((400, 600, 3), np.uint8)
    fine[:, ::3] = 255
    smooth = np.asarray(Image.fromarray(pixels(40, 60)).resize((600, 400), Image.Resampling.BICUBIC))
    for picture in (fine, smooth):
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "PNG")
        data, header, _ = Transform(resize=side)(out.getvalue())
        size = header.width, header.height
        ours = np.asarray(Image.open(io.BytesIO(data))).astype(float)
        pil = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)).astype(float)
        difference = np.abs(ours - pil).mean()
        if picture is fine:
            aliased = np.abs(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR) - pil).mean()
            assert difference < 0.5 * aliased
        else:
            assert difference < 1


@pytest.mark.parametrize("canvas", [(1, 1), (80, 60), (500, 400)])
@pytest.mark.parametrize("decode", [False, True])
def test_max_pixels_applies_to_decoded_size(canvas: tuple[int, int], decode: bool) -> None:
    gif = encoded("GIF", 60, 80)
    gif = gif[:6] + struct.pack("<HH", *canvas) + gif[10:]  # a frame that exceeds the canvas enlarges it
    width, height = max(canvas[0], 80), max(canvas[1], 60)
    with pytest.raises(ValueError, match=rf"{width}x{height} is .* pixels, more than --max-pixels"):
        Transform(encoding="png", max_pixels=width * height - 1, decode=decode)(gif)
    kept, header, _ = Transform(encoding="png", max_pixels=width * height, decode=decode)(gif)
    assert decoded_size(kept) == header[1:3] == (height, width)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF"])
def test_pil_pixel_limit_is_ignored(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 50)  # PIL rejects images with more than twice as many
    _, header, _ = Transform(encoding="png", decode=True)(encoded(kind))
    assert header.height * header.width > 100
