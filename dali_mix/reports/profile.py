"""Draw a chart of how a loader or a training run spends its time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from dali_mix.reports import style


def profile(found: Mapping[str, Any], out: str | Path) -> Path:
    """Draw a bar chart of the time that each part takes per batch as the PNG `out`, and return its path.

    Args:
        found: the measurements, as written by `dali-mix profile --json`: "what", a text that says what was measured;
            "milliseconds", part → time per batch; "images_per_second"; and "limit", the text to show after "Limited
            by". Parts that take no time are not drawn.
        out: path of the PNG.

    Raises:
        ValueError: `out` does not end in .png.
        OSError: `out` cannot be written.
    """
    style.check_out(out)
    parts = {name: value for name, value in found["milliseconds"].items() if value}
    figure = style.new_figure(8, 1.6 + 0.32 * len(parts))
    axes = figure.add_axes((0.13, 0.5 / figure.get_figheight(), 0.8, 0.32 * len(parts) / figure.get_figheight()))
    bars = axes.barh(list(parts), list(parts.values()), color=style.BLUE, height=0.62)
    bars[max(range(len(parts)), key=lambda at: list(parts.values())[at])].set_color(style.ORANGE)
    axes.bar_label(bars, fmt="%.1f", padding=4, fontsize=8, color=style.INK)
    axes.invert_yaxis()
    style.plain(axes, "")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", colors=style.INK)
    axes.set_xlabel("ms per batch", fontsize=8, color=style.FAINT)
    axes.margins(x=0.12)
    top = 1 - 0.3 / figure.get_figheight()
    heading = f"{found['images_per_second']:,.0f} images per second"
    figure.text(0.03, top, heading, fontsize=12, fontweight="bold", color=style.INK, va="center")
    text = fill(f"{found['what']}. Limited by {found['limit']}", 118)
    under = 1 - 0.48 / figure.get_figheight()
    figure.text(0.03, under, text, fontsize=7.5, color=style.FAINT, va="top", parse_math=False)
    return style.save(figure, out)
