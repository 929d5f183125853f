"""Small packed sets of real images: scikit-learn's scanned digits, and crops of its sample photographs."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from dali_mix.recordio import Sample, write_set


def _pack(prefix, images, labels, classes, fmt):
    samples = []
    for image, label in zip(images, labels, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, fmt)
        samples.append(Sample(buffer.getvalue(), float(label)))
    write_set(prefix, samples, classes=classes)
    return str(prefix)


def pack_digits(folder, count=None):
    """Pack scanned digits, at most `count` per split, and return the (training, held-out) prefixes.

    Every fifth digit is held out.
    """
    digits = load_digits()
    images = np.clip(digits.images * 16, 0, 255).astype(np.uint8)
    held = np.arange(len(images)) % 5 == 4
    classes = [str(i) for i in range(10)]
    return tuple(
        _pack(folder / name, images[rows][:count], digits.target[rows][:count], classes, "PNG")
        for name, rows in (("digits_train", ~held), ("digits_val", held))
    )


def pack_photos(prefix, count=24):
    """Pack `count` JPEG crops that alternate between the two sample photographs; return the prefix."""
    photos = load_sample_images().images
    generator = np.random.Generator(np.random.Philox(key=[3, 3]))
    images, labels = [], []
    for index in range(count):
        height, width = (int(v) for v in generator.integers(60, 160, 2))
        top, left = int(generator.integers(0, 420 - height)), int(generator.integers(0, 630 - width))
        images.append(photos[index % 2][top : top + height, left : left + width])
        labels.append(index % 2)
    return _pack(prefix, images, labels, ["temple", "flower"], "JPEG")
