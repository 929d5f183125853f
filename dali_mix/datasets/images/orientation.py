"""Rotate boxes and crops by EXIF orientation, since tools annotate either the rotated image or the stored pixels."""

from __future__ import annotations

import numpy as np

CHOICES = ("apply", "ignore")
# Orientations that flip x, and orientations that flip y. From 5 on, x and y are swapped first.
_MIRRORED, _UPSIDE_DOWN = (2, 3, 6, 7), (3, 4, 7, 8)


def turn_boxes(boxes: np.ndarray, orientation: int) -> np.ndarray:
    """Map boxes (n, 4) from the stored image to the image rotated by EXIF `orientation` (1 to 8).

    Boxes are x1, y1, x2, y2 in 0..1 of the width and height of the stored or rotated image.
    """
    x, y = boxes[:, [0, 2]], boxes[:, [1, 3]]
    if orientation >= 5:
        x, y = y, x
    if orientation in _MIRRORED:
        x = 1 - x[:, ::-1]
    if orientation in _UPSIDE_DOWN:
        y = 1 - y[:, ::-1]
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)


def turn_crop(
    crop: tuple[float, float, float, float], height: int, width: int, orientation: int
) -> tuple[float, float, float, float]:
    """Map a crop (x, y, width, height) from the stored pixels to the rotated image of `height` x `width` pixels."""
    stored = (height, width) if orientation < 5 else (width, height)
    scale = np.array([stored[1], stored[0]] * 2, dtype=np.float64)
    corners = np.array([[crop[0], crop[1], crop[0] + crop[2], crop[1] + crop[3]]])
    x1, y1, x2, y2 = (turn_boxes(corners / scale, orientation)[0] * (width, height, width, height)).tolist()
    return x1, y1, x2 - x1, y2 - y1


def turned_notice(count: int) -> str:
    """Return the notice that `count` images with boxes are rotated by EXIF, shown unless `--exif` is set."""
    return (
        f"{count:,} images with boxes are rotated by EXIF; boxes are assumed to refer to the rotated image, as viewers"
        " show it. If they were drawn on the pixels as stored, pack with --exif ignore, else with --exif apply"
    )
