"""Small sets for the pipeline and loading tests."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline as DaliPipeline
from PIL import Image

from dali_mix.loading.loader import Loader
from dali_mix.recordio import write_set

# name → (pipeline, options) of graphs that return images of 32 × 32 pixels
FIXED_SIZE_GRAPHS: dict[str, tuple[str, dict[str, Any]]] = {
    "imagenet": ("imagenet", {"image_size": 32}),
    "imagenet, unfused": ("imagenet", {"image_size": 32, "fuse": False}),
    "imagenet, whole images": ("imagenet", {"image_size": 32, "preset": "parity"}),
    "multilabel": ("multilabel", {"image_size": 32}),
    "multilabel, whole pictures": ("multilabel", {"image_size": 32, "crop": "none", "fuse": False}),
}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a smooth random picture, (height, width, 3) uint8, made by enlarging coarse noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """Encode a picture in PIL's format `kind`."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def png_set(prefix: Path, count: int, size: Callable[[int], tuple[int, int]] | None = None, **options: Any) -> Path:
    """Write a classification set of `count` PNGs.

    Record i has class i % 3 and, by default, a size that depends on i.
    """
    size = size or (lambda number: (36 + number % 7, 33 + number % 11))
    samples = [(encode(picture(*size(number), seed=number)), number % 3) for number in range(count)]
    write_set(prefix, samples, classes=("a", "b", "c"), **options)
    return prefix


def boxed_set(prefix: Path, count: int, largest: int) -> Path:
    """Write black pictures with sides of at least 80 and less than `largest` pixels.

    Each has a white rectangle and its box.
    """
    random, samples = np.random.default_rng(0), []
    for _ in range(count):
        height, width = random.integers(80, largest, 2)
        top, left = random.integers(0, height // 2), random.integers(0, width // 2)
        bottom, right = top + height // 3, left + width // 3
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[top:bottom, left:right] = 255
        samples.append((encode(pixels), [2, 6, 1, left / width, top / height, right / width, bottom / height, 0]))
    write_set(prefix, samples, task="detection", classes=("a", "b"))
    return prefix


def pixels_by_id(loaders: Sequence[Loader]) -> dict[int, np.ndarray]:
    """Return the images by record number from one epoch of all loaders; fail if a record occurs twice."""
    found: dict[int, np.ndarray] = {}
    for loader in loaders:
        for images, _, ids in loader:
            for image, number in zip(images.numpy(), ids.tolist(), strict=True):
                assert number not in found
                found[number] = image
    return found


def decoded_by_dali(images: list[bytes]) -> list[np.ndarray]:
    """Decode each image with DALI on the CPU. Return (H, W, 3) RGB arrays of integers."""
    pipeline = DaliPipeline(batch_size=len(images), num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        files = [np.frombuffer(data, np.uint8) for data in images]
        source = fn.external_source(source=lambda: files, batch=True)
        pipeline.set_outputs(fn.decoders.image(source, device="cpu", output_type=types.RGB))
    pipeline.build()
    (out,) = pipeline.run()
    return [np.asarray(out[number]).astype(int) for number in range(len(images))]
