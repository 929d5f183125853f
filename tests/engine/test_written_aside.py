"""Checkpoints, small files and weights are written under a name of their own first, which may not be a link."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dali_mix.engine.checkpoint.files import load_checkpoint, save_checkpoint, write_text
from dali_mix.engine.logging import keep_lines
from dali_mix.models.weights.files import write_weight_file

WRITERS: dict[str, Callable[[Path], object]] = {
    "step.pt": lambda path: save_checkpoint(path, {"model": {}, "step": 1}),
    "latest": lambda path: write_text(path, "step_1.pt"),
    "a.pth": lambda path: write_weight_file(path, {"w": torch.zeros(2)}),
    "a.safetensors": lambda path: write_weight_file(path, {"w": torch.zeros(2)}),
    "metrics.jsonl": lambda path: keep_lines(path, lambda line: line["step"] < 2),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_planted_link_is_not_followed(tmp_path: Path, name: str) -> None:
    path, victim = tmp_path / "out" / name, tmp_path / "victim"
    path.parent.mkdir()
    victim.write_bytes(b"somebody's")
    if name == "metrics.jsonl":
        path.write_text('{"kind": "train", "step": 1}\n{"kind": "train", "step": 2}\n')
    for aside in (f".{name}.{os.getpid()}.tmp", f".{name}.tmp"):
        (path.parent / aside).symlink_to(victim)
    WRITERS[name](path)
    assert victim.read_bytes() == b"somebody's"
    assert path.is_file() and not path.is_symlink() and path.stat().st_size
    if name == "step.pt":
        assert load_checkpoint(path) == {"model": {}, "step": 1}
