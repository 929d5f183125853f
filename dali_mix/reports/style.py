"""The look all pictures share."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dali_mix._files import replacing

INK = "#1f2933"
FAINT = "#7b8794"
GRID = "#e4e7eb"
BLUE = "#2f6fb0"
ORANGE = "#d9772b"
GREEN = "#3b8f5a"
DPI = 160


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure of `width` × `height` inches, drawn without a screen."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def plain(axes: Axes, title: str) -> None:
    """Give a panel a title on the left, light horizontal lines, and no frame but the two axes."""
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold", pad=8)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(colors=FAINT, labelsize=8, length=0, pad=5)


def check_out(out: str | Path) -> Path:
    """Return `out` as a path, where a PNG can be written.

    Raises:
        ValueError: it is called something else than .png.
        FileNotFoundError: the folder is missing.
    """
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"cannot write {out}: pictures are PNGs, give a name that ends in .png")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"cannot write {out}: the folder {out.parent} does not exist")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write {out}: the folder {out.parent.absolute()} is read-only; choose another")
    return out


def save(figure: Figure, out: str | Path) -> Path:
    """Write `figure` as a PNG, completely or not at all, and return its path.

    Raises:
        ValueError, OSError: as `check_out`; also when it cannot be written.
    """
    out = check_out(out)
    with replacing(out) as aside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of a class name: an empty box says so
        figure.savefig(aside, format="png", dpi=DPI)
    return out
