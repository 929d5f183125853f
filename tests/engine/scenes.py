"""A small multi-label recipe of digit scenes, and helpers for tests of its commands. Fixtures are in conftest.py."""

import csv
from pathlib import Path

from dali_mix.cli.main import main
from dali_mix.engine.checkpoint.files import load_checkpoint, save_checkpoint

RECIPE = """
train_set = "{folder}/train"
val_set = "{folder}/val"
pipeline = dict(type="multilabel", image_size=(48, 64), flip=0.0)
model = dict(type="multilabel", backbone=dict(type="timm/resnet10t", output_stride=8), head={head})
loss = dict(type="BinaryCrossEntropy")
optimizer = dict(type="AdamW", lr=2e-3)
batch_size = 10
epochs = 2
visualizer = []
device = "cpu"
"""
CSRA = 'dict(type="csra", num_heads=1, lam=0.1)'
DIGITS = tuple("0123456789")


def cli(*arguments):
    """Call `dali-mix ARGUMENTS`; return its exit status."""
    return main([str(argument) for argument in arguments])


def pack_scenes(folder, task="multilabel", **counts):
    """Pack digit scenes: for each split=count, `count` scenes to `folder`/split."""
    for split, count in counts.items():
        command = ["pack", "digit-scenes", "--split", split, "--scenes", count, "--out", folder / split]
        assert cli(*command, "--task", task, "--quiet") == 0


def old_checkpoint(best, path):
    """Write a copy of a checkpoint in the old format, without "classes" and "task"; return its path."""
    state = load_checkpoint(best)
    save_checkpoint(path, {name: value for name, value in state.items() if name not in ("classes", "task")})
    return path


def table(path):
    """Return the rows of a CSV file."""
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))
