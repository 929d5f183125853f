"""Write a per-class report of an evaluation: a table and a bar chart, and, depending on the task, more pictures.

Multi-label models and detectors also get precision-recall curves. Detectors also get images with hits and misses, if
they were evaluated on a packed set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure

from dali_mix._text import csv_text
from dali_mix.engine.checkpoint.files import write_text
from dali_mix.engine.run import Evaluation
from dali_mix.engine.scores import DetectionScores
from dali_mix.metrics import ClassReport
from dali_mix.recordio import RecordSet
from dali_mix.reports import boxes, style
from dali_mix.reports.sheet import fitted

# Lengths are in inches.
BAR, NAME, LENGTH, GAP, TOP, MARGIN = 0.165, 1.15, 1.5, 0.3, 0.7, 0.25
FEWEST, MOST_COLUMNS = 40, 7  # a column has at most 40 bars, unless that would take more than 7 columns
ACROSS, UP, CELL_GAP, CAPTION = 1.2, 0.95, 0.16, 0.2
POINTS = 200  # maximum number of points of a curve


def evaluation_report(evaluation: Evaluation, out: str | Path) -> list[Path]:
    """Write a per-class report to the folder `out` and return the paths of its files:

    - `per_class.csv`: a table of rates in percent and counts;
    - `per_class.png`: a bar chart in percent;
    - `pr_curves.png`: precision-recall curves, if the evaluation has them;
    - `boxes.png`, for a detector that was evaluated on a packed set: images with hits and misses.

    The folder is created if missing, and existing files of these names are replaced. Ranks other than 0 write nothing
    and return [].
    """
    if not evaluation.main:
        return []
    folder, classes = Path(out), evaluation.classes
    title, columns, reports = evaluation.scores.by_class()
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "per_class.csv"
    write_text(table, as_csv(("class", *columns), zip(classes, *columns.values(), strict=True)))
    drawn = next(iter(columns.values()))
    files = [table, style.save(draw_bars(classes, drawn, title), folder / "per_class.png")]
    if reports:
        curves = draw_curves(classes, reports)
        files.append(style.save(curves, folder / "pr_curves.png"))
    if isinstance(evaluation.scores, DetectionScores) and evaluation.val_set is not None:
        files.append(boxes.sheet(evaluation.scores.metrics, RecordSet(evaluation.val_set), folder / "boxes.png"))
    return files


def as_csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return the header `head` and `rows` as CSV text. NaN is an empty field; other floats have four decimal places."""

    def field(value: object) -> object:
        if isinstance(value, float):
            return "" if math.isnan(value) else f"{value:.4f}"
        return value

    return csv_text([head, *(map(field, row) for row in rows)])


def draw_bars(classes: Sequence[str], values: Sequence[float], title: str) -> Figure:
    """Draw one bar per class in columns from top to bottom, the highest value first.

    values: one value per class, 0 … 100. Classes with NaN come last and have no bar.
    """
    order = sorted(range(len(classes)), key=lambda index: (math.isnan(values[index]), -values[index], index))
    rows = max(FEWEST, math.ceil(len(order) / MOST_COLUMNS))
    columns = math.ceil(len(order) / rows)
    rows = math.ceil(len(order) / columns)
    pitch = NAME + LENGTH + GAP
    width, height = max(4.5, 2 * MARGIN + columns * pitch), TOP + rows * BAR + MARGIN
    figure = style.new_figure(width, height)
    _title(figure, title, width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for column in range(columns):
        start = MARGIN + column * pitch + NAME
        for share in (0, 0.5, 1):
            x = start + share * LENGTH
            axes.plot((x, x), (TOP - 0.05, TOP + rows * BAR), color=style.GRID, linewidth=0.8, zorder=0)
            axes.text(x, TOP - 0.08, f"{100 * share:.0f}", fontsize=6, color=style.FAINT, ha="center")
    bars = []
    for number, index in enumerate(order):
        start, top = MARGIN + number // rows * pitch + NAME, TOP + number % rows * BAR
        middle, value = top + BAR / 2, values[index]
        name = fitted(classes[index], NAME - 0.1, 7)
        look: dict[str, Any] = {"fontsize": 7, "va": "center_baseline", "parse_math": False}
        axes.text(start - 0.06, middle, name, ha="right", color=style.INK, **look)
        if math.isnan(value):
            axes.text(start + 0.04, middle, "no sample", color=style.FAINT, **look)
            continue
        bars.append((start, middle, value / 100 * LENGTH))
        # Write the value in white inside the bar if there is room, else next to the bar.
        offset, side, color = (-0.04, "right", "white") if value >= 30 else (0.04, "left", style.INK)
        x = start + value / 100 * LENGTH + offset
        axes.text(x, middle, f"{value:.1f}", ha=side, color=color, **look | {"fontsize": 6})
    starts, middles, lengths = zip(*bars, strict=True) if bars else ((), (), ())
    axes.barh(middles, lengths, BAR * 0.7, left=starts, color=style.BLUE)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def draw_curves(classes: Sequence[str], reports: Sequence[ClassReport]) -> Figure:
    """Draw precision (y) over recall (x), both 0 … 1, in one small panel per class, in class order.

    The panel of a class without positives says "no sample". That of a class without a correct prediction is empty.

    reports: one per class.
    """
    columns = min(len(classes), max(5, math.ceil(math.sqrt(1.2 * len(classes)))))
    rows = math.ceil(len(classes) / columns)
    across, down = ACROSS + CELL_GAP, UP + CAPTION + CELL_GAP
    width, height = max(4.5, 2 * MARGIN + columns * across - CELL_GAP), TOP - 0.1 + rows * down + MARGIN / 2
    figure = style.new_figure(width, height)
    _title(figure, "Precision over recall, with AP in %", width, height)
    # One Axes for all panels: hundreds of Axes take minutes to draw.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    frames, lines, areas = [], [], []
    for number, (name, one) in enumerate(zip(classes, reports, strict=True)):
        left, top = MARGIN + number % columns * across, TOP - 0.1 + number // columns * down
        bottom = top + CAPTION + UP
        value = "–" if math.isnan(one.ap) else f"{100 * one.ap:.1f}"
        look: dict[str, Any] = {"fontsize": 7, "va": "baseline", "parse_math": False}
        axes.text(left, top + CAPTION - 0.06, fitted(name, ACROSS - 0.3, 7), color=style.INK, **look)
        axes.text(left + ACROSS, top + CAPTION - 0.06, value, ha="right", color=style.FAINT, **look)
        frames.append(np.array([(0, 0), (1, 0), (1, -1), (0, -1), (0, 0)]) * (ACROSS, UP) + (left, bottom))
        if not one.positives:
            axes.text(left + ACROSS / 2, bottom - UP / 2, "no sample", ha="center", color=style.FAINT, fontsize=6)
            continue
        if not one.curve.shape[1]:  # no correct prediction
            continue
        recall, precision = one.curve[:, thinned(one.curve.shape[1])]
        points = np.stack([left + ACROSS * recall, bottom - UP * precision], 1)
        points = np.concatenate([[(left, points[0, 1])], points])
        lines.append(points)
        areas.append(np.concatenate([points, [(points[-1, 0], bottom), (left, bottom)]]))
    axes.add_collection(LineCollection(frames, colors=style.GRID, linewidths=0.8))
    axes.add_collection(PolyCollection(areas, facecolors=style.BLUE, alpha=0.12, linewidths=0))
    axes.add_collection(LineCollection(lines, colors=style.BLUE, linewidths=1.0))
    return figure


def thinned(count: int) -> np.ndarray:
    """Return at most `POINTS` evenly spaced indices into `count` values, including the first and the last index."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int))


def _title(figure: Figure, title: str, width: float, height: float) -> None:
    look: dict[str, Any] = {"fontsize": 11, "fontweight": "bold", "va": "top", "parse_math": False}
    figure.text(MARGIN / width, 1 - 0.2 / height, title, color=style.INK, **look)
