"""Steps for sets with boxes: zoom-out, a crop that keeps objects, and resizing in proportion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dali_mix.pipelines.base import Step, channels, interval
from dali_mix.pipelines.random import SampleRandom
from dali_mix.pipelines.steps.geometry import Crop, Resize
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode

from dali_mix.options import number, whole

# torchvision continues until a window qualifies; 160 windows leave about 1% more of the images uncropped.
IOU_ROUNDS, IOU_TRIES = 4, 40
IOU_LEAST = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])  # minimum IoUs; the last one means no crop
LARGEST_SIDE = 8192  # pixels


class ZoomOut(Step):
    """Place the image on a larger canvas of colour `mean` with probability `prob` (SSD, arXiv 1512.02325).

    Both sides grow by the same factor, uniform in `zoom`, to at most `LARGEST_SIDE`. The position is uniform. `mean` is
    in 0..1 units.
    """

    def __init__(self, prob: float, mean: Sequence[float], zoom: Sequence[float] = (1.0, 4.0)) -> None:
        self.prob = number("zoom_out", prob, 0.0, 1.0)
        self.zoom = interval("zoom", zoom, 1.0, 8.0)
        self.color = [255 * value for value in channels("mean", mean)]
        self.active = self.prob > 0

    def draw(self, sizes: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Draw shape (B, 2) int32, height and width of the canvas, and anchor (B, 2) int32.

        The anchor is the negated top and left of the image on the canvas.
        """
        u = random.uniform(4)
        factor = np.where(u[:, 0] < self.prob, self.zoom[0] + (self.zoom[1] - self.zoom[0]) * u[:, 1], 1.0)
        factor = np.maximum(1.0, np.minimum(factor, LARGEST_SIDE / sizes.max(axis=1)))
        shape = np.floor(sizes * factor[:, None])
        anchor = -np.floor((shape - sizes + 1) * u[:, 2:])
        return {"shape": shape.astype(np.int32), "anchor": anchor.astype(np.int32)}

    def graph(self, images: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        return fn.slice(
            images,
            draws["anchor"],
            draws["shape"],
            device=device,
            axis_names="HW",
            out_of_bounds_policy="pad",
            fill_values=self.color,
        )

    def resized(self, sizes: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        return draws["shape"]

    def map_boxes(self, boxes: np.ndarray, size: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        # Parts of boxes that an earlier crop removed must not reappear on the larger canvas.
        return np.clip(boxes, 0, np.tile(size[::-1], 2)) - np.tile(draws["anchor"][::-1], 2)


class IoUCrop(Crop):
    """Crop a window that keeps an object, with probability `prob` (SSD, arXiv 1512.02325), as in torchvision.

    The height and the width of a window are fractions of the image's, drawn separately and uniformly from `scale`. The
    position is uniform, too. A threshold is drawn from 0, 0.1, 0.3, 0.5, 0.7, 0.9 and 1; for 1, the image is not
    cropped. A window qualifies if its width / height is within `ratio`, the centre of a box lies in it, and its largest
    IoU with such a box is at least the threshold.

    The first of 40 windows that qualifies is used. If none does, a new threshold and 40 new windows are drawn. After 4
    thresholds, the image is not cropped.

    Boxes with their centre outside the window are dropped. Images without boxes are not cropped.
    """

    draws_from_boxes = True

    def __init__(self, prob: float, scale: Sequence[float] = (0.3, 1.0), ratio: Sequence[float] = (0.5, 2.0)) -> None:
        self.prob = number("iou_crop", prob, 0.0, 1.0)
        self.scale = interval("iou_crop scale", scale, 0.01, 1.0)
        self.ratio = interval("iou_crop ratio", ratio, 0.01, 100.0)
        self.active = self.prob > 0

    def draw(self, sizes: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        return self.draw_from_boxes(sizes, [np.empty((0, 4))] * len(sizes), random)

    def draw_from_boxes(
        self, sizes: np.ndarray, boxes: Sequence[np.ndarray], random: SampleRandom
    ) -> dict[str, np.ndarray]:
        """Draw anchor and shape (B, 2) int32 of the window: see `Crop`. It is the full image if nothing is cropped."""
        tries = IOU_ROUNDS * IOU_TRIES
        acts = random.uniform(1)[:, 0] < self.prob
        least = IOU_LEAST[random.integers(0, len(IOU_LEAST), IOU_ROUNDS)].repeat(IOU_TRIES, axis=1)  # (B, tries)
        u = random.uniform(4 * tries).reshape(-1, tries, 4)
        shares = self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, :, :2]
        tried = np.floor(sizes[:, None] * shares)  # (B, tries, 2): height, width
        anchors = np.floor((sizes[:, None] - tried) * u[:, :, 2:])
        aspect = tried[:, :, 1] / np.maximum(tried[:, :, 0], 1)
        fits = (self.ratio[0] <= aspect) & (aspect <= self.ratio[1]) & (tried >= 1).all(axis=2)
        anchor, shape = np.zeros_like(sizes), sizes.copy()
        for image in np.flatnonzero(acts).tolist():
            windows = np.concatenate([anchors[image, :, ::-1], (anchors[image] + tried[image])[:, ::-1]], axis=1)
            iou = np.where(_centred(boxes[image], windows), _iou(boxes[image], windows), -1.0).max(axis=1, initial=-1.0)
            first = np.flatnonzero((fits[image] & (iou >= least[image])) | (least[image] == 1))[:1]
            if len(first) and least[image, first[0]] < 1:
                anchor[image], shape[image] = anchors[image, first[0]], tried[image, first[0]]
        return {"anchor": anchor.astype(np.int32), "shape": shape.astype(np.int32)}

    def map_boxes(self, boxes: np.ndarray, size: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        if np.array_equal(draws["shape"], size):
            return boxes
        window = np.tile(draws["anchor"][::-1], 2) + np.array([0, 0, *draws["shape"][::-1]])
        kept = _centred(boxes, window[None])[0]
        return np.where(kept[:, None], super().map_boxes(boxes, size, draws), 0.0)


def _centred(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Return (T, n) bool, True if the centre of a box (n, 4) lies inside a window (T, 4); both are x1, y1, x2, y2."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((windows[:, None, :2] < centres) & (centres < windows[:, None, 2:])).all(axis=2)


def _iou(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Return the intersection over union of windows (T, 4) and boxes (n, 4), both x1, y1, x2, y2, as (T, n) float64."""
    low = np.maximum(windows[:, None, :2], boxes[:, :2])
    high = np.minimum(windows[:, None, 2:], boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (windows[:, 2:] - windows[:, :2]).prod(axis=1)[:, None]
    return shared / (areas - shared)


class ShorterSide(Resize):
    """Resize in proportion, to a length of the shorter side drawn from `shorter` for each image.

    The shorter side becomes smaller than that if the longer one would otherwise exceed `longest`. Sides are rounded
    down, as in torchvision's RandomShortestSize.
    """

    def __init__(self, shorter: int | Sequence[int], longest: int, antialias: bool = True, fuse: bool = True) -> None:
        sides = shorter if isinstance(shorter, (list, tuple)) else (shorter,)
        if not sides:
            raise ValueError("shorter=[]: must be a number of pixels, or a list of them")
        self.shorter = np.array([whole("shorter", side, 16, LARGEST_SIDE) for side in sides])
        self.longest = whole("longest", longest, int(self.shorter.max()), LARGEST_SIDE)
        super().__init__(int(self.shorter.max()), antialias=antialias, fuse=fuse)

    def draw(self, sizes: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Draw size (B, 2) int32, the height and width to resize to."""
        shorter = self.shorter[random.integers(0, len(self.shorter), 1)[:, 0]]
        factor = np.minimum(shorter / sizes.min(axis=1), self.longest / sizes.max(axis=1))
        return {"size": np.maximum(1, np.floor(sizes * factor[:, None] + 1e-9)).astype(np.int32)}

    def graph(self, images: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        return self.resize(images, fn.cast(draws["size"], dtype=types.FLOAT), device)

    def fused(self, draws: Mapping[str, DataNode]) -> dict[str, Any]:
        origin = types.Constant(np.zeros(2, np.int32), device="cpu")
        return {"antialias": self.antialias, "crop": fn.cat(draws["size"], origin, draws["size"])}

    def resized(self, sizes: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        return draws["size"]

    def map_boxes(self, boxes: np.ndarray, size: np.ndarray, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        return boxes * np.tile(draws["size"][::-1] / size[::-1], 2)
