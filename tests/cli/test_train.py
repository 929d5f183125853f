"""`dali-mix train` and `evaluate` on real images: killed and resumed, and with wrong arguments."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from dali_mix.cli.main import main
from tests.engine.processes import assert_same_run, context, finish, records
from tests.engine.sets import pack_digits, pack_photos

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    train, val = pack_digits(folder)
    return {"digits": train, "digits_val": val, "photos": pack_photos(folder / "photos", 48)}


def cli(arguments, out):
    """Run `dali-mix ARGUMENTS` with its output appended to the file `out`, and end this process with its status."""
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = Path(out).open("a", buffering=1)  # noqa: SIM115  # open until the process ends
    os._exit(main(arguments))


def start(arguments, out):
    process = context().Process(target=cli, args=([str(a) for a in arguments], str(out)))
    process.start()
    return process


def wait_for(path, process, seconds=60):
    end = time.monotonic() + seconds
    while not Path(path).exists():
        assert process.exitcode is None, f"ended with {process.exitcode} before {path} existed"
        assert time.monotonic() < end, f"{path} was not written in time"
        time.sleep(0.005)


@pytest.mark.parametrize(("sign", "model"), [(signal.SIGKILL, "torchvision/resnet18"), (signal.SIGTERM, "wrn-10-1")])
def test_stopped_and_resumed_run_is_bit_identical(sets, tmp_path, sign, model):
    """One epoch with random crops and ResizeMix, stopped and resumed, has the same result as without the stop."""
    options = [f"train_set={sets['photos']}", "batch_size=4", "visualizer=[]", "log_ids=true", "loader.num_threads=1"]
    options += [f"model.type={model}", "checkpoint.interval_steps=4"]
    command = ["train", "imagenet/resnet18_sample", "--cfg-options", *options, "--work-dir"]
    assert finish([start([*command, tmp_path / "one"], tmp_path / "one.txt")]) == [0], (
        tmp_path / "one.txt"
    ).read_text()
    two = tmp_path / "two"
    process = start([*command, two], tmp_path / "two.txt")
    wait_for(two / "checkpoints" / "step-00000004.pt", process)
    os.kill(process.pid, sign)
    assert finish([process]) == [KILLED if sign == signal.SIGKILL else 75]
    assert not (two / "checkpoints" / "step-00000012.pt").exists()
    assert finish([start([*command, two, "--resume"], tmp_path / "two.txt")]) == [0], (tmp_path / "two.txt").read_text()
    assert "resumed from step-" in (tmp_path / "two.txt").read_text()
    assert_same_run(tmp_path / "one", two)


def test_train_evaluate_and_resume_on_digits(sets, tmp_path, capsys):
    options = [f"train_set={sets['digits']}", f"val_set={sets['digits_val']}", "epochs=1", "visualizer=[]", "ema=0.9"]
    work_dir = tmp_path / "run"
    train = ["train", "quickstart", "--work-dir", work_dir, "--cfg-options", *options]
    assert finish([start(train, tmp_path / "out.txt")]) == [0], (tmp_path / "out.txt").read_text()
    last = [r for r in records(work_dir) if r["kind"] == "val"][-1]
    assert main([str(a) for a in train]) == 1
    assert "--resume" in capsys.readouterr().err
    command = ["evaluate", "quickstart", work_dir / "checkpoints" / "best.pt", "--json", tmp_path / "metrics.json"]
    assert finish([start([*command, "--cfg-options", *options], tmp_path / "out.txt")]) == [0]
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["top1"] == last["top1"]
    assert found["loss"] == pytest.approx(last["loss"], abs=1e-6)
    again = ["train", "quickstart", "--work-dir", work_dir, "--resume"]
    assert finish([start(again, tmp_path / "out.txt")]) == [0]  # with the options of the first start
    assert last == [r for r in records(work_dir) if r["kind"] == "val"][-1]
    again += ["--cfg-options", f"train_set={sets['digits_val']}"]
    assert finish([start(again, tmp_path / "out.txt")]) == [1]
    said = f"on {sets['digits']}, this run has train_set={sets['digits_val']}; "
    assert f"{said}--cfg-options resume_strict=False resumes anyway" in (tmp_path / "out.txt").read_text()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["train_set=/nowhere/digits"], "/nowhere/digits.json: no such set"),
        (["val_set={photos}"], "different classes"),
        (["lr=0.1"], "unknown key 'lr' (did you mean optimizer.lr?)\n"),
        (["num_classes=7"], "num_classes=7, but "),
        (["model.type=wrn-17-1"], "depth=17: a Wide ResNet has"),
        (["weights=/nowhere.pt"], "weights: /nowhere.pt: no such file"),
        (["device=cuda"], "no GPU"),
        (["mixer.scale=[0.8,0.1]"], "mixer ResizeMix: scale=(0.8, 0.1): needs 0 < low"),
        (["visualizer=[wandb]"], "did you mean wandb"),
        (["visualizer=['wandb']"], "pip install wandb"),
    ],
)
def test_wrong_options_are_refused_before_start(sets, tmp_path, capsys, monkeypatch, options, match):
    if options == ["device=cuda"]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given = [option.format(**sets) for option in options]
    base = [f"train_set={sets['digits']}", f"val_set={sets['digits_val']}", "visualizer=[]"]
    work_dir = tmp_path / "run"
    assert main(["train", "quickstart", "--work-dir", str(work_dir), "--cfg-options", *base, *given]) == 1
    error = capsys.readouterr().err
    assert match in error
    assert len(error.strip().splitlines()) == 1
    assert not work_dir.exists()
