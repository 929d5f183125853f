"""Runs and weight files from untrusted sources, used through the command line: no code runs, nothing is downloaded."""

import json
import socket
from pathlib import Path

import pytest
import torch
from PIL import Image

from dali_mix.cli.main import main
from dali_mix.models import build_model
from tests.engine.sets import pack_digits

OPTIONS = ["epochs=1", "max_steps=2", "model.type=wrn-10-1", "loader.num_threads=1", "visualizer=[]", "batch_size=32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train quickstart briefly; return the folder with the run, its sets and an image."""
    folder = tmp_path_factory.mktemp("foreign")
    train, val = pack_digits(folder, count=64)
    sets = [f"train_set={train}", f"val_set={val}"]
    assert main(["train", "quickstart", "--work-dir", str(folder / "run"), "--cfg-options", *sets, *OPTIONS]) == 0
    Image.new("RGB", (16, 16)).save(folder / "a.png")
    return folder


class CreatesFolder:
    """Object that creates the folder `mark` when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.mkdir, (Path(self.mark),)


def commands(folder):
    checkpoint = str(folder / "run/checkpoints/latest")
    yield ["evaluate", "quickstart", checkpoint]
    yield ["predict", "quickstart", checkpoint, str(folder / "a.png")]
    yield ["train", "quickstart", "--work-dir", str(folder / "run"), "--resume"]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"type": "timm/resnet10t", "checkpoint_path": "{file}"}},
        {"model": {"type": "timm/resnet10t", "pretrained": True, "pretrained_cfg": {"file": "{file}"}}},
        {"model": {"type": "timm/resnet10t", "pretrained_cfg_overlay": {"file": "{file}"}, "pretrained": True}},
        {"model": {"type": "timm/resnet10t", "pretrained": True}},
        {"model": {"type": "torchvision/resnet18", "weights": "DEFAULT"}},
        {"model": {"type": "timm/hf-hub:timm/resnet18.a1_in1k"}},
        {"model": {"type": "timm/local-dir:{file}"}},
        {
            "model": {
                "type": "multilabel",
                "backbone": {"type": "resnet10t", "checkpoint_path": "{file}"},
                "head": "max",
            }
        },
        {"model": {"type": "subprocess:run", "args": ["true"]}},
        {"model": {"type": "foreign_code:Net"}},
        {"loss": {"type": "foreign_code:Net"}},
        {"pipeline": {"type": "foreign_code:Net"}},
        {"train_pipeline": {"steps": [{"type": "foreign_code:Net"}]}},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_foreign_config_runs_no_code_and_downloads_nothing(run, changes, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(run / "run")
    (run / "run/foreign_code.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).mkdir()")
    torch.save({"state_dict": CreatesFolder(tmp_path / "ran")}, tmp_path / "w.pth")

    def refused(*args, **kwargs):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    config = run / "run/config.json"
    before = config.read_text()
    try:
        text = json.dumps({**json.loads(before), **changes}).replace("{file}", str(tmp_path / "w.pth"))
        config.write_text(text)
        for command in commands(run):
            assert main(command) == 1
            said = capsys.readouterr().err
            assert "error: " in said and ("has no option" in said or "no model is called" in said or "is code" in said)
    finally:
        config.write_text(before)
    assert not (tmp_path / "ran").exists()


def test_checkpoint_outside_run_uses_recipe_values(run, tmp_path, capsys):
    """config.json is not read for a checkpoint outside the run's folder."""
    (run / "run/config.json").rename(run / "config.kept")
    try:
        (run / "run/config.json").write_text('{"recipe": "quickstart", "model": {"type": "subprocess:run"}}')
        copied = tmp_path / "step.pt"
        copied.write_bytes(next((run / "run/checkpoints").glob("step-*.pt")).read_bytes())
        options = [f"val_set={run / 'digits_val'}", "model.type=wrn-10-1"]
        assert main(["evaluate", "quickstart", str(copied), "--cfg-options", *options]) == 0
    finally:
        (run / "config.kept").rename(run / "run/config.json")
    assert "top1" in capsys.readouterr().out


def test_weight_file_note_names_prefix_and_unread_keys(run, tmp_path, capsys):
    """The file is a Lightning checkpoint that also holds averaged weights."""
    model = build_model("wrn-10-1", 10)
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "state_dict_ema": state, "epoch": 3}, tmp_path / "last.ckpt")
    options = [f"train_set={run / 'digits_train'}", f"val_set={run / 'digits_val'}", "model.type=wrn-10-1"]
    for command in (["evaluate"], ["predict", str(run / "a.png")]):
        words = [command[0], "quickstart", str(tmp_path / "last.ckpt"), *command[1:]]
        assert main([*words, "--cfg-options", *options]) == 0
        said = capsys.readouterr().err
        assert "prefix 'model.' removed" in said and "read from 'state_dict'; not read: state_dict_ema" in said
