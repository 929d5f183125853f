"""Every bundled recipe builds, and the shell and `dali-mix` accept the commands in its header."""

import ast
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from dali_mix import tasks
from dali_mix.cli.main import parse
from dali_mix.engine.build import check_recipe
from dali_mix.engine.config.recipe_files import list_recipes, load_config, parse_option, recipe_text

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000, "tiny_imagenet": 200}
MULTILABEL = {"voc2007": 20, "coco": 80, "wider": 14, "nus_wide": 81, "vg500": 500}
DETECTION = {"voc0712": 20, "coco": 80, "bccd": 3}
ROOT = Path(__file__).parents[2]


def header(name):
    return ast.get_docstring(ast.parse(recipe_text(name)))


def commands(text):
    """Return the commands in the "Command" section of a header, split into words."""
    part = re.search(r"^Command:(.*?)^\w+:", text, re.DOTALL | re.MULTILINE)[1]
    return [shlex.split(line) for line in part.replace("\\\n", " ").strip().splitlines()]


def header_options(text):
    """Yield the KEY=VALUE words after each --cfg-options in a text. They may continue on the next line."""
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
def test_recipe_builds_and_has_header(name, tmp_path, monkeypatch):
    """The recipe loads, resolves to JSON and builds without its data. The header has every section."""
    config = load_config(name)
    assert json.loads(json.dumps(config.resolved()))["epochs"] == config.epochs
    folder, _, own = name.rpartition("/")
    task, classes = tasks.CLASSIFICATION, CLASSES.get(folder, 10)
    if folder == "detection":
        task, classes = tasks.DETECTION, DETECTION.get(own.partition("_")[0], 10)
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


@pytest.mark.parametrize("name", list_recipes())
def test_header_commands_are_valid(name):
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
def test_header_options_can_be_set(name, tmp_path, monkeypatch):
    for words in header_options(header(name)):
        assert words and not any(word.endswith((",", ".", ";")) for word in words)
        config = load_config(name, words)
        for key, value in map(parse_option, words):
            assert value_at(config.resolved(), key) == value
        if "sgre" not in name:  # SGRE needs a file of label embeddings
            task = {"detection": tasks.DETECTION, "multilabel": tasks.MULTILABEL}.get(name.partition("/")[0])
            check_recipe(config, 20, task or tasks.CLASSIFICATION)
