"""The common style of all charts, and functions that write charts to files."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dali_mix._files import replacing
from dali_mix.engine.checkpoint import files

INK = "#1f2933"
FAINT = "#7b8794"
GRID = "#e4e7eb"
BLUE = "#2f6fb0"
ORANGE = "#d9772b"
GREEN = "#3b8f5a"
DPI = 160


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure of `width` × `height` inches. No display is needed."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def plain(axes: Axes, title: str) -> None:
    """Style a panel: title at the left, light horizontal grid lines, only the left and bottom spines."""
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold", pad=8)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=FAINT, labelsize=8, length=0, pad=5)


def unused(stem: str, used: set[str]) -> str:
    """Return the first of `stem`, `stem-2`, `stem-3`, … that is not in `used`, and add it to `used`."""
    names = (f"{stem}-{number}" if number > 1 else stem for number in itertools.count(1))
    used.add(name := next(name for name in names if name not in used))
    return name


def check_out(out: str | Path) -> Path:
    """Return `out` as a path.

    Raise ValueError if it does not end in .png. Raise OSError if its folder is missing or read-only, or if `out` is a
    folder.
    """
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"cannot write {out}: pictures are PNGs, choose a name that ends in .png")
    files.check_out("picture", out)
    return out


def save(figure: Figure, out: str | Path) -> Path:
    """Write `figure` to `out` atomically, as a PNG, and return the path. Raise the errors of `check_out`."""
    out = check_out(out)
    with replacing(out) as aside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # missing glyphs are drawn as boxes
        figure.savefig(aside, format="png", dpi=DPI)
    return out
