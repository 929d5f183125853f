"""Learning curves: reading metrics.jsonl and drawing."""

import json

import numpy as np
import pytest
from PIL import Image

from dali_mix.cli.main import main
from dali_mix.reports import curves, style
from dali_mix.reports.curves import _draw_accuracy, _draw_loss, _series, _smoothed, _summary, read_metrics


def train(step, loss=1.0):
    return {"kind": "train", "step": step, "epoch": 0, "loss": loss, "lr": 0.1, "images_per_s": 900.0}


def val(step, top1=50.0, top5=90.0):
    return {"kind": "val", "step": step, "epoch": 0, "loss": 1.1, "top1": top1, "top5": top5}


def write(path, records, end=""):
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + end)
    return path


def test_later_record_of_repeated_step_is_kept(tmp_path):
    records = [train(10, 3.0), train(20, 2.0), val(20), train(30, 9.0), train(30, 1.5), train(40, 1.0), val(40, 60.0)]
    found_train, found_val = read_metrics(write(tmp_path / "m.jsonl", records))
    assert [(record["step"], record["loss"]) for record in found_train] == [(10, 3.0), (20, 2.0), (30, 1.5), (40, 1.0)]
    assert [record["top1"] for record in found_val] == [50.0, 60.0]


def test_truncated_last_line_is_ignored(tmp_path):
    path = write(tmp_path / "m.jsonl", [train(10)], end='{"kind": "train", "st')
    assert len(read_metrics(path)[0]) == 1


@pytest.mark.parametrize("line", ["{broken", '{"kind": "train"}', "[1]", '{"kind": "train", "step": "x"}', "7"])
def test_invalid_line_is_named(tmp_path, line):
    (tmp_path / "m.jsonl").write_text(json.dumps(train(10)) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"m\.jsonl, line 2: not a record"):
        read_metrics(tmp_path / "m.jsonl")


def test_other_kinds_and_empty_lines_are_ignored(tmp_path):
    (tmp_path / "m.jsonl").write_text(
        "\n" + json.dumps({"kind": "memory", "step": 1}) + "\n" + json.dumps(val(5)) + "\n"
    )
    assert read_metrics(tmp_path / "m.jsonl") == ([], [val(5)])


def test_empty_log_is_refused(tmp_path):
    (tmp_path / "m.jsonl").write_text("")
    with pytest.raises(ValueError, match="no train or val records"):
        curves(tmp_path / "m.jsonl", tmp_path / "c.png")


def test_series_keeps_finite_numbers_only():
    records = [
        train(1, float("nan")),
        train(2, 0.5),
        {"kind": "train", "step": 3},
        train(4, None),
        train(5, float("inf")),
    ]
    assert _series(records, "loss") == ([2], [0.5])


def test_smoothing_is_centered_mean():
    values = [float(i) for i in range(30)]
    np.testing.assert_allclose(_smoothed(values), values, err_msg="a straight line is unchanged")
    noisy = list(np.random.default_rng(0).normal(size=400))
    window = 400 // 50
    wanted = [np.mean(noisy[i - window : i + window + 1]) for i in range(window, 400 - window)]
    np.testing.assert_allclose(_smoothed(noisy)[window:-window], wanted)


def colors_of(png):
    with Image.open(png) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def count(pixels, color):
    return int((np.abs(pixels - color).max(-1) < 12).sum())


ORANGE, GREEN, BLUE = (217, 119, 43), (59, 143, 90), (47, 111, 176)


def test_curves_are_drawn_at_their_values(tmp_path):
    # Accuracy rises linearly from 0 to 100, so its orange line runs from the lower left to the upper right.
    records = [train(step, 2.0) for step in range(0, 101, 10)] + [
        val(step, float(step), 100.0) for step in range(0, 101, 10)
    ]
    write(tmp_path / "metrics.jsonl", records)
    pixels = colors_of(curves(tmp_path, tmp_path / "c.png"))
    height, width = pixels.shape[:2]
    accuracy = pixels[: int(height * 0.6), width // 2 :]
    rows, cols = np.nonzero(np.abs(accuracy - ORANGE).max(-1) < 12)
    line = cols < cols.max() * 0.8  # the legend is at the right
    assert np.corrcoef(rows[line], cols[line])[0, 1] < -0.99
    assert count(pixels, GREEN) > 200 and count(pixels, BLUE) > 400


@pytest.mark.parametrize(
    "records",
    [[train(0)], [val(3)], [train(step, 1 + step % 3) for step in range(1, 300)], [train(5, float("nan"))]],
    ids=["train", "val", "many", "nan"],
)
def test_few_and_many_records_can_be_drawn(tmp_path, records):
    write(tmp_path / "m.jsonl", records)
    pixels = colors_of(curves(tmp_path / "m.jsonl", tmp_path / "c.png"))
    assert pixels.shape == (992, 1600, 3)
    assert count(pixels, BLUE) > 0 or not _series(records, "lr")[0]


def test_curves_command(tmp_path, capsys):
    write(tmp_path / "metrics.jsonl", [train(10), val(10)])
    out = tmp_path / "c.png"
    assert main(["curves", str(tmp_path), "--out", str(out), "--title", "a run of 100%, $x$"]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    assert main(["curves", str(tmp_path / "nothing"), "--out", str(out)]) == 1
    assert "no metrics at" in capsys.readouterr().err
    assert main(["curves", str(tmp_path), "--out", str(tmp_path / "no" / "c.png")]) == 1
    assert "its folder does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("val_records", [[], [val(20)]])
def test_legend_does_not_cover_curves(val_records):
    figure = style.new_figure(5, 4)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.7))
    _draw_loss(axes, [train(10, 1.0), train(20, 3.0)], val_records)
    figure.canvas.draw()
    assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1


def test_legend_does_not_cover_title():
    figure = style.new_figure(10, 6.2)
    axes = figure.add_axes((0.55, 0.5, 0.4, 0.36))
    _draw_accuracy(axes, [val(20)])
    figure.canvas.draw()
    assert axes.get_legend().get_window_extent().x0 > axes._left_title.get_window_extent().x1


def test_multilabel_curves_show_map_and_f1(tmp_path):
    records = [train(10), train(20)]
    records += [
        {"kind": "val", "step": step, "loss": 1, "mAP": m, "OF1": m - 9} for step, m in ((10, 40.0), (20, 61.5))
    ]
    _, found = read_metrics(write(tmp_path / "metrics.jsonl", records))
    axes = style.new_figure(3, 3).add_subplot()
    _draw_accuracy(axes, found)
    assert axes.get_title(loc="left") == "Evaluation mAP, %"
    drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(drawn["mAP"]) == [40, 61.5]
    assert list(drawn["overall F1"]) == [31, 52.5]
    assert [text.get_text() for text in axes.texts] == ["best 61.50"]
    assert _summary(found) == ": mAP 61.50%, best 61.50%"
    assert _summary([val(1, 50.0)]) == ": top-1 50.00%, best 50.00%"
    assert curves(tmp_path / "metrics.jsonl", tmp_path / "c.png").is_file()


@pytest.mark.parametrize(("top5", "drawn"), [(100.0, ["top-1"]), (99.0, ["top-1", "top-5"])])
def test_top_5_that_is_always_100_is_not_drawn(top5, drawn):
    axes = style.new_figure(3, 3).add_subplot()
    _draw_accuracy(axes, [val(10, 40.0, top5), val(20, 50.0, 100.0)])
    assert sorted(text.get_text() for text in axes.get_legend().get_texts()) == drawn
