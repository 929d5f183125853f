"""Draw heat maps that show where a model sees each class, as one sheet per image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from torch import Tensor

from dali_mix import pipelines
from dali_mix.engine.build import build_pipeline
from dali_mix.engine.checkpoint.files import check_writable
from dali_mix.engine.inference.image_files import Seen, Unreadable, find_images
from dali_mix.engine.inference.predict import Predictor
from dali_mix.models.maps import Looked, look
from dali_mix.options import did_you_mean, whole
from dali_mix.reports import style
from dali_mix.reports.sheet import Column, Picture, draw

SIDE = 384  # longer side of a picture in pixels, more than a sheet shows
COLORS, STRENGTH = "inferno", 0.6  # colour map and opacity of heat maps


def attention(
    predictor: Predictor,
    images: Iterable[str | Path],
    out: str | Path,
    *,
    classes: Sequence[str] | None = None,
    top_k: int = 3,
    each: Callable[[Path], object] = lambda sheet: None,
) -> tuple[list[Path], list[Unreadable]]:
    """Draw a sheet for each image, with the model's input and one heat map per class.

    A heat map shows the evidence for a class at each position (see `dali_mix.models.maps.look`), from its minimum
    (dark) to its maximum (bright). These two values and the probability of the class are printed below the map. For
    models with label attention (SGRE), a second row shows each label's attention in percent.

    Args:
        predictor: the model; `Predictor(config, checkpoint, model=…)` if the run used a model object.
        images: image files and folders.
        out: the folder for `NAME.png`, created if missing; for a second image of the same name, `NAME-2.png`.
        classes: names of the classes to draw; by default the `top_k` classes with the highest probability.
        top_k: number of classes to draw if `classes` is None.
        each: called with the path of every sheet as soon as it is written.

    Returns:
        the paths of the sheets, in the order of the images, and (path, reason) for each image that could not be read.

    Raises:
        ValueError: an unknown class, top_k below 1, no images, or a model without maps.
        FileNotFoundError: a path does not exist.
        OSError: `out` cannot be created or written to.
    """
    whole("top_k", top_k, 1)
    chosen = None if classes is None else [_index(name, predictor.classes) for name in classes]
    files, folder = find_images(images), Path(out)
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sheets: list[Path] = []
    unreadable: list[Unreadable] = []
    names: set[str] = set()
    for seen in predictor.load(files, unreadable):
        with torch.inference_mode(), predictor.autocast():
            looked = look(predictor.model, seen.images)
        pictures = shown(predictor, seen)
        scores = predictor.scores(looked.logits).cpu()
        for row, path in enumerate(seen.paths):
            numbers = chosen or scores[row].argsort(descending=True, stable=True)[:top_k].tolist()
            size = f"seen as {seen.images.shape[3]}×{seen.images.shape[2]} pixels"
            columns = [Column("input", [Picture(pictures[row], [size])])]
            columns += _columns(pictures[row], scores[row], looked, row, numbers, predictor.classes)
            sheets.append(style.save(draw(columns, path.name), folder / f"{style.unused(path.stem, names)}.png"))
            each(sheets[-1])
    return sheets, unreadable


def _columns(
    picture: Tensor, scores: Tensor, looked: Looked, row: int, numbers: Sequence[int], classes: Sequence[str]
) -> Iterator[Column]:
    for number in numbers:
        heat = looked.class_maps[row, number].float().cpu()
        caption = [f"probability {scores[number]:.3f}", f"logits {float(heat.min()):.3g} … {float(heat.max()):.3g}"]
        pictures = [Picture(overlaid(picture, heat), caption)]
        if looked.attention is not None:
            shares = 100 * looked.attention[row, number].float().cpu()
            caption = ["attention", f"{float(shares.min()):.2g} … {float(shares.max()):.2g}%"]
            pictures.append(Picture(overlaid(picture, shares), caption))
        yield Column(classes[number], pictures)


def overlaid(picture: Tensor, heat: Tensor) -> Tensor:
    """Return `picture` (3,H,W) uint8 in greyscale with the heat map `heat` (h,w) on top, as (3,H,W) uint8.

    The map's values are scaled linearly so that its minimum is 0 and its maximum 1. The map is resized to (H,W).
    """
    low, high = heat.min(), heat.max()
    scaled = (heat - low) / (high - low).clamp_min(1e-12)
    large = F.interpolate(scaled[None, None], picture.shape[1:], mode="bicubic", align_corners=False)[0, 0].clamp(0, 1)
    colors = torch.from_numpy(colormaps[COLORS](large.numpy())[..., :3]).permute(2, 0, 1) * 255
    grey = (picture.float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
    return (STRENGTH * colors + (1 - STRENGTH) * grey).round().byte()


def shown(predictor: Predictor, seen: Seen) -> list[Tensor]:
    """Return the model inputs in `seen`, a batch of B images, as B colour pictures (3,H,W) uint8 on the CPU.

    A picture has the aspect ratio of the part of the original image that the pipeline uses. Its longer side has `SIDE`
    pixels.
    """
    pipeline = build_pipeline(predictor.config, False)
    mean, std = (torch.tensor(values)[:, None, None] for values in (pipeline.mean, pipeline.std))
    images = seen.images.float().cpu() * std + mean
    pictures = []
    for image, aspect in zip(images, aspects(pipeline, seen.rows), strict=True):
        size = (max(1, round(SIDE / max(1.0, aspect))), max(1, round(SIDE * min(1.0, aspect))))
        large = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        pictures.append((255 * large).round().clamp(0, 255).byte())
    return pictures


def aspects(pipeline: pipelines.Pipeline, rows: np.ndarray) -> list[float]:
    """Return, for each image, the aspect ratio (width / height) of the part of the original that the pipeline uses.

    For a pipeline that does not map boxes, this is the aspect ratio of its output, since such a pipeline takes only
    images of one size.

    rows: (B,) of RECORD_DTYPE, with the sizes of the original images.
    """
    height, width = pipeline.fixed_size
    draws = pipeline.draw(rows, pipelines.SampleRandom(0, 0, np.arange(len(rows))))
    found = []
    for sample, row in enumerate(rows):
        try:  # the full image's box in the pipeline's output
            left, top, right, bottom = pipeline.map_boxes(np.array([[0.0, 0.0, 1.0, 1.0]]), row, draws, sample)[0]
        except ValueError:  # the pipeline takes only images of one size, and does not map boxes
            found.append(width / height)
            continue
        found.append(float(width * row["width"] / (right - left) / (height * row["height"] / (bottom - top))))
    return found


def _index(name: str, classes: Sequence[str]) -> int:
    if name in classes:
        return classes.index(name)
    hint = did_you_mean(name, classes, most=5, cutoff=0.5)
    raise ValueError(f"the model has no class {name!r}{hint}; its {len(classes)} start with {', '.join(classes[:10])}")
