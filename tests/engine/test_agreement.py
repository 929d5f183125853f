"""Values that must be equal on all ranks: a difference ends the run before its first step, with one line."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from dali_mix.engine.config.schema import make_config
from dali_mix.engine.distributed.agreement import run_values
from dali_mix.engine.distributed.rendezvous import differences
from dali_mix.recordio import RecordSet, write_set
from tests.engine.processes import free_port
from tests.engine.sets import pack_digits
from tests.engine.synthetic import recipe
from tests.recordio.samples import encoded

CPU = torch.device("cpu")


def values(**changes):
    sets = {name: RecordSet(changes[name]) for name in ("train_set", "val_set") if name in changes}
    return run_values(make_config(recipe(**changes)), CPU, sets)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": 5}, "seed"),
        ({"epochs": 7}, "epochs"),
        ({"batch_size": 18}, "batch_size"),
        ({"accumulate": 3}, "accumulate"),
        ({"max_steps": 2}, "max_steps"),
        ({"mixer": {"type": "cutmix", "alpha": 0.5}}, "mixer.alpha"),
        ({"optimizer": {"type": "SGD", "lr": 0.5}}, "optimizer.lr"),
        ({"amp": "bf16"}, "amp"),
        ({"ema": 0.5}, "ema"),
        ({"log_interval": 3}, "log_interval"),
        ({"evaluate_epochs": 2}, "evaluate_epochs"),
        ({"checkpoint": {"interval_steps": 3}}, "checkpoint.interval_steps"),
        ({"model": {"type": "tests.engine.synthetic:TinyNet", "dropout": 0.3}}, "model.dropout"),
    ],
)
def test_differing_setting_is_named(change, name):
    message = differences([values(), values(**change)], ["a", "b"], most=99)
    assert f"{name}: " in message


@pytest.mark.parametrize(
    "change", [{"visualizer": []}, {"loader": {"num_threads": 3, "prefetch": 4}}, {"device": "cpu"}]
)
def test_settings_that_may_differ_are_not_compared(change):
    assert differences([values(visualizer="auto"), values(**change)], ["a", "b"]) == ""


def test_sets_and_weights_are_compared_by_content(tmp_path):
    for name, color in (("one", 1), ("copy", 1), ("other", 200)):
        write_set(str(tmp_path / name), [(encoded("PNG", 8, 8, seed=color), 0)], classes=["a"])
    one, copy, other = (values(train_set=str(tmp_path / name)) for name in ("one", "copy", "other"))
    assert one == copy
    assert "train_set: 1 records, sha256" in differences([one, other], ["a", "b"])
    for name, content in (("w1", b"1"), ("w2", b"1"), ("w3", b"2")):
        (tmp_path / f"{name}.pt").write_bytes(content)
    first, same, changed = (values(weights=str(tmp_path / f"{name}.pt")) for name in ("w1", "w2", "w3"))
    assert first == same
    assert "weights: sha256" in differences([first, changed], ["a", "b"])


@pytest.mark.parametrize(
    "changes", [{"model": {"type": "own_net:Net"}}, {"train_pipeline": {"steps": [{"type": "own_net:Net"}]}}]
)
def test_user_code_is_compared(tmp_path, monkeypatch, changes):
    texts = "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self, num_classes): super().__init__(3, {})\n"
    found = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own_net.py").write_text(texts.format(len(folder) + len(found)))
        monkeypatch.syspath_prepend(tmp_path / folder)
        found.append(values(**changes))
    assert "the code of own_net:Net: sha256" in differences(found, ["a", "b"])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return pack_digits(tmp_path_factory.mktemp("digits"))


def start(rank, world_size, port, command, options):
    env = {"RANK": str(rank), "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "-m", "dali_mix", *map(str, command), "--cfg-options", "visualizer=[]", *options],
        env={**os.environ, **env, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_two(commands, options):
    """Run two ranks without a launcher, from environment variables only; return (exit statuses, error lines)."""
    port = free_port()
    ranks = [start(rank, 2, port, commands[rank], options[rank]) for rank in range(2)]
    errors = [rank.communicate(timeout=150)[1] for rank in ranks]
    lines = [line for error in errors for line in error.splitlines() if "error:" in line or "ended:" in line]
    return [rank.returncode for rank in ranks], lines


def test_ranks_with_different_sets_or_epochs_are_refused(digits, tmp_path):
    train, val = digits
    base = [f"train_set={train}", "val_set=None", "max_steps=2", "model.type=wrn-10-1"]
    command = ["train", "quickstart", "--work-dir", tmp_path / "run"]
    status, lines = run_two([command] * 2, [base, [*base, f"train_set={val}", "epochs=9"]])
    assert sorted(status) == [1, 3]  # one rank reports the error, the other ends because of it
    assert len(lines) == 2
    [message] = [line for line in lines if "error:" in line]
    assert "epochs: " in message and "train_set: 1438 records" in message and "359 records" in message
    assert not (tmp_path / "run").exists()


def test_ranks_without_launcher_train_and_compare_checkpoints(digits, tmp_path):
    train, val = digits
    options = [
        f"train_set={train}",
        f"val_set={val}",
        "max_steps=2",
        "batch_size=16",
        "model.type=wrn-10-1",
        "epochs=1",
    ]
    command = ["train", "quickstart", "--work-dir", tmp_path / "run"]
    assert run_two([command] * 2, [options] * 2) == ([0, 0], [])
    best = tmp_path / "run/checkpoints/best.pt"
    shutil.copy(tmp_path / "run/checkpoints/step-00000002.pt", tmp_path / "other.pt")
    evaluations = [["evaluate", "quickstart", path] for path in (best, tmp_path / "other.pt")]
    status, lines = run_two(evaluations, [options] * 2)
    assert sorted(status) == [1, 3]  # one rank reports the error, the other ends because of it
    assert sum("the checkpoint: sha256" in line for line in lines) == 1
