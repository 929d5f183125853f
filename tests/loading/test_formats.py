"""Unusual images decode to the expected shape and orientation; raw pixels load like encoded images."""

import io

import numpy as np
import pytest
from PIL import Image

from dali_mix import build_loader
from dali_mix.recordio import RecordSet, write_set
from tests.loading.sets import encode, picture, pixels_by_id

PLAIN = {"image_size": 32, "mean": (0, 0, 0), "std": (1, 1, 1), "crop_ratio": 1.0}


def oriented_picture(height=48, width=32):
    """Return a picture that reveals its orientation: a red top, a blue bottom and a green top left corner."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, :, 0], pixels[height // 2 :, :, 2] = 255, 255
    pixels[: height // 4, : width // 4] = (0, 255, 0)
    return pixels


def save(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented_jpeg(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    flip = Image.Transpose
    back = {2: flip.FLIP_LEFT_RIGHT, 3: flip.ROTATE_180, 4: flip.FLIP_TOP_BOTTOM, 5: flip.TRANSPOSE}
    back |= {6: flip.ROTATE_90, 7: flip.TRANSVERSE, 8: flip.ROTATE_270}
    image = Image.fromarray(oriented_picture())
    return save(
        image.transpose(back[orientation]) if orientation > 1 else image, "JPEG", quality=98, subsampling=0, exif=exif
    )


def netpbm(pixels):
    magic = "P5" if pixels.ndim == 2 else "P6"
    return f"{magic}\n{pixels.shape[1]} {pixels.shape[0]}\n255\n".encode() + pixels.tobytes()


def load(tmp_path, encoded, **options):
    write_set(tmp_path / "set", [(encoded, 0)], classes="a", force=True)
    one = build_loader(
        "imagenet",
        tmp_path / "set",
        batch_size=1,
        train=False,
        device="cpu",
        num_threads=1,
        pipeline_options=PLAIN | options,
    )
    return RecordSet(tmp_path / "set").table[0], pixels_by_id([one])[0].transpose(1, 2, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    row, image = load(tmp_path, oriented_jpeg(orientation), image_size=(48, 32))
    assert (row["height"], row["width"]) == (48, 32)
    assert image.shape == (48, 32, 3)
    assert abs(image - oriented_picture() / 255).mean() < 0.02


def test_grey_jpeg_loads_as_three_equal_channels(tmp_path):
    grey = picture(40, 40)[:, :, 0]
    _, image = load(tmp_path, save(Image.fromarray(grey), "JPEG", quality=95), image_size=40)
    assert abs(image - grey[:, :, None] / 255).max() < 0.06 and (image == image[:, :, :1]).all()


def test_cmyk_jpeg_is_converted_to_rgb(tmp_path):
    image = Image.fromarray(oriented_picture(40, 40))
    _, found = load(tmp_path, save(image.convert("CMYK"), "JPEG", quality=98, subsampling=0), image_size=40)
    assert found.shape == (40, 40, 3)
    assert abs(found - oriented_picture(40, 40) / 255).mean() < 0.05


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_lossless_formats_load_exact_pixels(tmp_path, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    _, image = load(tmp_path, encode(picture(40, 40), kind, **options), image_size=40)
    assert abs(image - picture(40, 40) / 255).max() < 0.005


def test_one_pixel_image_loads(tmp_path):
    pixels = np.array([[[10, 200, 90]]], dtype=np.uint8)
    _, image = load(tmp_path, encode(pixels))
    assert image.shape == (32, 32, 3) and abs(image - pixels / 255).max() < 0.005
    training = build_loader(
        "imagenet", tmp_path / "set", batch_size=1, train=True, device="cpu", pipeline_options=PLAIN
    )
    assert next(iter(training)).images.shape == (1, 3, 32, 32)


def test_16_bit_png_is_scaled_to_8_bits(tmp_path):
    deep = np.linspace(0, 65535, 1600).reshape(40, 40).astype(np.uint16)
    _, image = load(tmp_path, save(Image.fromarray(deep), "PNG"), image_size=40)
    assert abs(image - deep[:, :, None] / 65535).max() < 0.01


def test_png_alpha_channel_is_dropped(tmp_path):
    pixels = np.dstack([picture(40, 40), np.full((40, 40), 128, np.uint8)])
    _, image = load(tmp_path, encode(pixels), image_size=40)
    assert abs(image - pixels[:, :, :3] / 255).max() < 0.005


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("train", [True, False])
def test_raw_pixels_load_like_png(tmp_path, grey, train):
    found = []
    for name in ("png", "raw"):
        pictures = [picture(60 + i, 71, i)[:, :, 0] if grey else picture(60 + i, 71, i) for i in range(5)]
        samples = [(netpbm(pixels) if name == "raw" else encode(pixels), 0) for pixels in pictures]
        write_set(tmp_path / name, samples, classes="a")
        for pipeline in ("imagenet", "cifar"):
            one = build_loader(
                pipeline,
                tmp_path / name,
                batch_size=3,
                train=train,
                device="cpu",
                num_threads=1,
                pipeline_options={"image_size": 32},
            )
            found.append(pixels_by_id([one]))
    for png, raw in ((found[0], found[2]), (found[1], found[3])):
        assert all(np.array_equal(png[i], raw[i]) for i in range(5))
