"""User code named as module:name (mixers, models, losses, pipelines, steps), and modules next to the recipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dali_mix.cli.main import main
from dali_mix.engine.build import build_loss, build_mixer, build_model, build_pipeline
from dali_mix.engine.config.recipe_files import load_config
from dali_mix.mixers import CutMix, MixChoice, build
from dali_mix.reports.gallery import parse_mixer

ROOT = Path(__file__).parents[2]
BASE = "from mmengine.config import read_base\nwith read_base():\n    from dali_mix.recipes.quickstart import *\n"
MODULE = '''
import torch
from dali_mix.mixers import CutMix, Mixer
from dali_mix.pipelines import Step
from dali_mix.pipelines.imagenet import ImageNet

class Mine(CutMix):
    """Mixer that accepts the number of classes, mean and std."""
    def __init__(self, num_classes, mean, std, alpha=0.5):
        super().__init__(num_classes, alpha)
        self.mean, self.std = mean, std

class Passes(CutMix):
    """Mixer that accepts the number of classes through **options."""
    def __init__(self, alpha=0.25, **options):
        super().__init__(alpha=alpha, **options)

class Plain(Mixer):
    """Mixer without options."""
    changes_targets = False
    def sample(self, batch_size, height, width, generator=None, device="cpu"):
        return batch_size
    def apply(self, images, targets, params):
        return images.flip(-1), targets

def make(num_classes=None, **options):
    return CutMix(num_classes, **options)

class Net(torch.nn.Sequential):
    def __init__(self, num_classes, width=8):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, width), torch.nn.Linear(width, num_classes))

class Loss(torch.nn.CrossEntropyLoss):
    pass

class Invert(Step):
    def graph(self, images, draws, device):
        return 255 - images

class Small(ImageNet):
    """Pipeline with a fixed image size."""
    def __init__(self, *, train, steps=()):
        super().__init__(train=train, image_size=32, steps=steps)

def not_a_mixer():
    return {}
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Yield a folder with a recipe and a module next to it, and the module's name, which is unique to the test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"own_parts_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "recipe.py").write_text(BASE)
    yield tmp_path, name
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("kind", "options", "alpha"),
    [("Mine", {"alpha": 0.75}, 0.75), ("Passes", {}, 0.25), ("make", {"alpha": 0.125}, 0.125)],
)
def test_user_mixer_gets_options_it_accepts(folder, kind, options, alpha):
    path, name = folder
    texts = [f"mixer={ {'type': f'{name}:{kind}', **options} }"]
    mixer = build_mixer(load_config(str(path / "recipe.py"), texts), 10)
    assert isinstance(mixer, CutMix) and (mixer.num_classes, mixer.alpha) == (10, alpha)
    if kind == "Mine":
        assert mixer.mean == pytest.approx((0.4914, 0.4822, 0.4465))
    choice = build("MixChoice", num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3, probs=[0.5], mixers=[
        {"type": f"{name}:{kind}", **options},
    ])  # fmt: skip
    assert isinstance(choice, MixChoice) and (choice.num_classes, choice.mixers[0].alpha) == (10, alpha)


def test_user_mixer_without_options(folder):
    path, name = folder
    mixer = build_mixer(load_config(str(path / "recipe.py"), [f"mixer={ {'type': f'{name}:Plain'} }"]), 10)
    images, targets = mixer(torch.arange(6.0).view(1, 1, 2, 3), torch.tensor([3]))
    assert images.flatten().tolist() == [2, 1, 0, 5, 4, 3] and targets.tolist() == [3]


def test_user_model_and_loss_next_to_recipe(folder):
    path, name = folder
    options = [f"model={ {'type': f'{name}:Net', 'width': 4} }", f"loss.type={name}:Loss"]
    config = load_config(str(path / "recipe.py"), options)
    assert build_model(config, 7)(torch.zeros(2, 3, 16, 16)).shape == (2, 7)
    assert type(build_loss(config)).__name__ == "Loss"


def test_user_pipeline_and_step_next_to_recipe(folder):
    path, name = folder
    steps = {"steps": [{"type": f"{name}:Invert"}]}
    config = load_config(
        str(path / "recipe.py"), [f"pipeline={ {'type': f'{name}:Small'} }", f"train_pipeline={steps}"]
    )
    pipeline = build_pipeline(config, True)
    assert [type(step).__name__ for step in pipeline.steps] == ["RandomResizedCrop", "Resize", "Invert", "Flip"]
    assert build_pipeline(config, False).image_size == (32, 32)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "no_such_module_at_all:Mine",
            "No module named.*put no_such_module_at_all.py in the folder of the recipe file",
        ),
        ("{name}:Yours", "defines no Yours"),
        ("{name}:not_a_mixer", "returned a dict; derive it from dali_mix.mixers.Mixer"),
        ("{name}:Mine:x", "write it as module:name"),
        ("{name}:", "write it as module:name"),
        (":Mine", "write it as module:name"),
        ("builtins:dict", "no signature found"),
        ("fails:Mine", "ZeroDivisionError: division by zero"),
        ("{name}:torch", "is not a class or a function"),
    ],
)
def test_invalid_user_type_is_named(folder, kind, message):
    path, name = folder
    (path / "fails.py").write_text("1 / 0")
    config = load_config(str(path / "recipe.py"), [f"mixer={ {'type': kind.format(name=name)} }"])
    with pytest.raises(ValueError, match=message):
        build_mixer(config, 10)


def test_unknown_option_of_user_mixer_is_named(folder):
    path, name = folder
    config = load_config(str(path / "recipe.py"), [f"mixer={ {'type': f'{name}:Mine', 'beta': 1} }"])
    with pytest.raises(ValueError, match=r"beta.*it takes num_classes, mean, std, alpha"):
        build_mixer(config, 10)


@pytest.mark.parametrize("other", ["random", "tests", "numpy"])
def test_user_module_named_like_installed_one_is_refused(folder, other):
    """Installed and standard modules are found first, so a user's module of the same name would never be read."""
    path, _ = folder
    (path / f"{other}.py").write_text(MODULE)
    with pytest.raises(ValueError, match=f"two modules have the name {other}: .*; rename the first"):
        load_config(str(path / "recipe.py"), [f"mixer={ {'type': f'{other}:Mine'} }"])


def test_same_module_name_in_two_folders_is_refused(folder, tmp_path):
    path, name = folder
    text = [f"mixer={ {'type': f'{name}:Mine'} }"]
    build_mixer(load_config(str(path / "recipe.py"), text), 10)
    (tmp_path / "second").mkdir()
    for file in ("recipe.py", f"{name}.py"):
        (tmp_path / "second" / file).write_text((path / file).read_text())
    with pytest.raises(ValueError, match="two modules have the name"):
        load_config(str(tmp_path / "second" / "recipe.py"), text)


def test_gallery_finds_modules_in_current_folder(folder, monkeypatch, capsys):
    path, name = folder
    monkeypatch.chdir(path)
    assert main(["pack", "digits", "--split", "val", "--out", "digits"]) == 0
    mixers = f"{name}:Mine:alpha=1.0,{name}:Plain,resizemix"
    assert main(["gallery", "digits", "--mixers", mixers, "--rows", "1", "--out", "g.png"]) == 0
    assert (path / "g.png").stat().st_size > 0
    assert main(["gallery", "digits", "--mixers", f"{name}:Mine:gamma=1", "--out", "h.png"]) == 1
    assert "gamma" in capsys.readouterr().err
    assert main(["gallery", "digits", "--mixers", "resizemix:nearest", "--out", "h.png"]) == 1
    assert "'nearest' is not an option" in capsys.readouterr().err


def test_every_rank_finds_user_module(folder):
    """Train on two processes with a mixer and a loss that are defined next to the recipe."""
    path, name = folder
    assert main(["pack", "digits", "--split", "train", "--out", str(path / "digits")]) == 0
    values = f"train_set = {str(path / 'digits')!r}\nval_set = None\nmax_steps = 2\ncheckpoint = {{'best': None}}\n"
    types = f"mixer = dict(type='{name}:Mine')\nloss = dict(type='{name}:Loss')\n"
    (path / "recipe.py").write_text(BASE + values + types)
    command = [str(ROOT / "scripts" / "train_dist.sh"), str(path / "recipe.py"), "2", "--work-dir", str(path / "run")]
    env = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, cwd=path, env=env, capture_output=True, text=True, timeout=250)
    assert ended.returncode == 0, ended.stderr
    assert (path / "run" / "checkpoints" / "step-00000002.pt").is_file()


@pytest.mark.parametrize("option", ["mean", "std", "num_classes"])
def test_option_that_mixer_lacks_is_refused(option):
    """`build` offers these options to every mixer; naming one for a mixer without it would have no effect."""
    value = 3 if option == "num_classes" else [0.5, 0.5, 0.5]
    member = {"type": "Cutout", "size": 2, option: value}
    with pytest.raises(ValueError, match=f"mixer Cutout: has no option '{option}'; it takes size"):
        build("MixChoice", mixers=[member], probs=[0.5])
    with pytest.raises(ValueError, match=f"mixer cutout: has no option '{option}'"):
        parse_mixer(f"cutout:size=2:{option}={value}", 3, 32)
