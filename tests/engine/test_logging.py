"""Logs and visualizers: damaged lines are named; a full-disk error names the file, and no empty file is left."""

import contextlib
import resource
import signal

import pytest

from dali_mix.engine.checkpoint.files import write_text
from dali_mix.engine.config.recipe_files import load_config
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.logging import LineFile, keep_lines, read_records, visualizer_names
from dali_mix.engine.run import train
from dali_mix.reports import curves
from dali_mix.reports.style import new_figure, save
from tests.engine.processes import records
from tests.engine.synthetic import make_loaders, recipe, train_synthetic

LINES = [
    b'{"kind": "train"}', b'{"kind": "train", "step": "5"}', b'{"step": null}', b'{"step": true}', b'{"step": -1}',
    b'{"step": 1e400}', b'{"step": NaN}', b"[1]", b"5", b"null", b"{", b"\xff\xfe", b'{"step": ' + b"9" * 400 + b"}",
    b"[" * 100000,
]  # fmt: skip


@contextlib.contextmanager
def full_disk(size=0):
    """Simulate a full disk with a limit on file sizes: writes fail the same way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("line", LINES, ids=lambda line: repr(line[:30]))
def test_invalid_line_is_named_and_truncated_last_line_ignored(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"kind": "train", "step": 1, "loss": null}\n' + line + b"\n")
    before = path.read_bytes()
    for read in (read_records, lambda path: keep_lines(path, bool), lambda path: curves(path, tmp_path / "c.png")):
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not a record .*delete that line"):
            read(path)
    assert path.read_bytes() == before
    path.write_bytes(before.splitlines()[0] + b"\n" + line)  # cut short by a kill
    assert len(read_records(path)) == 1
    assert curves(path, tmp_path / "c.png").is_file()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "{}"),
        lambda path: save(new_figure(2, 2), path),
        lambda path: LineFile(path, "w").write("text"),
    ],
    ids=["small file", "figure", "log"],
)
def test_full_disk_error_names_file_and_leaves_none(tmp_path, write):
    with full_disk(), pytest.raises(OSError, match=r"could not write \S+a\.png: "):
        write(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_run_ended_by_full_disk_can_be_resumed(tmp_path):
    config = make_config(recipe(log_interval=1))
    with full_disk(900), pytest.raises(OSError, match=r"could not write \S+"):
        train(config, tmp_path / "run", make_loaders=make_loaders)
    held = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != ".lock"]
    assert all(path.stat().st_size for path in held)
    assert train(config, tmp_path / "run", resume="auto", make_loaders=make_loaders) == "finished"


@pytest.mark.parametrize("kill_at_log", [True, False])
def test_last_interval_is_logged_once_after_kill(tmp_path, kill_at_log):
    """The run is killed before it logs the last interval, or during the last evaluation."""
    values = recipe(epochs=1, log_interval=3, checkpoint={"interval_steps": 2}, evaluate_epochs=1)

    class Killed(Exception):
        pass

    def killed(trainer):
        def die(*_):
            raise Killed

        if trainer.step == 4:
            trainer.log, trainer.evaluate = (die, trainer.evaluate) if kill_at_log else (trainer.log, die)

    with pytest.raises(Killed):
        train_synthetic(values, tmp_path / "run", callbacks=[killed])
    train_synthetic(values, tmp_path / "run", resume="must")
    train_synthetic(values, tmp_path / "whole")
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    assert [(r["kind"], r["step"]) for r in records(tmp_path / "run")] == [("train", 3), ("train", 5), ("val", 5)]


def test_tensorboard_visualizer_writes_events(tmp_path):
    train_synthetic(recipe(epochs=1, visualizer=["tensorboard"]), tmp_path / "run")
    events = list((tmp_path / "run" / "tensorboard").rglob("events*"))
    assert events
    assert b"train/loss" in events[0].read_bytes()


@pytest.mark.parametrize(
    ("setting", "names"), [("tensorboard", ["tensorboard"]), (["tensorboard"], ["tensorboard"]), ([], [])]
)
def test_visualizer_accepts_name_or_list(setting, names, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "tensorboard" or None)
    assert visualizer_names(load_config("quickstart", [f"visualizer={setting}"]).visualizer) == names
    for other, message in (("tb", "visualizer 'tb' is unknown"), (["wandb"], "not installed: pip install wandb")):
        with pytest.raises(ValueError, match=message):
            visualizer_names(load_config("quickstart", [f"visualizer={other}"]).visualizer)
