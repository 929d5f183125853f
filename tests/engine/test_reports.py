"""`dali-mix attention` and `evaluate --report` on trained models."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_mix.cli.main import main
from dali_mix.engine.build import build_model
from dali_mix.engine.config.recipe_files import load_config
from dali_mix.recordio import RecordSet
from dali_mix.reports.sheet import CELL, GAP, MARGIN
from dali_mix.reports.style import DPI
from tests.engine.processes import context, finish, free_port
from tests.engine.scenes import DIGITS, cli, table
from tests.engine.sets import pack_digits


def size_of(png):
    with Image.open(png) as image:
        return image.size


def columns_of(png):
    """Return the number of picture columns on a sheet."""
    return round((size_of(png)[0] / DPI - 2 * MARGIN + GAP) / (CELL + GAP))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Pack digits and save an untrained model's weights; return (recipe file, weights file, folder)."""
    folder = tmp_path_factory.mktemp("classes")
    train, val = pack_digits(folder, 200)
    text = (
        f"train_set, val_set = {train!r}, {val!r}\n"
        "pipeline = dict(type='cifar', image_size=(16, 12))\nmodel = dict(type='wrn-10-1')\n"
        "optimizer = dict(type='SGD', lr=0.1)\nbatch_size = 32\nepochs = 1\ndevice = 'cpu'\n"
    )
    (folder / "recipe.py").write_text(text)
    torch.manual_seed(3)
    model = build_model(load_config(str(folder / "recipe.py")), 10)
    torch.nn.init.normal_(model.linear.weight)
    torch.save(model.state_dict(), folder / "weights.pt")
    return folder / "recipe.py", folder / "weights.pt", folder


def one_rank(arguments, rank, port, out):
    """Run `dali-mix ARGUMENTS` as one of two ranks, and end this process with its status. Output: `out`-RANK."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = Path(f"{out}-{rank}").open("a", buffering=1)  # noqa: SIM115  # open until the end
    os._exit(main(arguments))


def test_attention_sheets(digit_scenes, best, tmp_path, capsys):
    scenes = digit_scenes / "scenes"
    again = tmp_path / "00.jpg"
    Image.open(scenes / "00.png").rotate(90, expand=True).save(again)
    (tmp_path / "bad.png").write_bytes(b"bad")
    (tmp_path / "00-2.png").write_bytes((scenes / "00.png").read_bytes())  # named like the sheet of the second image
    images = [scenes / "00.png", again, scenes / "01.png", tmp_path / "00-2.png"]
    assert cli("attention", digit_scenes / "recipe.py", best, *images, "--out", tmp_path / "a" / "b") == 0
    names = ["00.png", "00-2.png", "01.png", "00-2-2.png"]
    sheets = [tmp_path / "a" / "b" / name for name in names]
    assert capsys.readouterr().out.splitlines() == [f"wrote {sheet}" for sheet in sheets]
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == sorted(names)
    assert [columns_of(sheet) for sheet in sheets] == [4, 4, 4, 4]
    heights = [size_of(sheet)[1] for sheet in sheets]
    assert heights[0] == heights[2] == pytest.approx(heights[1] - CELL * DPI / 4, abs=2)  # 128×96 against 96×128
    options = ["--classes", "7, 1", "--out", tmp_path]
    assert cli("attention", digit_scenes / "recipe.py", best, images[2], tmp_path / "bad.png", *options) == 1
    assert columns_of(tmp_path / "01.png") == 3
    assert "bad.png" in capsys.readouterr().err


def test_predict_and_attention_of_classifier(classifier, digit_scenes, tmp_path, capsys):
    recipe, weights, _ = classifier
    image = digit_scenes / "scenes" / "00.png"
    assert cli("predict", recipe, weights, image, "--json", tmp_path / "a.json") == 0
    names, scores = capsys.readouterr().out.split("prediction: ")[1].strip().split("  ")
    assert len(names.split(",")) == len(scores.split(",")) == 5
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["task"] == "classification"
    assert sum(found["images"][0]["scores"]) == pytest.approx(1, abs=1e-5)
    assert found["images"][0]["prediction"] == names.split(",")
    assert cli("attention", recipe, weights, image, "--out", tmp_path, "--top-k", 2) == 0
    assert columns_of(tmp_path / "00.png") == 3
    other = ["--cfg-options", "model.type=timm/convnext_atto", "pipeline.image_size=32"]
    torch.save(build_model(load_config(str(recipe), other[1:]), 10).state_dict(), tmp_path / "other.pt")
    capsys.readouterr()
    assert cli("attention", recipe, tmp_path / "other.pt", image, "--out", tmp_path / "other", *other) == 1
    assert "ConvNeXt has no class maps" in capsys.readouterr().err


def test_report_of_classifier(classifier, capsys):
    recipe, weights, folder = classifier
    assert cli("evaluate", recipe, weights, "--report", folder / "report") == 0
    values = dict(zip(*[iter(capsys.readouterr().out.splitlines()[0].split())] * 2, strict=True))
    rows = table(folder / "report" / "per_class.csv")
    assert [row["class"] for row in rows] == list(DIGITS)
    right = sum(float(row["accuracy"]) * int(row["samples"]) for row in rows)
    assert right / sum(int(row["samples"]) for row in rows) == pytest.approx(float(values["top1"]), abs=1e-3)
    assert sorted(path.name for path in (folder / "report").iterdir()) == ["per_class.csv", "per_class.png"]


def test_multilabel_report_is_equal_on_one_and_two_ranks(digit_scenes, best, tmp_path, capsys):
    command = ["evaluate", str(digit_scenes / "recipe.py"), str(best), "--report"]
    assert cli(*command, tmp_path / "one") == 0
    values = dict(zip(*[iter(capsys.readouterr().out.splitlines()[0].split())] * 2, strict=True))
    rows = table(tmp_path / "one" / "per_class.csv")
    for column, name in (("AP", "mAP"), ("precision", "CP"), ("recall", "CR")):
        assert np.mean([float(row[column]) for row in rows]) == pytest.approx(float(values[name]), abs=1e-3)
    records = RecordSet(digit_scenes / "val")
    positives = records.labels(np.arange(len(records))).sum(0)
    assert [int(row["positives"]) for row in rows] == positives.tolist()
    names = ["per_class.csv", "per_class.png", "pr_curves.png"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names

    port = free_port()
    ranks = [
        context().Process(target=one_rank, args=([*command, str(tmp_path / "two")], rank, port, str(tmp_path / "said")))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    assert finish(ranks) == [0, 0], (tmp_path / "said-0").read_text() + (tmp_path / "said-1").read_text()
    assert "wrote" in (tmp_path / "said-0").read_text()
    assert "wrote" not in (tmp_path / "said-1").read_text()
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == names
    for one, two in zip(rows, table(tmp_path / "two" / "per_class.csv"), strict=True):
        assert one == two
