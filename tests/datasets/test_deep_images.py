"""Images of 16 bits a pixel, or of a PNM's own number of grey levels: encoded anew, and as DALI decodes them."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from dali_mix.datasets import Transform


@pytest.mark.parametrize("brightest", [200, 4000, 65535])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_their_upper_eight_also_in_dark_images(kind: str, brightest: int) -> None:
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


def decoded_by_dali(data: bytes) -> np.ndarray:
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        source = fn.external_source(source=lambda: [np.frombuffer(data, np.uint8)], batch=True)
        pipeline.set_outputs(fn.decoders.image(source, device="cpu", output_type=types.RGB))
    pipeline.build()
    return np.asarray(pipeline.run()[0][0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("brightest", [1, 0.003])  # of white: a dark image is no image of another scale
@pytest.mark.parametrize("maximum", [1, 15, 127, 254, 255, 1023, 65535])
def test_a_pnm_of_any_number_of_levels(maximum: int, brightest: float, channels: int) -> None:
    values = np.linspace(0, maximum * brightest, 9 * 13 * channels).round().astype(int).reshape(9, 13, channels)
    data, expected = pnm(channels, maximum, values), values * 255 / maximum
    for encoding in ("png", "raw"):
        stored, header, _ = Transform(encoding=encoding)(data)
        assert header[1:3] == (9, 13)
        assert abs(decoded_by_dali(bytes(stored)) - expected).max() <= 1
    if maximum in (255, 65535):
        assert abs(decoded_by_dali(bytes(Transform()(data)[0])) - expected).max() <= 1
    else:  # 15 would decode to 15 of 255
        with pytest.raises(ValueError, match=f"white is {maximum}: DALI"):
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
def test_a_damaged_pnm_is_refused_when_converted(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Transform(encoding="png", decode=True)(data)


def transparent(kind: str) -> bytes:
    """A picture whose left half is transparent, in one of the ways there are."""
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
def test_transparency_is_dropped_alike(kind: str) -> None:
    """NVIDIA/DIGITS#85, opencv/opencv#21694: the colours under it show, whichever way it is packed."""
    data = transparent(kind)
    kept = decoded_by_dali(bytes(Transform()(data)[0]))
    expected = Image.open(io.BytesIO(data)).convert("RGBA").convert("RGB")
    assert np.array_equal(kept, np.asarray(expected))
    for encoding in ("png", "raw"):
        assert np.array_equal(decoded_by_dali(bytes(Transform(encoding=encoding)(data)[0])), kept)
