"""The look all pictures share."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1f2933"
FAINT = "#7b8794"
GRID = "#e4e7eb"
BLUE = "#2f6fb0"
ORANGE = "#d9772b"
GREEN = "#3b8f5a"
DPI = 160


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of `width` × `height` inches, drawn without a screen."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def plain(axes: Axes, title: str) -> None:
    """A panel with a title on the left, light horizontal lines, and no frame but the two axes."""
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold", pad=8)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(colors=FAINT, labelsize=8, length=0, pad=5)


def check_out(out: str | Path) -> Path:
    """`out`, where a PNG can be written.

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
    """Writes `figure` as a PNG, whole or not at all.

    Raises:
        ValueError, OSError: as `check_out`; also when it cannot be written.
    """
    out = check_out(out)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        figure.savefig(part, format="png", dpi=DPI)
        part.replace(out)
    except OSError as error:
        raise type(error)(f"could not write {out}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return out
