"""The commands in the headers of the recipes, read as a shell and `dali-mix` would: every option exists."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import torch

from dali_mix import tasks
from dali_mix.cli.main import parse
from dali_mix.engine.build import build_model, check_recipe, weight_files
from dali_mix.engine.config.recipe_files import list_recipes, load_config, parse_option, recipe_text
from dali_mix.models import build_multilabel

ROOT = Path(__file__).parents[2]
MULTILABEL = [name for name in list_recipes() if load_config(name).model["type"] == "multilabel"]


def header(name):
    return ast.get_docstring(ast.parse(recipe_text(name)))


def commands(text):
    """The lines of a header's "Command", split into words."""
    part = re.search(r"^Command:(.*?)^\w+:", text, re.DOTALL | re.MULTILINE)[1]
    return [shlex.split(line) for line in part.replace("\\\n", " ").strip().splitlines()]


def options_named(text):
    """The KEY=VALUE words after each --cfg-options of a text; they may go on in the next line."""
    for rest in text.split("--cfg-options")[1:]:
        words = []
        for word in rest.split():
            if "=" not in word:
                break
            words.append(word)
        yield words


def value_at(values, dotted):
    for part in dotted.split("."):
        values = values[part]
    return values


@pytest.mark.parametrize("name", list_recipes())
def test_commands_are_understood(name):
    trained = []
    for words in commands(header(name)):
        if words[0] == "scripts/train_dist.sh":
            assert int(words[2]) > 0 and (ROOT / words[0]).is_file()
            words = ["dali-mix", "train", words[1], *words[3:]]
        assert words[0] == "dali-mix"
        args = parse(words[1:])
        if args.command == "train":
            trained.append(args.recipe)
            load_config(args.recipe, args.cfg_options)
    assert trained == [name]


@pytest.mark.parametrize("name", [name for name in list_recipes() if "--cfg-options" in header(name)])
def test_options_in_headers_can_be_set(name, tmp_path, monkeypatch):
    for words in options_named(header(name)):
        assert words and not any(word.endswith((",", ".", ";")) for word in words)
        config = load_config(name, words)
        for key, value in map(parse_option, words):
            assert value_at(config.resolved(), key) == value
        if "sgre" not in name:  # which need a file of label embeddings
            check_recipe(config, 20, tasks.MULTILABEL)


@pytest.mark.parametrize("name", MULTILABEL)
def test_weights_of_any_backbone(name):
    """Also where the recipe gives the backbone as a name alone; the options of the backbone stay."""
    before, config = load_config(name), load_config(name, ["model.backbone.weights=mine.pth"])
    assert weight_files(config) == {"backbone": "mine.pth"}
    backbone = before.model["backbone"]
    given = {"type": backbone} if isinstance(backbone, str) else backbone
    assert config.model == {**before.model, "backbone": {**given, "weights": "mine.pth"}}
    assert weight_files(load_config(name, ["model.backbone.weights=none"])) == {}


@pytest.mark.parametrize(
    ("options", "model"),
    [
        (["model.head.lam=0.5"], {"type": "csra", "num_heads": 1, "lam": 0.5}),
        (["model.head=max", "model.head.x=1"], {"type": "max", "x": 1}),
        (["model.head.type=average"], {"type": "average"}),
    ],
)
def test_a_head_by_name_takes_options(options, model):
    head = load_config("multilabel/voc_style_csra_resnet18", options).model["head"]
    assert {key: head[key] for key in model} == model


@pytest.mark.parametrize(
    "option", ["train_set.x=1", "model.type.x=1", "model.backbone.type.x=1", "optimizer.type.lr=1"]
)
def test_other_names_lead_nowhere(option):
    with pytest.raises(ValueError, match="leads nowhere"):
        load_config("multilabel/voc_style_csra_resnet18", [option])


def test_the_weights_of_a_backbone_by_name_arrive(tmp_path):
    """As the header of the recipe for one's own images says, from a file of a classifier."""
    torch.manual_seed(1)  # the recipe's is 0
    donor = build_multilabel("resnet18", "max", num_classes=3).backbone
    torch.save(
        {"state_dict": {f"model.{key}": value for key, value in donor.state_dict().items()}}, tmp_path / "w.ckpt"
    )
    config = load_config("multilabel/voc_style_csra_resnet18", [f"model.backbone.weights={tmp_path / 'w.ckpt'}"])
    from dali_mix.engine.build import load_files

    model = build_model(config, 4)
    assert not torch.equal(model.backbone.conv1.weight, donor.conv1.weight)
    (report,) = load_files(model, config)
    assert torch.equal(model.backbone.conv1.weight, donor.conv1.weight) and report.share == 1
    assert "model." in str(report)
