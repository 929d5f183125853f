"""A picture of what mixers do to a set: a row an image, a column a mixer, labels and shares below."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from dali_mix import mixers as mixer_room
from dali_mix.mixers import ChoiceParams, Mixer, SpliceMixParams
from dali_mix.recordio import RecordSet
from dali_mix.reports import style
from dali_mix.reports.samples import natural_size, read_images, read_targets

# Inches.
CELL, GAP, CAPTION, HEAD, TITLE, MARGIN = 1.65, 0.14, 0.40, 0.26, 0.52, 0.22
LONGEST_NAME = 22
SMALLEST_BATCH = 32  # so that an image is seldom its own partner


def gallery(
    records: RecordSet | str | Path,
    mixers: Sequence[Mixer[Any] | str],
    out: str | Path,
    *,
    rows: int = 4,
    image_size: int | None = None,
    seed: int = 0,
    boxes: bool = True,
    title: str | None = None,
) -> Path:
    """Draws `rows` images of a packed set, plain and by each mixer, as a PNG.

    Images are the central squares of randomly drawn records; partners come from a batch of 32 or more. Each mixer draws
    with the same seed. Below a picture stand λ with the image's own class and 1-λ with its partner's, or, for
    multi-label sets, the two largest targets.

    Args:
        records: a classification or multi-label set, or its prefix.
        mixers: mixers, or texts as `parse_mixer` takes them.
        image_size: side in pixels that images are brought to before mixing; by default one that suits the set.
        boxes: outline what was pasted or cut.

    Returns:
        `out`.

    Raises:
        ValueError: an unknown mixer, no rows, a detection set, an image that cannot be decoded, `out` not called .png.
        FileNotFoundError: no such set, or no folder to write to.
    """
    style.check_out(out)
    if not isinstance(records, RecordSet):
        records = RecordSet(records)
    size = natural_size(records) if image_size is None else image_size
    if rows < 1 or size < 8 or not mixers:
        raise ValueError(f"a gallery needs rows ≥ 1 ({rows}), a mixer ({len(mixers)}) and image_size ≥ 8 ({size})")
    if not len(records):
        raise ValueError(f"{records.prefix} holds no records to show")
    classes = records.info.classes
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(records), generator=generator)[: max(2 * rows, SMALLEST_BATCH)].tolist()
    rows = min(rows, len(chosen))
    images, targets = read_images(records, chosen, size), read_targets(records, chosen)
    # As in training, 0 is the mean colour while mixing.
    mean = images.float().mean((0, 2, 3))[:, None, None]
    built = [
        parse_mixer(mixer, len(classes), size, (mean.flatten() / 255).tolist()) if isinstance(mixer, str) else mixer
        for mixer in mixers
    ]

    heading = title or f"{records.prefix.name}: {len(records):,} images, {len(classes):,} classes"
    sheet = _Sheet(rows, len(built) + 1, heading)
    sheet.column(0, "original")
    for row in range(rows):
        sheet.picture(row, 0, images[row], _labels(targets[row], classes))
    for column, mixer in enumerate(built, start=1):
        sheet.column(column, type(mixer).__name__)
        params = mixer.sample(len(chosen), size, size, torch.Generator().manual_seed(seed))
        mixed, mixed_targets = mixer.apply(images.float() - mean, targets, params)
        pixels = (mixed + mean).round().clamp(0, 255).byte()
        while isinstance(params, ChoiceParams):
            params = params.params
        outlines = getattr(params, "boxes", None) if boxes else None
        # SpliceMix leaves the batch as it is and appends: those are to be seen.
        first = len(chosen) if isinstance(params, SpliceMixParams) else 0
        pixels, mixed_targets = pixels[first:], mixed_targets[first:]
        for row in range(min(rows, len(pixels))):
            outline = None if outlines is None else outlines[row].tolist()
            if hasattr(params, "lam") and targets.ndim == 1:
                caption = _shares(targets, row, params, classes)
            else:
                caption = _labels(mixed_targets[row], classes)
            sheet.picture(row, column, pixels[row], caption, outline)
    return style.save(sheet.figure, out)


def parse_mixer(text: str, num_classes: int, image_size: int, mean: Sequence[float] | None = None) -> Mixer[Any]:
    """A mixer from a text: its name, then options, all between colons: `resizemix`, `mixup:alpha=1.0:per_batch=True`.

    Where they are not given, Cutout's size is half the side of the images, and MixUp's alpha is 1: with .2 nearly every
    picture would look unmixed. `mean`, 0..1 units, is what images of 0 … 255 come without.

    Raises:
        ValueError: unknown mixer or option.
    """
    name, *pairs = text.strip().split(":")
    defaults: dict[str, dict[str, Any]] = {"cutout": {"size": image_size // 2}, "mixup": {"alpha": 1.0}}
    options: dict[str, Any] = defaults.get(name.lower(), {}).copy()
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"mixer {text!r}: {pair!r} is no option; write name:option=value:option=value")
        try:
            options[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key.strip()] = value.strip()
    if mean is not None:  # pixels minus mean: the spread of grey levels is as it was
        options = {"mean": tuple(mean), "std": (1 / 255,) * len(mean), **options}
    return mixer_room.build(name, num_classes=num_classes, **options)


class _Sheet:
    """A grid of square pictures with captions, placed to the hundredth of an inch."""

    def __init__(self, rows: int, columns: int, title: str) -> None:
        self.width = 2 * MARGIN + columns * CELL + (columns - 1) * GAP
        self.height = TITLE + HEAD + rows * (CELL + CAPTION + GAP) + MARGIN / 2
        self.figure: Figure = style.new_figure(self.width, self.height)
        self._text(MARGIN, 0.20, title, fontsize=11, fontweight="bold", color=style.INK)

    def column(self, column: int, name: str) -> None:
        """Writes the head of a column."""
        self._text(self._left(column), TITLE + 0.02, name, fontsize=9, color=style.INK)

    def picture(self, row: int, column: int, image: Tensor, caption: str, outline: Sequence[int] | None = None) -> None:
        """Puts `image` (3,H,W) uint8 into a cell, `caption` below, and `outline` (top, left, height, width) over it."""
        left, top = self._left(column), TITLE + HEAD + row * (CELL + CAPTION + GAP)
        place = (left / self.width, 1 - (top + CELL) / self.height, CELL / self.width, CELL / self.height)
        axes = self.figure.add_axes(place)
        smooth = image.shape[-1] > 64
        axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="antialiased" if smooth else "nearest")
        axes.set_axis_off()
        if outline is not None and outline[2] and outline[3]:
            y, x, height, width = outline
            # White under colour, so that the line shows on any picture.
            for color, line in (("white", 2.0), (style.ORANGE, 1.0)):
                axes.add_patch(
                    Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=color, linewidth=line)
                )
        self._text(left, top + CELL + 0.06, caption, fontsize=7.5, color=style.FAINT, linespacing=1.25)

    def _left(self, column: int) -> float:
        return MARGIN + column * (CELL + GAP)

    def _text(self, left: float, top: float, text: str, **look: Any) -> None:
        # parse_math off: class names may hold dollar signs.
        self.figure.text(left / self.width, 1 - top / self.height, text, va="top", parse_math=False, **look)


def _shares(targets: Tensor, row: int, params: Any, classes: Sequence[str]) -> str:
    """λ and the class of the image itself, 1-λ and its partner's."""
    lam, partner = float(params.lam[row]), int(params.permutation[row])
    own, other = (_short(classes[int(targets[place])]) for place in (row, partner))
    return f"λ {lam:.2f}  {own}\n1-λ {1 - lam:.2f}  {other}"


def _labels(target: Tensor, classes: Sequence[str]) -> str:
    """The class; or of (K,) targets the two largest, a line each."""
    if target.ndim == 0:
        return _short(classes[int(target)])
    largest = sorted(range(len(target)), key=lambda index: -float(target[index]))[:2]
    return "\n".join(f"{float(target[index]):.2f}  {_short(classes[index])}" for index in largest if target[index] > 0)


def _short(name: str) -> str:
    # ImageNet's names are lists of synonyms.
    first = name.split(",")[0].strip().replace("_", " ")
    return first if len(first) <= LONGEST_NAME else first[: LONGEST_NAME - 1] + "…"
