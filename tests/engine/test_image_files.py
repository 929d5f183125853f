"""Files for prediction: decoded a few at a time, in order, with the same pixels as after packing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dali_mix.engine.config.schema import RunConfig
from dali_mix.engine.inference import image_files
from dali_mix.engine.inference.image_files import Unreadable, find_images, load_images
from tests.loading.sets import encode, picture
from tests.recordio.odd_images import ODD, PLAIN, REFUSED

CONFIG = RunConfig(
    train_set="none",
    val_set=None,
    pipeline={"type": "multilabel", "image_size": 32},
    model={"type": "multilabel"},
    loss={"type": "BinaryCrossEntropy"},
    optimizer={"type": "SGD", "lr": 0.1},
    epochs=1,
    batch_size=16,
)


def load_all(paths: list[Path]) -> tuple[list[Path], np.ndarray, list[list[tuple[int, int]]], list[Unreadable]]:
    """Load `paths`; return the paths read, the images, the image sizes of each batch, and the unreadable files."""
    unreadable: list[Unreadable] = []
    batches = list(load_images(CONFIG, paths, torch.device("cpu"), unreadable))
    sizes = [[(int(row["height"]), int(row["width"])) for row in batch.rows] for batch in batches]
    images = np.concatenate([batch.images.numpy() for batch in batches])
    return [path for batch in batches for path in batch.paths], images, sizes, unreadable


SIDES = {
    "small": [20] * 20,
    "large": [90, 100, 90],
    "one large": [20] * 9 + [100] + [20] * 30,
    "alternating": [20, 100] * 8,
    "growing": [*range(10, 100, 3)],
}


@pytest.mark.parametrize("name", SIDES)
def test_decoded_pixels_per_batch_are_limited(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for number, side in enumerate(SIDES[name]):
        paths.append(tmp_path / f"{number:02d}.png")
        paths[-1].write_bytes(encode(picture(side, side, number)))
    expected = load_all(paths)
    assert expected[0] == paths and not expected[3]
    monkeypatch.setattr(image_files, "DECODED_PIXELS", 8000)
    found = load_all(paths)
    assert found[0] == paths and np.array_equal(found[1], expected[1])
    for batch in found[2]:
        assert len(batch) == 1 or sum(height * width for height, width in batch) <= 8000
    if name != "alternating":  # small images are not decoded one by one
        assert len(found[2]) <= 1 + sum(side > 40 for side in SIDES[name]) + len(paths) // 8


def test_odd_files_are_loaded_upright_or_reported(tmp_path: Path) -> None:
    files = {name: data for name, (data, _) in [*ODD.items(), *PLAIN.items()]}
    paths = []
    for number, data in enumerate([*files.values(), *(data for data, _ in REFUSED.values())]):
        paths.append(tmp_path / f"{number:02d}.img")
        paths[-1].write_bytes(data)
    good = paths[: len(files)]
    found, _, sizes, unreadable = load_all(paths)
    turned = [(20, 12) if turn >= 5 else (12, 20) for _, turn in [*ODD.values(), *PLAIN.values()]]
    assert found == good and [size for batch in sizes for size in batch] == turned
    assert [one.path for one in unreadable] == paths[len(files) :]


def frames(kind: str) -> bytes:
    """Return an image file with three frames."""
    first, *others = (Image.fromarray(picture(20, 24, number)) for number in range(3))
    out = io.BytesIO()
    first.save(out, kind, save_all=True, append_images=others)
    return out.getvalue()


def still(kind: str, mode: str, transparent: bool = False) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(picture(20, 24)).convert(mode)
    image.save(out, kind, **({"transparency": image.getpixel((0, 0))} if transparent else {}))
    return out.getvalue()


ALPHA = "transparency is dropped: transparent pixels show the colours stored under them"
NOTED = {
    "a.gif": (frames("GIF"), "decoders differ on a GIF of several images (the first)"),
    "a.tiff": (frames("TIFF"), "decoders differ on a TIFF of several images (the first)"),
    "moving.png": (frames("PNG"), "decoders differ on an animated PNG"),
    "rgba.png": (still("PNG", "RGBA"), ALPHA),
    "gray.png": (still("PNG", "LA"), ALPHA),
    "palette.png": (still("PNG", "P", transparent=True), ALPHA),
    "one.gif": (still("GIF", "P", transparent=True), ALPHA),
    "rgba.tiff": (still("TIFF", "RGBA"), ALPHA),
    "plain.gif": (still("GIF", "P"), ""),
    "plain.png": (still("PNG", "RGB"), ""),
    "palette-only.png": (still("PNG", "P"), ""),
    "plain.jpg": (still("JPEG", "RGB"), ""),
    "plain.webp": (still("WEBP", "RGB"), ""),
    "plain.bmp": (still("BMP", "RGB"), ""),
}


@pytest.mark.parametrize("name", NOTED)
def test_dropped_frames_and_transparency_are_counted(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, said = NOTED[name]
    paths = [tmp_path / f"{number}-{name}" for number in range(2)]
    for path in paths:
        path.write_bytes(data)
    found, _, _, unreadable = load_all(paths)
    assert found == paths and not unreadable
    assert caplog.messages == ([f"2 images: {said}"] if said else [])


def test_dangling_symlink_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(still("JPEG", "RGB"))
    (tmp_path / "b.jpg").symlink_to("gone.jpg")
    paths = find_images([tmp_path])
    found, _, _, unreadable = load_all(paths)
    assert found == paths[:1]
    assert unreadable == [Unreadable(tmp_path / "b.jpg", "cannot be read: No such file or directory")]


PICTURE = Image.new("RGB", (4, 4))


@pytest.mark.parametrize("images", [PICTURE, [PICTURE], np.zeros((2, 4, 4, 3)), torch.zeros(3, 4, 4), [b"a.jpg"], 3])
def test_image_in_memory_is_refused(images: Any) -> None:
    with pytest.raises(TypeError, match=r"an image must be a path, not .*: pass image files or folders; save pixels"):
        find_images(images)
