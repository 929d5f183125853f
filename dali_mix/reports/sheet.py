"""Draw a sheet of small pictures in columns with headings, with a caption below each picture."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from torch import Tensor

from dali_mix.reports import style

# Lengths in inches. CAPTION has room for two lines and grows by LINE for each further line.
CELL, GAP, CAPTION, LINE, HEAD, TITLE, MARGIN = 1.65, 0.14, 0.40, 0.13, 0.26, 0.52, 0.22
SMALL, MIDDLE, LARGE = 7.5, 9.0, 11.0  # points
MOST_LINES = 6
INDENT = "   "


@dataclass(frozen=True)
class Picture:
    """An image with a caption and markers.

    Attributes:
        image: (3,H,W) uint8.
        caption: lines of text.
        outlines: top, left, height, width of each box, in pixels of the image.
        peak: row and column of a pixel to mark.
    """

    image: Tensor
    caption: Sequence[str] = ()
    outlines: Sequence[Sequence[float]] = ()
    peak: tuple[int, int] | None = None


@dataclass(frozen=True)
class Column:
    """A column of pictures; columns may have different lengths.

    Attributes:
        name: the heading.
        pictures: from top to bottom.
    """

    name: str
    pictures: Sequence[Picture] = field(default_factory=list)


def draw(columns: Sequence[Column], title: str) -> Figure:
    """Return a sheet with `title` at the top and the pictures of `columns`, each with its caption below.

    A picture is at most `CELL` inches wide and high. Text that is too wide is truncated. All rows have the same height,
    with room for the tallest picture and the caption with the most lines.
    """
    pictures = [picture for column in columns for picture in column.pictures]
    rows = max(len(column.pictures) for column in columns)
    lines = max((len(picture.caption) for picture in pictures), default=0)
    shapes = [picture.image.shape for picture in pictures]
    tall = CELL * min(1.0, max((height / width for _, height, width in shapes), default=1.0))
    width = 2 * MARGIN + len(columns) * CELL + (len(columns) - 1) * GAP
    height = TITLE + HEAD + rows * row_height(lines, tall) + MARGIN / 2
    figure = style.new_figure(width, height)

    def write(left: float, top: float, text: str, **look: Any) -> None:
        # parse_math off: class names may contain dollar signs.
        figure.text(left / width, 1 - top / height, text, va="top", parse_math=False, **look)

    title = fitted(title, width - 2 * MARGIN, LARGE, "bold")
    write(MARGIN, 0.20, title, fontsize=LARGE, fontweight="bold", color=style.INK)
    for number, column in enumerate(columns):
        left = MARGIN + number * (CELL + GAP)
        write(left, TITLE + 0.02, fitted(column.name, CELL, MIDDLE), fontsize=MIDDLE, color=style.INK)
        for row, picture in enumerate(column.pictures):
            top = TITLE + HEAD + row * row_height(lines, tall)
            axes = figure.add_axes((left / width, 1 - (top + tall) / height, CELL / width, tall / height))
            _show(axes, picture)
            caption = "\n".join(fitted(line, CELL) for line in picture.caption)
            write(left, top + tall + 0.06, caption, fontsize=SMALL, color=style.FAINT, linespacing=1.25)
    return figure


def _show(axes: Axes, picture: Picture) -> None:
    smooth = picture.image.shape[-1] > 64
    axes.imshow(picture.image.permute(1, 2, 0).numpy(), interpolation="antialiased" if smooth else "nearest")
    axes.set_axis_off()
    axes.set_anchor("W")  # align a narrow picture with its caption
    # Draw each line on top of a wider white line, which makes it visible on any picture.
    for y, x, height, width in picture.outlines:
        for color, line in (("white", 2.0), (style.ORANGE, 1.0)):
            box = Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=color, linewidth=line)
            axes.add_patch(box).set_clip_on(False)  # do not clip lines at the border
    if picture.peak is not None:
        y, x = picture.peak
        for color, line in (("white", 3.0), (style.BLUE, 1.4)):
            look: dict[str, Any] = {"color": color, "markersize": 11, "markeredgewidth": line}
            axes.plot(x, y, "+", scalex=False, scaley=False, clip_on=False, **look)


def row_height(lines: int, tall: float = CELL) -> float:
    """Return the distance in inches between the tops of consecutive pictures.

    Args:
        lines: number of caption lines.
        tall: height of the pictures in inches.
    """
    return tall + CAPTION + LINE * max(lines - 2, 0) + GAP


def fitted(text: str, width: float, size: float = SMALL, weight: str = "normal") -> str:
    """Return `text`, truncated and with "…" appended if it is wider than `width` inches at `size` points."""
    if _inches(text, size, weight) <= width:
        return text
    kept = text
    while kept and _inches(kept + "…", size, weight) > width:
        kept = kept[:-1].rstrip()
    return kept + "…"


def wrapped(names: Sequence[str], first: str = "", most: int = MOST_LINES) -> list[str]:
    """Join names with commas into lines at most as wide as a picture. The first line begins with `first`.

    If `first` is not empty, the other lines are indented. A name that is too long for one line is truncated. If the
    names need more than `most` lines, the last line says only how many names are not shown. Without names, return
    [`first`].
    """
    lines: list[str] = []
    indent = INDENT if first else ""
    shown = 0  # names on the lines before the last
    for index, name in enumerate(names):
        piece = name if index == len(names) - 1 else f"{name},"
        if index and _inches(f"{lines[-1]} {piece}", SMALL, "normal") <= CELL:
            lines[-1] += f" {piece}"
            continue
        if len(lines) == most:
            lines[-1] = f"{indent}and {len(names) - shown} more"
            break
        lines.append(fitted((indent if index else first) + piece, CELL))
        shown = index
    return lines or [first]


@functools.lru_cache(maxsize=4096)
def _inches(text: str, size: float, weight: str) -> float:
    # Escape dollar signs: class names contain no formulas.
    plain = text.replace("$", r"\$")
    font = FontProperties(size=size, weight=weight)
    # Append a bar and subtract its width, so that trailing blanks count.
    ends = [TextPath((0, 0), piece, prop=font).get_extents().x1 if piece else 0.0 for piece in (plain + "|", "|")]
    return float(ends[0] - ends[1]) / 72
