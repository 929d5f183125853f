"""Recipes hold the values of the papers, and are valid mmengine configs."""

import json
import re

import pytest
from mmengine.config import Config

from dali_mix.engine.config.recipe_files import find_recipe, list_recipes, load_config, read_recipe


@pytest.mark.parametrize("name", ["quickstart", "tiny_imagenet/resnet50_saliencymix"])
def test_recipes_are_mmengine_configs(name):
    """mmengine's own reader returns the same values."""
    theirs = Config.fromfile(str(find_recipe(name)[0]), lazy_import=None).to_dict()  # noqa: TID251  # our own file
    assert json.dumps(theirs, sort_keys=True) == json.dumps(read_recipe(name), sort_keys=True)


def test_recipes_match_papers():
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


SGD = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True}


@pytest.mark.parametrize("name", ["cifar10/saliencymix:wrn28_10", "cifar100/saliencymix:resnet50"])
def test_saliencymix_cifar_recipe_matches_paper(name):
    config = load_config(name)
    assert (config.batch_size, config.epochs, config.mixer["probs"]) == (128, 200, [0.5])
    assert config.optimizer == {**SGD, "weight_decay": 5e-4}
    assert config.schedule == {"type": "step", "milestones": [60, 120, 160], "gamma": 0.2}


def test_saliencymix_cifar_models_match_paper():
    assert load_config("cifar100/saliencymix:wrn28_10").model == {"type": "wrn-28-10", "dropout": 0.3}
    assert load_config("cifar10/saliencymix:resnet50").model == {"type": "cifar_resnet50"}


@pytest.mark.parametrize("name", ["imagenet/saliencymix:resnet50", "tiny_imagenet/resnet50_saliencymix"])
def test_saliencymix_imagenet_recipe_matches_paper(name):
    config = load_config(name)
    assert (config.batch_size, config.epochs, config.mixer["type"]) == (256, 300, "SaliencyMix")
    assert config.optimizer == {**SGD, "weight_decay": 1e-4}
    assert config.schedule == {"type": "step", "milestones": [75, 150, 225], "gamma": 0.1}
    assert config.train_pipeline == {"color_jitter": 0.4, "pca_lighting": 0.1}


@pytest.mark.parametrize(
    "name", [n for n in list_recipes() if re.search("mix$|mix:", n) and not n.startswith("multilabel")]
)
def test_published_mixers_draw_per_batch(name):
    """The published figures were measured with one box, or one size, per batch."""
    mixer = load_config(name).mixer
    assert (mixer["mixers"][0] if mixer["type"] == "MixChoice" else mixer)["per_batch"] is True
