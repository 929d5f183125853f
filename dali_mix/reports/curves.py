"""Learning curves of a run, from its metrics.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from dali_mix.engine.logging import read_records
from dali_mix.options import is_finite
from dali_mix.reports import style
from dali_mix.tasks import trainable

Records = list[dict[str, Any]]


def curves(metrics: str | Path, out: str | Path, *, title: str | None = None) -> Path:
    """Draw loss, evaluation scores, learning rate and speed over the steps of a run, as the PNG `out`.

    Args:
        metrics: a metrics.jsonl, or the work directory that contains it. If a step was logged twice, the later record
            is used.
        out: path of the PNG.
        title: heading; by default the name of the folder with the metrics, and the last and the best score.

    Returns:
        the path of the PNG.

    Raises:
        FileNotFoundError: there is no metrics.jsonl, or the output folder does not exist.
        ValueError: the file has an invalid line or no records, or `out` does not end in .png.
    """
    path = Path(metrics)
    if path.is_dir():
        path = path / "metrics.jsonl"
    style.check_out(out)
    train, val = read_metrics(path)
    figure = style.new_figure(10, 6.2)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.7, 1), hspace=0.42, wspace=0.2, left=0.07, right=0.95, top=0.86)
    figure.subplots_adjust(bottom=0.08)
    heading = title or f"{path.resolve().parent.name}{_summary(val)}"
    figure.text(0.07, 0.945, heading, fontsize=12, fontweight="bold", color=style.INK, parse_math=False)

    loss, accuracy, rate, speed = (figure.add_subplot(grid[row, column]) for row in (0, 1) for column in (0, 1))
    _draw_loss(loss, train, val)
    _draw_accuracy(accuracy, val)
    _draw_series(rate, train, "lr", "Learning rate", style.BLUE)
    _draw_series(speed, train, "images_per_s", "Images per second", style.GREEN)
    for axes in (loss, accuracy, rate, speed):
        axes.set_xlabel("step", fontsize=8, color=style.FAINT)
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.set_xlim(0, max(record["step"] for record in train + val) * 1.01 + 1e-9)
    return style.save(figure, out)


def read_metrics(path: Path) -> tuple[Records, Records]:
    """Return (train records, val records) of a metrics.jsonl, both ordered by step.

    If a step has several records of a kind, only the last one is returned. An incomplete last line, left by a killed
    run, is skipped. Raise FileNotFoundError if `path` is not a file, and ValueError if it has an invalid line, or
    neither train nor val records.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no metrics at {path}: pass the work directory of a run, or its metrics.jsonl")
    kinds: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "val": {}}
    for _, record in read_records(path):
        if (kind := str(record.get("kind"))) in kinds:
            kinds[kind][record["step"]] = record
    train, val = ([steps[step] for step in sorted(steps)] for steps in kinds.values())
    if not train and not val:
        raise ValueError(f"{path} has no train or val records yet: nothing to draw")
    return train, val


def _series(records: Records, key: str) -> tuple[list[int], list[float]]:
    """Return the steps and values of the records that have a finite number under `key`."""
    finite = [record for record in records if is_finite(record.get(key))]
    return [record["step"] for record in finite], [float(record[key]) for record in finite]


def _draw_loss(axes: Axes, train: Records, val: Records) -> None:
    style.plain(axes, "Loss")
    steps, losses = _series(train, "loss")
    if len(losses) >= 20:  # draw noisy losses faintly, and a smoothed curve
        axes.plot(steps, losses, color=style.BLUE, alpha=0.25, linewidth=1.2)
        losses = _smoothed(losses).tolist()
    if steps:
        axes.plot(steps, losses, color=style.BLUE, linewidth=1.6, marker=_marker(steps, 1), label="training")
    val_steps, values = _series(val, "loss")
    if val_steps:
        axes.plot(val_steps, values, color=style.ORANGE, linewidth=1.6, marker=_marker(val_steps), label="evaluation")
    _legend_or_note(axes, "no losses logged yet", legend=True)


def _draw_accuracy(axes: Axes, val: Records) -> None:
    title, names = _watched(val)
    style.plain(axes, f"Evaluation {title}, %")
    main = next(iter(names))
    for key, name in reversed(names.items()):  # draw the main score last, on top
        color = style.ORANGE if key == main else style.FAINT
        steps, values = _series(val, key)
        if not steps or (key == "top5" and min(values) >= 100):
            continue
        axes.plot(steps, values, color=color, linewidth=1.6, marker=_marker(steps), label=name)
        if key == main:
            best = max(range(len(values)), key=values.__getitem__)
            point = steps[best], values[best]
            axes.plot(*point, "o", color=color, markersize=6, markeredgecolor="white")
            offset, side = (-4, "right") if steps[best] > steps[-1] / 2 else (6, "left")
            look: dict[str, Any] = {"ha": side, "fontsize": 8, "color": style.INK}
            axes.annotate(f"best {values[best]:.2f}", point, (offset, -13), textcoords="offset points", **look)
    _legend_or_note(axes, "not evaluated yet", legend=True)


def _draw_series(axes: Axes, train: Records, key: str, title: str, color: str) -> None:
    style.plain(axes, title)
    steps, values = _series(train, key)
    if steps:
        axes.plot(steps, values, color=color, linewidth=1.4, marker=_marker(steps, 1))
        axes.set_ylim(0, max(values) * 1.1 or 1)
    if key != "lr":
        axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
    _legend_or_note(axes, "nothing logged yet")


def _legend_or_note(axes: Axes, note: str, legend: bool = False) -> None:
    if not axes.lines:
        axes.text(0.5, 0.5, note, transform=axes.transAxes, ha="center", va="center", color=style.FAINT, fontsize=9)
        axes.set_yticks([])
    elif legend:  # above the panel, so that it covers no curve
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)


def _smoothed(values: list[float]) -> np.ndarray:
    """Return `values` averaged over a centred window.

    The window has about 1/25 of the values, and at least 5. It is narrower near the two ends of the series.
    """
    half = max(len(values) // 50, 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    return (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)


def _marker(steps: list[int], most: int = 40) -> str:
    return "." if len(steps) <= most else ""


def _watched(val: Records) -> tuple[str, dict[str, str]]:
    """Return the `chart` of the task whose main score is in `val`: (title of the panel, score → display name).

    The main score is the first in the dict. If none is in `val`, return the chart of the first task in `trainable()`.
    """
    charts = [task.chart for task in trainable().values()]
    return next((chart for chart in charts if _series(val, next(iter(chart[1])))[0]), charts[0])


def _summary(val: Records) -> str:
    key, name = next(iter(_watched(val)[1].items()))
    _, values = _series(val, key)
    return f": {name} {values[-1]:.2f}%, best {max(values):.2f}%" if values else ""


def _thousands(value: float, _: int | None = None) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"
