"""Checkpoints and small files are complete or absent, and reading them never runs code."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dali_mix.engine.checkpoint import files
from dali_mix.engine.checkpoint.files import (
    CheckpointFolder,
    check_out,
    damage,
    is_checkpoint,
    json_text,
    load_checkpoint,
    save_checkpoint,
    write_text,
)
from dali_mix.engine.logging import keep_lines
from dali_mix.models.weights.files import write_weight_file
from tests.engine.processes import assert_same_run, output_of, records, run
from tests.engine.synthetic import recipe

STATE = {"model": {"w": torch.arange(2000.0)}, "step": 3, "window": {"loss": 0.5}, "note": None}


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def folder(tmp_path, warnings):
    return CheckpointFolder(tmp_path / "checkpoints", 2, warnings.append)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


WRITERS: dict[str, Callable[[Path], object]] = {
    "step.pt": lambda path: save_checkpoint(path, {"model": {}, "step": 1}),
    "latest": lambda path: write_text(path, "step_1.pt"),
    "a.pth": lambda path: write_weight_file(path, {"w": torch.zeros(2)}),
    "a.safetensors": lambda path: write_weight_file(path, {"w": torch.zeros(2)}),
    "metrics.jsonl": lambda path: keep_lines(path, lambda line: line["step"] < 2),
}


def parse_strict_json(text):
    """Parse a record as strict JSON; fail on NaN and Infinity."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_checkpoint_round_trip_also_with_torch_load(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, STATE)
    assert damage(path) is None
    assert is_checkpoint(path)
    for state in (
        load_checkpoint(path),
        torch.load(path, weights_only=True),
        torch.load(path, weights_only=True, mmap=True),
    ):
        assert torch.equal(state["model"]["w"], STATE["model"]["w"])
        assert state["window"] == {"loss": 0.5}
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        body = path.read_bytes()[: -len(archive.comment)]
        assert archive.comment == b"sha256:" + hashlib.sha256(body).hexdigest().encode()
    assert list(tmp_path.iterdir()) == [path]


def test_flipped_bit_or_truncation_is_detected(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"model": {"w": torch.arange(8.0)}})
    good = path.read_bytes()
    for place in range(0, len(good), max(1, len(good) // 150)):
        bad = bytearray(good)
        bad[place] ^= 1 << (place % 8)
        path.write_bytes(bad)
        assert damage(path), f"bit flip at byte {place} of {len(good)}"
        with pytest.raises(ValueError, match=r"a\.pt"):
            load_checkpoint(path)
    for size in (0, 1, 21, 22, 80, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        assert damage(path)


def test_save_prunes_old_checkpoints_but_not_best(folder):
    for step in (1, 2, 3, 4):
        folder.save(step, {**STATE, "step": step})
    assert folder.steps() == [4, 3]
    assert (folder.path / "latest").read_text() == "step-00000004.pt\n"
    folder.save_best(STATE)
    folder.save(5, STATE)
    assert folder.steps() == [5, 4]
    assert (folder.path / "best.pt").is_file()


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_damaged_newest_checkpoint_falls_back_with_warning(folder, warnings, harm):
    for step in (1, 2):
        folder.save(step, STATE)
    path = folder.file(2)
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 4
    path.write_bytes({"cut": data[: len(data) // 2], "flip": data, "empty": b""}[harm])
    assert folder.newest() == 1
    assert any("step-00000002.pt" in text for text in warnings)
    folder.keep = 1
    folder.save(2, STATE)  # saved again: the damaged file must not cause its removal
    assert folder.steps() == [2]
    assert folder.newest() == 2


@pytest.mark.parametrize("pointer", [None, "", "step-00000099.pt\n", "../../etc/passwd\n", "\xff\x00"])
def test_newest_checkpoint_is_found_despite_wrong_pointer(folder, warnings, pointer):
    for step in (1, 2):
        folder.save(step, STATE)
    latest = folder.path / "latest"
    if pointer is None:
        latest.unlink()
    else:
        latest.write_text(pointer, encoding="latin-1")
    assert folder.newest() == 2
    assert any("latest" in text for text in warnings)


def test_newest_raises_if_all_checkpoints_are_damaged(folder):
    assert folder.newest() is None  # no checkpoint was ever saved here
    folder.save(1, STATE)
    folder.file(1).write_bytes(b"x" * 500)
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        folder.newest()
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        folder.newest()  # only the pointer is left


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "plain"])
def test_checkpoint_with_code_is_refused(tmp_path, signed):
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    if signed:
        save_checkpoint(path, {"model": {}, "evil": Evil(str(marker))})
    else:
        path.write_bytes(pickle.dumps({"model": Evil(str(marker))}))
    with pytest.raises(ValueError, match=r"evil\.pt"):
        load_checkpoint(path)
    assert not marker.exists()


def test_full_disk_keeps_previous_checkpoint(folder):
    """A limit on file sizes stands in for a full disk: writes fail the same way."""
    folder.keep = 1
    folder.save(1, STATE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(OSError, match="earlier checkpoints are unchanged"):
            folder.save(2, STATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert folder.newest() == 1
    assert sorted(p.name for p in folder.path.iterdir()) == ["latest", "step-00000001.pt"]


@pytest.mark.parametrize("syncs", [3, 4, 5, 6, 7])
def test_run_killed_during_save_resumes_bit_identical(tmp_path, syncs):
    """Kill a run at each sync of a save (file, folder, pointer) in turn, with keep = 1."""
    values = recipe(checkpoint={"interval_steps": 2, "keep": 1})
    assert run(values, tmp_path / "uninterrupted") == [0]
    work_dir = tmp_path / "run"
    assert run(values, work_dir, kill_in_save=syncs) == [-signal.SIGKILL]
    assert run(values, work_dir, resume="must") == [0], output_of(work_dir)
    assert_same_run(tmp_path / "uninterrupted", work_dir)
    assert not list((work_dir / "checkpoints").glob(".*"))


def test_resume_falls_back_before_damaged_checkpoint(tmp_path):
    assert run(recipe(), tmp_path / "uninterrupted") == [0]
    work_dir = tmp_path / "run"
    assert run(recipe(), work_dir, kill_at=9) == [-signal.SIGKILL]
    newest = work_dir / "checkpoints" / "step-00000008.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert run(recipe(), work_dir, resume="must") == [0]
    assert "step-00000008.pt: cut short" in output_of(work_dir)
    assert_same_run(tmp_path / "uninterrupted", work_dir)


def test_best_checkpoint_has_first_best_metrics(tmp_path):
    assert run(recipe(), tmp_path / "run") == [0]
    best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    scores = [r for r in records(tmp_path / "run") if r["kind"] == "val"]
    first_of_the_best = max(scores, key=lambda r: r["top1"])
    assert best["metrics"] == {k: v for k, v in first_of_the_best.items() if k != "kind"}
    assert best["model"].keys() == best["ema"]["model"].keys()


def test_config_is_saved_as_json_and_not_read_as_code(tmp_path):
    assert run(recipe(), tmp_path / "run") == [0]
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["optimizer"]["lr"] == 0.05
    assert saved["checkpoint"] == {"interval_steps": 2, "keep": 3}
    source = "".join(p.read_text() for p in files.Path(files.__file__).parent.glob("*.py"))
    for word in ("weights_only=False", "fromstring", "exec(", " eval(", "import yaml", "import pickle", "fromfile"):
        assert word not in source, word


@pytest.mark.parametrize("name", WRITERS)
def test_planted_symlink_is_not_followed(tmp_path: Path, name: str) -> None:
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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_json_text_writes_non_finite_as_null(value):
    text = json_text({"a": [1, value, {"b": (value, 2.5)}], "c": "NaN", "d": value})
    assert parse_strict_json(text) == {"a": [1, None, {"b": [None, 2.5]}], "c": "NaN", "d": None}


def test_dash_is_refused_as_output_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--csv -: cannot write to the standard output; pass a file name"):
        check_out("--csv", Path("-"))
