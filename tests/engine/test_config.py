"""Recipes: every bundled one resolves and builds; mistakes in others are named."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from torch import nn

from dali_mix import tasks
from dali_mix.cli.main import main
from dali_mix.engine.build import build_mixer, check_recipe
from dali_mix.engine.config import schema as configs
from dali_mix.engine.config.recipe_files import (
    find_recipe,
    list_recipes,
    load_config,
    parse_option,
    read_recipe,
    recipe_text,
)
from dali_mix.engine.config.saved import load_evaluated, load_resumed
from dali_mix.engine.config.schema import call_with, make_config
from dali_mix.engine.logging import visualizer_names
from tests.engine.synthetic import recipe

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000, "tiny_imagenet": 200}
MULTILABEL = {"voc2007": 20, "coco": 80, "wider": 14, "nus_wide": 81, "vg500": 500}


@pytest.mark.parametrize("name", list_recipes())
def test_bundled_recipe(name, tmp_path, monkeypatch):
    """Loads, resolves to JSON, builds all but its data; the header says how to run it and what to expect."""
    config = load_config(name)
    assert json.loads(json.dumps(config.resolved()))["epochs"] == config.epochs
    folder, _, own = name.rpartition("/")
    task, classes = tasks.CLASSIFICATION, CLASSES.get(folder, 10)
    if folder == "multilabel":
        task, classes = tasks.MULTILABEL, next((k for data, k in MULTILABEL.items() if own.startswith(data)), 10)
        monkeypatch.chdir(tmp_path)
        if embeddings := "embeddings" in config.model["head"] and config.model["head"]["embeddings"]:
            Path(embeddings).parent.mkdir()
            np.save(embeddings, np.zeros((classes, 768), np.float32))
    check_recipe(config, classes, task)
    doc = ast.get_docstring(ast.parse(recipe_text(name)))
    lines = [line.partition(":")[0] for line in doc.splitlines() if line and not line.startswith(" ")]
    assert lines[1:] == ["Command", "Hardware", "Source", "Expected"], doc
    assert name in doc, "the command names the recipe"


@pytest.mark.parametrize("name", ["quickstart", "tiny_imagenet/resnet50_saliencymix"])
def test_recipes_are_mmengine_configs(name):
    """The same values as mmengine's own reader of such files gives."""
    theirs = Config.fromfile(str(find_recipe(name)[0]), lazy_import=None).to_dict()  # noqa: TID251  # our own file
    assert json.dumps(theirs, sort_keys=True) == json.dumps(read_recipe(name), sort_keys=True)


def test_protocols_of_the_papers():
    cifar = load_config("cifar100/wrn28_10:resizemix")
    assert (cifar.batch_size, cifar.epochs, cifar.optimizer["lr"], cifar.mixer["type"]) == (256, 200, 0.2, "ResizeMix")
    assert load_config("cifar10/wrn28_10:cutout").mixer == {"type": "Cutout", "size": 16}
    assert load_config("cifar10/shakeshake26_2x96d:cutmix").mixer["probs"] == [0.5]
    assert load_config("imagenet/resnet101:cutmix").model["type"] == "torchvision/resnet101"
    imagenet = load_config("imagenet/resnet50:resizemix")
    assert (imagenet.batch_size, imagenet.epochs) == (512, 300)
    assert imagenet.optimizer == {"type": "SGD", "lr": 0.5, "momentum": 0.9, "weight_decay": 4e-5}
    assert imagenet.schedule == {"type": "cosine", "min_lr": 1e-5}
    assert cifar.schedule == {"type": "cosine", "warmup_epochs": 5, "min_lr": 1e-5}
    shake = load_config("cifar10/shakeshake26_2x96d:baseline")
    assert (shake.epochs, shake.optimizer["lr"], shake.optimizer["weight_decay"]) == (1800, 0.04, 1e-4)


def test_protocols_of_saliencymix():
    for name in ("cifar10/saliencymix:wrn28_10", "cifar100/saliencymix:resnet50"):
        cifar = load_config(name)
        assert (cifar.batch_size, cifar.epochs, cifar.mixer["probs"]) == (128, 200, [0.5])
        sgd = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
        assert cifar.optimizer == sgd
        assert cifar.schedule == {"type": "step", "milestones": [60, 120, 160], "gamma": 0.2}
    assert load_config("cifar100/saliencymix:wrn28_10").model == {"type": "wrn-28-10", "dropout": 0.3}
    assert load_config("cifar10/saliencymix:resnet50").model == {"type": "cifar_resnet50"}
    for name in ("imagenet/saliencymix:resnet50", "tiny_imagenet/resnet50_saliencymix"):
        config = load_config(name)
        assert (config.batch_size, config.epochs, config.mixer["type"]) == (256, 300, "SaliencyMix")
        sgd = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
        assert config.optimizer == sgd
        assert config.schedule == {"type": "step", "milestones": [75, 150, 225], "gamma": 0.1}
        assert config.train_pipeline == {"color_jitter": 0.4, "pca_lighting": 0.1}


def test_the_mixer_knows_how_the_pipeline_normalizes():
    choice = build_mixer(load_config("cifar100/saliencymix:wrn28_10"), 100)
    assert (choice.mixers[0].mean, choice.mixers[0].std) == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    mixer = build_mixer(load_config("imagenet/saliencymix:resnet50", ["train_pipeline.mean=(.1,.2,.3)"]), 1000)
    assert (mixer.mean, mixer.std) == ((0.1, 0.2, 0.3), (0.229, 0.224, 0.225))
    own = load_config("tiny_imagenet/resnet50_saliencymix", ["mixer.mean=(.4,.4,.4)", "mixer.std=(.2,.2,.2)"])
    assert (build_mixer(own, 200).mean, build_mixer(own, 200).std) == ((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))


@pytest.mark.parametrize(
    "name", [n for n in list_recipes() if re.search("mix$|mix:", n) and not n.startswith("multilabel")]
)
def test_published_mixers_draw_as_released(name):
    """One box, or one size, a batch: that is what the published figures were measured with."""
    mixer = load_config(name).mixer
    assert (mixer["mixers"][0] if mixer["type"] == "MixChoice" else mixer)["per_batch"] is True


def test_user_recipe_builds_on_bundled_and_neighbour(tmp_path):
    base = "from mmengine.config import read_base\nwith read_base():\n    from {} import *\n"
    (tmp_path / "_mine.py").write_text(base.format("dali_mix.recipes.quickstart") + "epochs = 7\n")
    (tmp_path / "mine.py").write_text(base.format("._mine") + "seed = 5\n")
    config = load_config(str(tmp_path / "mine.py"), ["optimizer.lr=0.5", "mixer=none", "loader.num_threads=3"])
    assert (config.epochs, config.seed, config.optimizer["lr"], config.mixer) == (7, 5, 0.5, None)
    assert config.loader == {"num_threads": 3}
    assert load_config("quickstart").optimizer["lr"] != 0.5
    (tmp_path / "mine.py").write_text("epochs = 1\n")
    with pytest.raises(ValueError, match="train_set"):  # read afresh, and incomplete
        load_config(str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=1", ("a.b", 1)),
        ("a=1e-3", ("a", 1e-3)),
        ("a=true", ("a", True)),
        ("a=None", ("a", None)),
        ("a=[1,2]", ("a", [1, 2])),
        ("a={'type': 'x'}", ("a", {"type": "x"})),
        ("a=data/x=y", ("a", "data/x=y")),
        ("a=__import__('os').getcwd()", ("a", "__import__('os').getcwd()")),
    ],
)
def test_parse_option(text, expected):
    assert parse_option(text) == expected


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ("epocs=3", "did you mean epochs"),
        ("schedule.warmup=3", "warmup_epochs"),
        ("loader.num_thread=3", "num_threads"),
        ("checkpoint.intervall_steps=3", "interval_steps"),
        ("paramwise.norm=0", "norm_decay"),
        ("paramwise.norm_decay=x", "paramwise.norm_decay='x': must be a number"),
        ("loader.source=x", "unknown key 'source'"),
        ("loader.on_bad_record=drop", "raise, skip"),
        ("loader.drop_last=x", "loader.drop_last"),
        ("checkpoint.best=top2", "top1, top5, loss"),
        ("checkpoint.best=ema_top1", "top1, top5, loss"),
        ("checkpoint.best=[1]", "top1, top5, loss"),
        ("metrics.protocoll=wider", "protocol"),
        ("schedule.type=cosin", "cosine"),
        ("epochs=0", "at least 1"),
        ("batch_size=2.5", "whole number"),
        ("amp=int8", "bf16"),
        ("optimizer.lr=-1", "optimizer.lr=-1: must be a number above 0"),
        ("ema=1.5", "decay"),
        ("mixer=ResizeMix", "dict with a 'type'"),
        ("visualizer=5", "a name or a list of names"),
        ("visualizer=none", r"\[\] for none"),
        ("visualizer=['tensorboard', 5]", "a name or a list of names"),
        ("early_stopping.patience=0", "patience"),
        ("early_stopping=5", "early_stopping must be a dict, not 5"),
        ("early_stopping.patience=x", "patience"),
        ("ema=high", "decay"),
        ("clip_grad_norm=[1]", "clip_grad_norm"),
        ("checkpoint.interval_steps=true", "interval_steps"),
        ("schedule.min_lr=low", "min_lr"),
        ("schedule.warmup_epochs=-1", "warmup_epochs"),
        ("schedule={'type': 'step', 'milestones': ['a']}", "milestones"),
        ("schedule={'type': 'onecycle', 'div_factor': 0}", "div_factor"),
        ("loader.prefetch=none", "prefetch"),
        ("seed=9223372036854775808", "2\\^63"),
        ("train_set=none", "train_set"),
        ("model.num_classes=10", "stands by itself"),
        ("epochs", "KEY=VALUE"),
        ("seed.x=1", "leads nowhere"),
    ],
)
def test_mistakes_are_named(option, match):
    with pytest.raises(ValueError, match=match):
        load_config("quickstart", [option])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["model.type=wrn-28"], "wrn"),
        (["model.type=tests.engine.synthetic:Nothing"], "cannot be imported"),
        (["mixer.type=ResizeMic"], "ResizeMix"),
        (["loss.type=SoftCrossEntrop"], "SoftCrossEntropy"),
        (["loss.smoothing=1"], "smoothing"),
        (["pipeline.type=cifat"], "cifar"),
        (["pipeline.pading=1"], "padding"),
        (["optimizer.type=SDG"], "SGD"),
        (["optimizer.momentum=a"], "optimizer SGD: momentum='a': must be a number"),
        (["optimizer.weight_decay=-1"], "optimizer SGD: Invalid weight_decay"),
        (["optimizer.nesterov=x"], "nesterov='x': must be True or False"),
        (["loss.label_smoothing=x"], "loss SoftCrossEntropy: label_smoothing='x': must be a number"),
        (["mixer={'type': 'CutMix', 'alpha': 'x'}"], "mixer CutMix: .*alpha='x'"),
        (["mixer={'type': 'MixUp', 'per_batch': 'x'}"], "mixer MixUp: per_batch"),
        (["mixer={'type': 'MixChoice', 'mixers': 5}"], "mixer MixChoice: mixers=5"),
        (["mixer={'type': 'MixChoice', 'mixers': [5], 'probs': [1]}"], "mixer MixChoice: 5"),
        (["mixer.scale=x"], "mixer ResizeMix: scale='x'"),
        (["paramwise.custom={'conv1': {'lr_mult': 'x'}}"], "lr_mult='x': must be a number"),
        (["mixer.scale=5"], "mixer ResizeMix"),
        (["paramwise.custom.linear=5"], r"paramwise\.custom\['linear'\] must be a dict, not 5"),
    ],
)
def test_what_cannot_be_built_is_named(options, match):
    with pytest.raises(ValueError, match=match):
        check_recipe(load_config("quickstart", options), 10)


def test_unknown_recipe_names_close_ones():
    with pytest.raises(FileNotFoundError, match="cifar10/wrn28_10:resizemix"):
        find_recipe("cifar10/wrn28_resizemix")
    with pytest.raises(FileNotFoundError, match="no such recipe file"):
        find_recipe("nowhere/mine.py")


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_yaml_is_not_read(tmp_path, suffix):
    """The tag that would run code is never looked at."""
    marker, path = tmp_path / "marker", tmp_path / f"evil{suffix}"
    path.write_text(f"x: !!python/object/apply:os.mkdir ['{marker}']\n")
    with pytest.raises(ValueError, match="YAML and JSON are not read"):
        load_config(str(path))
    assert not marker.exists()


def test_recipe_of_other_than_plain_values_or_broken(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = {1, 2}\n")
    with pytest.raises(ValueError, match="x is not made of plain values"):
        read_recipe(path)
    path.write_text("x = 1 / 0\n")
    with pytest.raises(ValueError, match="does not import: ZeroDivisionError"):
        read_recipe(path)


def test_batch_must_divide():
    config = make_config(recipe(batch_size=12, accumulate=2))
    assert config.per_rank(3) == 2
    with pytest.raises(ValueError, match="multiple of 8"):
        config.per_rank(4)


def test_defaults_are_not_shared():
    one, two = make_config(recipe()), make_config(recipe())
    one.loss["x"] = 1
    assert "x" not in two.loss
    assert configs.FIELDS["loss"].default_factory() == {"type": "SoftCrossEntropy"}


def test_recipes_command(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in list_recipes())
    assert "_wrn28_10" not in listed
    assert main(["recipes", "quickstart"]) == 0
    assert capsys.readouterr().out == find_recipe("quickstart")[0].read_text()
    assert main(["recipes", "quickstar"]) == 1
    assert "quickstart" in capsys.readouterr().err


def resumable(tmp_path, **changes):
    """A work directory with a checkpoint, and a config.json changed in places."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000001.pt").touch()
    values = {
        "recipe": "quickstart",
        **load_config("quickstart", ["batch_size=32", "mixer=none"]).resolved(),
        **changes,
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    return tmp_path


def test_resume_takes_the_options_given_before(tmp_path):
    assert load_resumed("quickstart", tmp_path / "new", ["seed=3"]).batch_size != 32
    config = load_resumed("quickstart", resumable(tmp_path), ["seed=3"])
    assert (config.batch_size, config.mixer, config.seed) == (32, None, 3)


def test_evaluation_takes_the_options_a_run_had(tmp_path):
    checkpoint = resumable(tmp_path) / "checkpoints" / "step-00000001.pt"
    config, found = load_evaluated("quickstart", checkpoint, ["val_batch_size=7"])
    assert (config.batch_size, config.val_batch_size, found) == (32, 7, tmp_path / "config.json")
    own = load_config("quickstart", []).batch_size
    for name, path in (
        ("quickstart_cifar10", checkpoint),  # another recipe's
        ("quickstart", tmp_path / "weights.pt"),  # not in a run
    ):
        config, found = load_evaluated(name, path)
        assert found is None and (name != "quickstart" or config.batch_size == own)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, ["epochs=0"], "quickstart: epochs=0"),
        ({}, ["epocs=3"], "quickstart: unknown key 'epocs'"),
        ({"epochs": 0}, [], r"config\.json: epochs=0"),
        ({"epochs": 0}, ["seed=-1"], r"config\.json: epochs=0"),
    ],
)
def test_resume_blames_the_option_or_the_file(tmp_path, changes, options, message):
    with pytest.raises(ValueError, match=message):
        load_resumed("quickstart", resumable(tmp_path, **changes), options)


def test_resume_takes_an_option_in_place_of_a_wrong_value(tmp_path):
    assert load_resumed("quickstart", resumable(tmp_path, epochs=0), ["epochs=2"]).epochs == 2


def test_resume_strict_is_asked_for_each_time(tmp_path):
    assert load_resumed("quickstart", resumable(tmp_path, resume_strict=False)).resume_strict


def test_resume_of_another_recipe_or_of_a_damaged_config(tmp_path):
    with pytest.raises(ValueError, match="of the recipe quickstart, not quickstart_cifar10"):
        load_resumed("quickstart_cifar10", resumable(tmp_path))
    (tmp_path / "config.json").write_text('{"batch_')
    with pytest.raises(ValueError, match=r"config\.json: damaged"):
        load_resumed("quickstart", tmp_path)


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"model": {"type": "subprocess:run"}}, "model.type"),
        ({"mixer": {"type": "subprocess:run"}}, "mixer.type"),
        ({"loss": {"type": "subprocess:run"}}, "loss.type"),
        (
            {"mixer": {"type": "MixChoice", "mixers": [{"type": "subprocess:run"}], "probs": [0.5]}},
            "mixer.mixers.0.type",
        ),
        ({"model": {"type": "multilabel", "backbone": {"type": "subprocess:run"}}}, "model.backbone.type"),
        ({"model": {"type": "wrn-16-1", "inner": [[{"type": "subprocess:run"}]]}}, "model.inner.0.0.type"),
        ({"pipeline": {"type": "subprocess:run"}}, "pipeline.type"),
        ({"train_pipeline": {"steps": [{"type": "subprocess:run"}]}}, "train_pipeline.steps.0.type"),
    ],
)
def test_resume_runs_no_code_the_work_directory_names(tmp_path, changes, option):
    """A module:name counts only where the recipe or an option names it; the option that the message names is enough."""
    checkpoint = resumable(tmp_path, **changes) / "checkpoints" / "step-00000001.pt"
    with pytest.raises(ValueError, match=f"{option}=subprocess:run is code the recipe does not name"):
        load_resumed("quickstart", tmp_path)
    with pytest.raises(ValueError, match="does not name"):
        load_evaluated("quickstart", checkpoint)
    part = option.partition(".")[0]
    assert getattr(load_resumed("quickstart", tmp_path, [f"{option}=subprocess:run"]), part) == changes[part]


def test_resume_finds_no_module_in_the_work_directory(tmp_path):
    (tmp_path / "foreign_code.py").write_text("raise SystemExit('ran')")
    resumable(tmp_path, mixer={"type": "foreign_code:Mine"})
    config = load_resumed("quickstart", tmp_path, ["mixer.type=foreign_code:Mine"])
    with pytest.raises(ValueError, match="No module named 'foreign_code'"):
        build_mixer(config, 10)


def test_options_of_a_module_without_any_and_of_one_that_is_called_like_torchs():
    with pytest.raises(ValueError, match="loss Tanh: unknown key 'width'; known: none"):
        call_with(nn.Tanh, "loss Tanh", {"width": 3})

    def __init__(self, width):
        nn.Module.__init__(self)
        self.width = width

    __init__.__qualname__ = "Module.__init__"  # as in `class Module(nn.Module)` of a package
    assert call_with(type("Module", (nn.Module,), {"__init__": __init__}), "model", {"width": 3}).width == 3


@pytest.mark.parametrize(
    ("setting", "names"), [("tensorboard", ["tensorboard"]), (["tensorboard"], ["tensorboard"]), ([], [])]
)
def test_visualizers_by_a_word_or_a_list(setting, names, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "tensorboard" or None)
    assert visualizer_names(load_config("quickstart", [f"visualizer={setting}"]).visualizer) == names
    for other, message in (("tb", "visualizer 'tb' is unknown"), (["wandb"], "not installed: pip install wandb")):
        with pytest.raises(ValueError, match=message):
            visualizer_names(load_config("quickstart", [f"visualizer={other}"]).visualizer)


@pytest.mark.parametrize("name", ["sets/p.json", "sets/p.rec", "./sets/p", "sets//p.idx", "sets/p"])
def test_a_set_has_one_name_in_a_recipe(name):
    config = make_config(recipe(train_set=name, val_set=name))
    assert (config.train_set, config.val_set) == ("sets/p", "sets/p")
    assert make_config(recipe(val_set=None)).val_set is None
