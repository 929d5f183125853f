"""The photographs shown in the documentation. They are included in scikit-learn and scikit-image (photographs.md).

The extra `docs` installs scikit-image.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

from dali_mix.recordio import Sample, write_set

CLASSES = ["astronaut", "cat", "coffee", "temple", "flower"]
# The box of the object in each photograph: x1, y1, x2, y2, as fractions of the width and height.
OBJECTS = [
    (0.03, 0.03, 0.73, 1.0),
    (0.0, 0.0, 0.82, 1.0),
    (0.12, 0.03, 0.79, 0.97),
    (0.10, 0.06, 0.57, 0.93),
    (0.25, 0.19, 0.70, 0.86),
]
MXNET = (2, 6)  # numbers per header and per object (class, corners, difficult) in mxnet's layout


def photographs() -> list[np.ndarray]:
    """Return the photographs, (H, W, 3) uint8 each, in the order of `CLASSES`."""
    return [data.astronaut(), data.chelsea(), data.coffee(), *load_sample_images().images]


def pack(prefix: Path, task: str = "classification", first: int = 0) -> Path:
    """Pack the photographs from index `first` on into the set `prefix` for "classification" or "detection".

    Return `prefix`.
    """
    samples = []
    for label, photo in list(enumerate(photographs()))[first:]:
        buffer = io.BytesIO()
        Image.fromarray(photo).save(buffer, "JPEG", quality=95)
        target = [*MXNET, label, *OBJECTS[label], 0] if task == "detection" else float(label)
        samples.append(Sample(buffer.getvalue(), target))
    write_set(prefix, samples, task=task, classes=CLASSES)
    return prefix


def save_jpeg(picture: Path, out: Path, scale: float, quality: int) -> None:
    """Resize the PNG `picture` by the factor `scale`, write it to `out` as a JPEG, and print the size of the file."""
    with Image.open(picture) as image:
        size = round(image.width * scale), round(image.height * scale)
        image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(out, quality=quality, optimize=True)
    print(f"wrote {out} ({out.stat().st_size / 1000:.0f} kB)")
