"""Pictures for the saliency tests: drawn ones, identical on every machine, and crops of photographs."""

from __future__ import annotations

import numpy as np


def drawn(height: int, width: int, seed: int) -> np.ndarray:
    """Draw a (height, width, 3) uint8 picture with a gradient, discs, squares and grain, using only integers."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    image = np.empty((height, width, 3), np.int64)
    for channel in range(3):
        image[:, :, channel] = (seed * 37 + channel * 60 + y * (2 + channel) // 3 + x // (1 + channel)) % 256
    for k in range(1, 7):
        state = seed * 7919 + k * 104729
        centre_y, centre_x, size = state % height, state // 7 % width, 1 + state // 11 % max(1, min(height, width) // 4)
        far = np.maximum(abs(y - centre_y), abs(x - centre_x)) if k % 2 else ((y - centre_y) ** 2 + (x - centre_x) ** 2)
        image[far <= (size if k % 2 else size * size)] = [state // 3 % 256, state // 5 % 256, state // 13 % 256]
    # The high bits of a linear congruential generator.
    grain = (((y * width + x + seed) * 1103515245 + 12345) >> 16) % 23 - 11
    return np.clip(image + grain[:, :, None], 0, 255).astype(np.uint8)


def drawn_pictures() -> dict[str, np.ndarray]:
    """Return name → picture, from one pixel to more than 2^24 / 255 pixels, with some extreme pictures."""
    sizes = [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 3),
        (1, 40),
        (30, 1),
        (13, 9),
        (32, 32),
        (48, 64),
        (97, 61),
        (160, 120),
        (224, 224),
    ]
    pictures = {f"drawn_{h}x{w}": drawn(h, w, h + w) for h, w in sizes}
    # Bright, so sums exceed 2^24 early and float32 rounds them.
    pictures["bright_270x330"] = 255 - drawn(270, 330, 5) // 8
    pictures["black_9x14"], pictures["white_14x9"] = np.zeros((9, 14, 3), np.uint8), np.full((14, 9, 3), 255, np.uint8)
    pictures["half_20x30"] = np.repeat((np.arange(30) >= 15)[None, :, None] * np.uint8(255), 20, axis=0).repeat(3, 2)
    # A spot that is brighter than its surroundings and darker than distant pixels counts as both, so sums exceed 255.
    y, x = np.mgrid[:180, :200]
    distance = (y - 90) ** 2 + (x - 100) ** 2
    bowl = 230 - 200 * np.maximum(1600 - distance, 0) // 1600 + 120 * (distance <= 16)
    pictures["bowl_180x200"] = bowl.astype(np.uint8)[:, :, None].repeat(3, axis=2)
    return pictures


def photo_crops(count: int, seed: int) -> dict[str, np.ndarray]:
    """Return crops of scikit-learn's two photographs (427 × 640), some transposed or inverted.

    The first two are the complete photographs.
    """
    from sklearn.datasets import load_sample_images

    photos = load_sample_images().images
    rng = np.random.default_rng(seed)
    crops = {f"whole_{i}": photo for i, photo in enumerate(photos)}
    for i in range(count - len(photos)):
        height, width = np.exp(rng.uniform(0, np.log(260), 2)).astype(int)
        if i % 4 == 0:
            height = width = (32, 64, 128, 224)[i // 4 % 4]
        photo = photos[i % len(photos)]
        top, left = rng.integers(0, photo.shape[0] - height + 1), rng.integers(0, photo.shape[1] - width + 1)
        crop = photo[top : top + height, left : left + width]
        crop = crop.transpose(1, 0, 2) if rng.random() < 0.3 else crop
        crops[f"crop_{i}"] = np.ascontiguousarray(255 - crop if rng.random() < 0.3 else crop)
    return crops
