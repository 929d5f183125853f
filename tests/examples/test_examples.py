"""The examples, run as scripts, and unit tests of their classes."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from dali_mix.mixers import CutMix, ResizeMix

FOLDER = Path(__file__).parents[2] / "examples"
LINE = re.compile(r"epoch (\d+): loss ([\d.]+), (?:(\d+) of (\d+)|(\d+)%).*mixed labels")


def run(script, *arguments):
    """Run an example, which must end with status 0; return what it printed."""
    done = subprocess.run(
        [sys.executable, FOLDER / script, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def example(monkeypatch):
    """Return a function that imports an example by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


# CutMix and ResizeMix mix almost all images. One in ten has a partner of its own class, a few get an empty box.
# In plain_loop.py, two batches in ten are left unmixed.
@pytest.mark.parametrize(
    ("script", "share"),
    [("plain_loop.py", (0.55, 0.9)), ("dataloader_collate.py", (0.8, 0.95)), ("mmengine_runner.py", (0.8, 0.95))],
)
def test_example_learns_from_mixed_images(script, share):
    printed = run(script)
    epochs = [LINE.search(line) for line in printed.splitlines() if line.startswith("epoch")]
    assert len(epochs) == 6 and all(epochs)
    losses = [float(epoch[2]) for epoch in epochs]
    assert losses[-1] < 0.75 * losses[0]
    for epoch in epochs:
        mixed = int(epoch[5]) / 100 if epoch[5] else int(epoch[3]) / int(epoch[4])
        assert share[0] < mixed < share[1]
    accuracy = float(re.search(r"held-out accuracy ([\d.]+)%", printed)[1])
    assert accuracy > 80  # chance is 10


def test_list_of_examples_is_complete():
    assert {path.name for path in FOLDER.glob("*.py")} == {
        "digits.py",  # shared by the others
        "plain_loop.py",
        "dataloader_collate.py",
        "mmengine_runner.py",
        "own_model.py",
        "three_steps.py",
    }


def test_own_model_learns_and_resumes(tmp_path):
    printed = run("own_model.py", "--work-dir", tmp_path / "run")
    assert len(re.findall(r"^epoch \d: held-out accuracy", printed, flags=re.MULTILINE)) == 4
    last = re.compile(r"finished: held-out accuracy ([\d.]+)%$")
    assert float(last.search(printed)[1]) > 80
    again = run("own_model.py", "--work-dir", tmp_path / "run")  # no steps are left
    assert last.search(again)[0] == last.search(printed)[0]


def test_three_steps_share_one_backbone(tmp_path):
    printed = run("three_steps.py", "--work-dir", tmp_path / "run", "--scenes", "40", "--max-steps", "3")
    last = re.fullmatch(r"pretrained: top-1 .*%; several labels: mAP .*%; boxes: AP50 .*%", printed.splitlines()[-1])
    assert last
    for step in ("labels", "boxes"):  # the weights of the entire backbone come from the first step
        log = (tmp_path / "run" / step / "train.log").read_text()
        assert re.search(r"weights from .*pretrained.*: \d+ matched, 0 missing, 0 mis-shaped", log)
    left = (
        "reports/labels/per_class.png",
        "reports/boxes/boxes.png",
        "curves/boxes.png",
        "scene.png",
        "drawn/scene.png",
    )
    assert all((tmp_path / "run" / name).is_file() for name in left)
    (tmp_path / "run" / "data").rename(tmp_path / "moved")
    with pytest.raises(AssertionError, match="holds a run already: choose another --work-dir"):
        run("three_steps.py", "--work-dir", tmp_path / "run", "--scenes", "40", "--max-steps", "3")
    assert not (tmp_path / "run" / "data").exists()


def test_collate_mixes_equally_in_workers(example):
    module = example("dataloader_collate")
    torch.manual_seed(0)
    train_set = TensorDataset(torch.rand(150, 1, 5, 7), torch.arange(150) % 10, torch.arange(150))
    epochs = []
    for workers in (0, 2):
        loader = module.make_loader(train_set, workers)
        epochs.append([batch for _ in range(2) for batch in loader])
    alone, shared = epochs
    assert len(alone) == len(shared) == 6
    for (images, targets), (other_images, other_targets) in zip(alone, shared, strict=True):
        assert torch.equal(images, other_images) and torch.equal(targets, other_targets)
    assert not torch.equal(alone[0][0], alone[3][0])  # the second epoch has a new order and new mixes


def test_mix_collate_is_reproducible_and_mixes_targets(example):
    collate = example("dataloader_collate").MixCollate(CutMix(4), seed=3)
    torch.manual_seed(0)
    images = torch.rand(6, 3, 10, 14)
    samples = [(images[i], torch.tensor(i % 4), torch.tensor(i)) for i in range(6)]
    mixed, targets = collate(samples)
    again, _ = collate(samples)
    assert mixed.shape == images.shape and targets.shape == (6, 4)
    assert torch.equal(mixed, again)
    kept = (mixed == images).all(1).float().mean((1, 2))
    own = targets[torch.arange(6), torch.arange(6) % 4]
    assert (kept < 1).any()
    different = own < 1  # the partner has another class
    assert torch.allclose(kept[different], own[different])
    other, _ = collate([(image, label, number + 10) for image, label, number in samples])
    assert not torch.equal(mixed, other)


def test_preprocessor_mixes_in_training_only(example):
    from mmengine.logging import MessageHub

    module = example("mmengine_runner")
    preprocessor = module.MixPreprocessor(ResizeMix(4), seed=3)
    torch.manual_seed(0)
    images, labels = torch.rand(6, 3, 10, 14), torch.arange(6) % 4
    plain = preprocessor([images, labels], training=False)
    assert torch.equal(plain["images"], images) and torch.equal(plain["targets"], labels)
    hub = MessageHub.get_current_instance()
    mixes = []
    for iteration in (0, 1, 0):
        hub.update_info("iter", iteration)
        mixes.append(preprocessor([images, labels], training=True))
    first, second, again = (mix["images"] for mix in mixes)
    assert mixes[0]["targets"].shape == (6, 4)
    assert not torch.equal(first, images) and not torch.equal(first, second)
    assert torch.equal(first, again)
