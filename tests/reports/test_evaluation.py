"""Charts of an evaluation with few or many classes: lengths of bars, positions of curves."""

import csv
import io
import math

import numpy as np
import pytest
from PIL import Image

from dali_mix.engine.run import Evaluation
from dali_mix.engine.scores import ClassificationScores
from dali_mix.metrics import ClassReport
from dali_mix.reports import style
from dali_mix.reports.evaluation import (
    ACROSS,
    BAR,
    CAPTION,
    LENGTH,
    MARGIN,
    NAME,
    TOP,
    UP,
    as_csv,
    draw_bars,
    draw_curves,
    evaluation_report,
    thinned,
)

BLUE = np.array([int(style.BLUE[place : place + 2], 16) for place in (1, 3, 5)])


def pixels(figure, path):
    style.save(figure, path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def bar(image, row, left=MARGIN + NAME):
    """Return the length in inches of bar `row` in the first column, measured near its lower edge, below the digits."""
    line = image[round((TOP + (row + 0.8) * BAR) * style.DPI)]
    found = np.abs(line - BLUE).sum(1) < 40
    start = round((left - 0.05) * style.DPI)
    return found[start : start + round((LENGTH + 0.1) * style.DPI)].sum() / style.DPI


def test_bars_are_sorted_and_proportional_to_values(tmp_path):
    values = [25.0, 100.0, math.nan, 0.0, 62.5]
    image = pixels(draw_bars(["$a_b$", "b", "c", "d", "e" * 30], values, "AP by class"), tmp_path / "a.png")
    found = [bar(image, row) for row in range(5)]
    assert found == pytest.approx([LENGTH * share for share in (1, 0.625, 0.25, 0, 0)], abs=0.02)


def test_values_are_drawn_inside_long_bars():
    axes = draw_bars(["long", "short"], [30.0, 29.9], "AP by class").axes[0]
    looks = {text.get_text(): (text.get_ha(), text.get_color()) for text in axes.texts}
    assert looks["30.0"] == ("right", "white") and looks["29.9"] == ("left", style.INK)
    ends = {text.get_text(): text.get_position()[0] for text in axes.texts}
    assert ends["30.0"] < MARGIN + NAME + 0.3 * LENGTH and ends["29.9"] > MARGIN + NAME + 0.299 * LENGTH


@pytest.mark.parametrize(("count", "columns"), [(20, 1), (80, 2), (500, 7), (1000, 7)])
def test_many_classes_are_split_into_columns(count, columns, tmp_path):
    figure = draw_bars([f"class {number}" for number in range(count)], [50.0] * count, "title")
    width, height = figure.get_size_inches()
    assert len(figure.axes[0].patches) == count
    assert len({round(patch.get_x(), 3) for patch in figure.axes[0].patches}) == columns
    assert all(
        0 < patch.get_x() < width - LENGTH and TOP < patch.get_y() < height - BAR / 2
        for patch in figure.axes[0].patches
    )


def report(ap, recall=(), precision=()):
    return ClassReport(ap, 0.5, 0.5, 0.5, len(recall), np.array([recall, precision], dtype=float).reshape(2, -1))


def test_curves_are_drawn_in_their_panels():
    reports = [report(0.9, (0.5, 1.0), (1.0, 0.75)), report(math.nan), report(0.2, (1.0,), (0.2,))]
    figure = draw_curves(["one", "none", "three"], reports)
    *_, lines = figure.axes[0].collections
    one, three = (path.vertices for path in lines.get_paths())
    bottom = TOP - 0.1 + CAPTION + UP
    np.testing.assert_allclose(
        one, [(MARGIN, bottom - UP), (MARGIN + ACROSS / 2, bottom - UP), (MARGIN + ACROSS, bottom - 0.75 * UP)]
    )
    assert three[0, 0] > MARGIN + 2 * ACROSS
    np.testing.assert_allclose(three[:, 1], bottom - 0.2 * UP)
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words == ["one", "90.0", "none", "–", "no sample", "three", "20.0"]


def test_class_without_true_positive_has_empty_panel():
    none = ClassReport(0.0, 0.0, 0.0, 0.0, 4, np.zeros((2, 0)))
    figure = draw_curves(["found", "missed"], [report(0.9, (0.5, 1.0), (1.0, 0.5)), none])
    frames, areas, lines = figure.axes[0].collections
    assert len(frames.get_paths()) == 2 and len(lines.get_paths()) == len(areas.get_paths()) == 1


def test_500_curves_fit_on_figure(tmp_path):
    many = np.linspace(0.001, 1, 5000)
    reports = [report(0.5, many, 1 - many / 2)] * 500
    figure = draw_curves([f"class {number}" for number in range(500)], reports)
    width, height = figure.get_size_inches()
    frames, _, lines = figure.axes[0].collections
    assert len(frames.get_paths()) == len(lines.get_paths()) == 500
    corners = np.concatenate([path.vertices for path in frames.get_paths()])
    assert corners.min() > 0
    assert (corners.max(0) < (width, height)).all()
    assert 0.5 < width / height < 2
    assert all(len(path.vertices) <= 201 for path in lines.get_paths())


def test_thinned_keeps_both_ends():
    assert thinned(3).tolist() == [0, 1, 2]
    places = thinned(5000)
    assert len(places) == 200
    assert (places[0], places[-1]) == (0, 4999)


def test_csv_leaves_nan_fields_empty():
    text = as_csv(("class", "AP", "positives"), [('a, "b"', 12.34567, 3), ("ü", math.nan, 0)])
    assert list(csv.reader(io.StringIO(text))) == [
        ["class", "AP", "positives"],
        ['a, "b"', "12.3457", "3"],
        ["ü", "", "0"],
    ]


def test_other_ranks_write_nothing(tmp_path):
    evaluation = Evaluation({"top1": 1.0}, ClassificationScores(2, "cpu"), ("a", "b"), main=False)
    assert evaluation_report(evaluation, tmp_path / "out") == []
    assert not (tmp_path / "out").exists()
