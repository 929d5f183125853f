"""Progress bars are drawn on a terminal only, and never end up in printed output or files."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import termios

import pytest
import torch
from PIL import Image

from dali_mix.cli.bars import Bar
from dali_mix.cli.main import main
from dali_mix.engine.build import build_model
from dali_mix.engine.config.recipe_files import load_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return (recipe options, weights file, folder of three images) for an untrained model."""
    folder = tmp_path_factory.mktemp("bars")
    for split in ("train", "val"):
        assert main(["pack", "digits", "--split", split, "--out", str(folder / split), "--quiet"]) == 0
    options = [f"train_set={folder / 'train'}", f"val_set={folder / 'val'}", "val_batch_size=90"]
    torch.save(build_model(load_config("quickstart", options), 10).state_dict(), folder / "weights.pt")
    (folder / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 32), (number * 60, 90, 120)).save(folder / f"images/{number}.png")
    return ["--cfg-options", *options], str(folder / "weights.pt"), str(folder / "images")


def commands(trained, out):
    options, weights, images = trained
    return {
        "evaluate": ["quickstart", weights, "--json", str(out / "e.json"), *options],
        "predict": ["quickstart", weights, images, "--json", str(out / "p.json"), *options],
        "attention": ["quickstart", weights, images, "--out", str(out / "maps"), *options],
    }


def run(command, arguments, stderr):
    words = [sys.executable, "-m", "dali_mix", command, *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    done = subprocess.run(words, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=240, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["evaluate", "predict", "attention"])
def test_bar_is_drawn_only_on_terminal(trained, tmp_path, command):
    arguments = commands(trained, tmp_path)[command]
    terminal, shown_on = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    status, on_terminal, _ = run(command, arguments, shown_on)
    os.close(shown_on)
    shown = b""
    while chunk := _read(terminal):
        shown += chunk
    os.close(terminal)
    assert status == 0 and f"{command}: ".encode() in shown and b"%|" in shown, shown
    status, piped, errors = run(command, arguments, subprocess.PIPE)
    assert status == 0 and piped == on_terminal and "\r" not in piped + errors and "%" not in errors
    for file in tmp_path.glob("*.json"):
        assert json.loads(file.read_text())


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


def test_bar_prints_lines_and_accepts_late_total(capsys):
    with Bar("predict", "img", 2) as bar:
        bar.line("a.png prediction: 1")
    assert capsys.readouterr() == ("a.png prediction: 1\n", "")
    with Bar("evaluate", "batch") as bar:
        for done in (1, 2, 3):
            bar.reach(done, 3)
        assert bar.total == 3
