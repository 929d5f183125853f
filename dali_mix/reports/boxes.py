"""Draw boxes on images: predictions on files, a sheet of an evaluation's hits and misses, and columns of a gallery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dali_mix._files import replacing
from dali_mix.datasets.images.decoding import converted_header, decode_bgr, needs_conversion
from dali_mix.metrics import DetectionMetrics
from dali_mix.metrics.detection import RIGHT
from dali_mix.recordio import RecordSet
from dali_mix.recordio.image_headers.header import read_image_header
from dali_mix.reports import style
from dali_mix.reports.sheet import Column, Picture, draw, wrapped

PALETTE = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#f032e6", "#469990")
SHOWN, COLUMNS, SIDE = 20, 5, 480  # maximum number of images and of columns, and longer side of an image in pixels


class Drawings:
    """A folder of images with boxes drawn on them: `NAME.png`, or `NAME-2.png` for a second image of that name.

    The folder is created if it is missing. Existing files in it are replaced.

    Args:
        folder: the folder.
        classes: class names, for the captions.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder, self.classes = folder, classes
        self._used: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, boxes: Tensor, scores: Tensor, labels: Tensor) -> Path:
        """Write a PNG copy of an image file, with boxes drawn on it, to the folder, and return its path.

        Args:
            path: the image file.
            boxes: (n, 4) x1, y1, x2, y2 in pixels after EXIF rotation.
            scores, labels: (n,) each; labels are class indices.

        Raises:
            ValueError, OSError: the file cannot be read, decoded or written.
        """
        captions = [f"{self.classes[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
        colors = [PALETTE[label % len(PALETTE)] for label in labels.tolist()]
        image = outlined(pixels_of(path.read_bytes()), boxes.numpy(), colors, captions)
        out = self.folder / f"{style.unused(path.stem, self._used)}.png"
        with replacing(out) as aside:
            image.save(aside, format="PNG")
        return out


def pixels_of(data: bytes) -> np.ndarray:
    """Decode an image file to (H, W, 3) uint8 RGB, rotated by EXIF. Raise ValueError if it cannot be decoded."""
    header = converted_header(data) if needs_conversion(data) else read_image_header(data, plain=False)
    return np.ascontiguousarray(decode_bgr(data, header)[:, :, ::-1])


def outlined(
    pixels: np.ndarray, boxes: np.ndarray, colors: Sequence[str], captions: Sequence[str] = (), width: int | None = None
) -> Image.Image:
    """Return an image with boxes drawn on it.

    Args:
        pixels: (H, W, 3) uint8, the image.
        boxes: (n, 4) x1, y1, x2, y2 in pixels.
        colors: one color for each box.
        captions: one text for each box, drawn above the box, or inside it if there is no room; empty for no captions.
        width: line width in pixels; by default 1/400 of the image's longer side, and at least 2.
    """
    image = Image.fromarray(pixels)
    pen, line = ImageDraw.Draw(image), width or max(2, round(max(image.size) / 400))
    font = ImageFont.load_default(size=max(11, max(image.size) // 50))
    for index, (box, color) in enumerate(zip(boxes.tolist(), colors, strict=True)):
        x1, y1, x2, y2 = box[0], box[1], max(box[0], box[2] - 1), max(box[1], box[3] - 1)
        pen.rectangle((x1, y1, x2, y2), outline=color, width=line)
        if captions:
            left, top, right, bottom = pen.textbbox((0, 0), captions[index], font=font)
            y = y1 - (bottom - top) - 4 if y1 > bottom - top + 4 else y1
            pen.rectangle((x1, y, x1 + right - left + 4, y + bottom - top + 4), fill=color)
            pen.text((x1 + 2 - left, y + 2 - top), captions[index], fill="white", font=font)
    return image


def sheet(metrics: DetectionMetrics, records: RecordSet, out: Path) -> Path:
    """Draw images of an evaluation as the PNG `out`, with hits, misses and wrong predictions at IoU 0.5.

    Up to 20 images, spread evenly over the set, are drawn. Correct predictions are green, wrong predictions orange, and
    missed objects red. Only predictions with scores above the threshold of `metrics` are used. Difficult objects are
    not shown as missed.

    Args:
        metrics: the evaluation's metrics, with the images of all ranks.
        records: the set that was evaluated.
        out: path of the PNG.

    Returns:
        `out`.
    """
    images = metrics.images()
    numbers = [
        images[at] for at in np.unique(np.linspace(0, len(images) - 1, min(SHOWN, len(images))).round().astype(int))
    ]
    columns: list[list[Picture]] = [[] for _ in range(min(COLUMNS, len(numbers)))]
    for index, number in enumerate(numbers):
        found, true, states, taken = metrics.matched(number)
        missed = true[~taken & (true[:, 4] == 0), :4]
        right, wrong = found[states == RIGHT, :4], found[states == 0, :4]
        pixels = pixels_of(records.encoded(number).tobytes())
        scale = min(1.0, SIDE / max(pixels.shape[:2]))
        size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
        small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
        boxes = np.concatenate([right, wrong, missed]) * scale
        colors = ["#2ca02c"] * len(right) + ["#ff8c00"] * len(wrong) + ["#e0182d"] * len(missed)
        image = torch.from_numpy(np.array(outlined(small, boxes, colors))).permute(2, 0, 1)
        caption = [f"{len(right)} found, {len(missed)} missed, {len(wrong)} wrong"]
        columns[index % len(columns)].append(Picture(image, caption))
    title = f"Found (green), missed (red), wrong (orange): scores above {metrics.threshold:g}, IoU at least 0.5"
    return style.save(draw([Column("", pictures) for pictures in columns], title), out)


def boxed_batch(
    images: Sequence[Image.Image], labels: Sequence[np.ndarray], size: int
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return (batch, targets) for the mixers in `mixers.boxes`.

    The batch is (B, 3, H, W) uint8: the resized images, padded with zeros at the right and bottom. The targets are a
    dict per image: "boxes" (n, 4) in pixels, "labels" (n,), "difficult" (n,) bool, and "size", the height and width
    without padding.

    Args:
        images: the images.
        labels: for each image (n, 6): class, x1, y1, x2, y2 in 0 … 1, difficult.
        size: shorter side of a resized image in pixels; less if the longer side would otherwise exceed 2 · `size`.
    """
    targets: list[dict[str, Any]] = []
    small = []
    for image, label in zip(images, labels, strict=True):
        factor = min(size / min(image.size), 2 * size / max(image.size))
        width, height = (max(1, round(side * factor)) for side in image.size)
        small.append(torch.from_numpy(np.array(image.resize((width, height), Image.Resampling.BILINEAR))))
        boxes = torch.from_numpy(label[:, 1:5].astype(np.float32)) * torch.tensor([width, height, width, height])
        kinds, difficult = torch.from_numpy(label[:, 0].astype(np.int64)), torch.from_numpy(label[:, 5] > 0)
        targets.append({"boxes": boxes, "labels": kinds, "difficult": difficult, "size": (height, width)})
    canvas = [max(one.shape[axis] for one in small) for axis in (0, 1)]
    batch = torch.zeros(len(small), 3, *canvas, dtype=torch.uint8)
    for index, one in enumerate(small):
        batch[index, :, : one.shape[0], : one.shape[1]] = one.permute(2, 0, 1)
    return batch, targets


def boxed_column(
    name: str, batch: Tensor, targets: Sequence[dict[str, Any]], rows: int, classes: Sequence[str]
) -> Column:
    """Return a column with the first `rows` images of a batch and their boxes. Captions count the boxes of each class.

    batch, targets: in the format of `boxed_batch`.
    """
    pictures = []
    line = 1 + max(batch.shape[2:]) // 300
    for image, target in list(zip(batch, targets, strict=True))[:rows]:
        pixels = image[:, : target["size"][0], : target["size"][1]].permute(1, 2, 0).numpy()
        kinds = target["labels"].tolist()
        colors = [PALETTE[kind % len(PALETTE)] for kind in kinds]
        drawn = outlined(np.ascontiguousarray(pixels), target["boxes"].numpy(), colors, width=line)
        caption = wrapped([f"{count} {classes[kind]}" for kind, count in sorted(Counter(kinds).items())], most=2)
        pictures.append(Picture(torch.from_numpy(np.array(drawn)).permute(2, 0, 1), caption))
    return Column(name, pictures)
