"""Crop windows, drawn from the images' sizes alone, for a whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from dali_mix.pipelines.random import SampleRandom

TRIES = 10


def random_resized_windows(
    height: np.ndarray, width: np.ndarray, scale: tuple[float, float], ratio: tuple[float, float], random: SampleRandom
) -> tuple[np.ndarray, np.ndarray]:
    """Windows of random area and shape: the "inception" crop (Szegedy et al. 2015) as torchvision's RandomResizedCrop
    draws it.

    Ten tries a record: share of the area uniform in `scale`, width / height log-uniform in `ratio`; the first that fits
    counts, placed
    uniformly. If none fits: the whole image, or the largest centred window within `ratio`.

    Args:
        height, width: (B,) image sizes, pixels.

    Returns:
        anchor (B, 2) int32 as top, left; shape (B, 2) int32 as height, width. Inside the image, at least one pixel.
    """
    rows = np.asarray(height, dtype=np.float64)
    columns = np.asarray(width, dtype=np.float64)
    u = random.uniform(2 * TRIES + 2)
    area = (rows * columns)[:, None] * (scale[0] + (scale[1] - scale[0]) * u[:, :TRIES])
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * u[:, TRIES : 2 * TRIES])
    h = np.rint(np.sqrt(area / aspect))
    w = np.rint(np.sqrt(area * aspect))
    fits = (h >= 1) & (w >= 1) & (h <= rows[:, None]) & (w <= columns[:, None])
    every = np.arange(len(rows))
    first = fits.argmax(axis=1)
    fallback_h, fallback_w = _fallback(rows, columns, ratio)
    found = fits[every, first]
    h = np.where(found, h[every, first], fallback_h)
    w = np.where(found, w[every, first], fallback_w)
    top = np.where(found, np.floor(u[:, -2] * (rows - h + 1)), (rows - h) // 2)
    left = np.where(found, np.floor(u[:, -1] * (columns - w + 1)), (columns - w) // 2)
    return np.stack([top, left], axis=1).astype(np.int32), np.stack([h, w], axis=1).astype(np.int32)


def _fallback(rows: np.ndarray, columns: np.ndarray, ratio: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    shape = columns / rows
    h = np.where(shape < ratio[0], np.clip(np.rint(columns / ratio[0]), 1, rows), rows)
    w = np.where(shape > ratio[1], np.clip(np.rint(rows * ratio[1]), 1, columns), columns)
    return h, w


# Multi-scale crop: sides as shares of the picture's, at most two steps of this list apart; and where windows may lie,
# in quarters of the room there is (top, left): four corners, centre, middles of the borders, and the quarter points.
SCALES = np.array([1.0, 0.875, 0.75, 0.66, 0.5])
SIDE_PAIRS = np.array([(i, j) for i in range(5) for j in range(5) if abs(i - j) <= 2])
PLACES = np.array(
    [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
)


def multi_scale_windows(height: np.ndarray, width: np.ndarray, random: SampleRandom) -> tuple[np.ndarray, np.ndarray]:
    """Windows of the multi-scale crop of two-stream networks (arXiv 1507.02159), as SpliceMix and ML-GCN use it.

    Published: the picture is resized to a square, a window of one of 19 pairs of sides is cut at one of 13 places, and
    resized again. Here the same window is taken from the picture as it is, so that its pixels are resampled once.

    Args:
        height, width: (B,) image sizes, pixels.

    Returns:
        anchor (B, 2) int32 as top, left; shape (B, 2) int32 as height, width. Inside the image, at least one pixel.
    """
    size = np.stack([height, width], axis=1).astype(np.float64)
    sides = SIDE_PAIRS[random.integers(0, len(SIDE_PAIRS), 1)[:, 0]]
    place = PLACES[random.integers(0, len(PLACES), 1)[:, 0]]
    shape = np.maximum(np.rint(size * SCALES[sides]), 1)
    anchor = np.floor((size - shape) * place / 4)
    return anchor.astype(np.int32), shape.astype(np.int32)


def map_boxes(
    boxes: np.ndarray, draws: Mapping[str, np.ndarray], sample: int, image_size: tuple[int, int]
) -> np.ndarray:
    """Carries boxes through a window (anchor, shape of `draws`), a resize to `image_size` and a flip (mirror).

    Args:
        boxes: (n, 4) x1, y1, x2, y2 in pixels of the picture.

    Returns:
        (n, 4) x1, y1, x2, y2 in pixels of the image made, not clipped.
    """
    out = np.array(image_size[::-1], dtype=np.float64)
    start, shape = draws["anchor"][sample][::-1], draws["shape"][sample][::-1]
    corners = (boxes.reshape(-1, 2, 2).astype(np.float64) - start) / shape * out
    if draws["mirror"][sample]:
        corners[:, :, 0] = out[0] - corners[:, ::-1, 0]
    return corners.reshape(-1, 4)


def covering_sizes(height: np.ndarray, width: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """(B, 2) int32: sizes in proportion that just cover `target` (height, width), rounded down as torchvision's Resize
    does.

    For a square target: the shorter side becomes its side.
    """
    h, w = np.asarray(height, dtype=np.int64), np.asarray(width, dtype=np.int64)
    tall, wide = np.maximum(target[0], target[1] * h // w), np.maximum(target[1], target[0] * w // h)
    return np.stack([tall, wide], axis=1).astype(np.int32)


def centre_crop_positions(sizes: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """(B, 2) float32: where a centred crop begins, as a share of the room there is (DALI's crop_pos), rounding as
    torchvision's CenterCrop.
    """
    room = np.asarray(sizes, dtype=np.int64) - np.array(crop, dtype=np.int64)
    start = np.rint(room / 2)  # ties go to the even number, as Python's round does
    return np.divide(start, room, out=np.full(room.shape, 0.5), where=room > 0).astype(np.float32)
