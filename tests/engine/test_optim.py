"""Optimizers: parameter groups and refused optimizers. All other optimizers take steps and resume."""

import pytest
import torch
from torch import nn

from dali_mix.engine.build import build_model
from dali_mix.engine.config.recipe_files import load_config
from dali_mix.engine.train.optim import OPTIMIZERS, build_optimizer, parameter_groups
from tests.engine.synthetic import TinyNet, recipe, train_synthetic

CPU = torch.device("cpu")


def groups(name, num_classes):
    """Return {(learning rate, weight decay): parameter names} of a recipe's optimizer, and the trainable names."""
    config = load_config(f"multilabel/{name}")
    with torch.device("meta"):
        model = build_model(config, num_classes)
    optimizer = build_optimizer(model, config.optimizer, config.paramwise, torch.device("meta"))
    names = {id(parameter): own for own, parameter in model.named_parameters()}
    made = {}
    for group in optimizer.param_groups:
        key = (group["lr"], group["weight_decay"])
        made.setdefault(key, set()).update(names[id(parameter)] for parameter in group["params"])
    return made, {own for own, parameter in model.named_parameters() if parameter.requires_grad}


class TestOptimizer:
    def test_parameter_groups(self):
        model = nn.ModuleDict(
            {"backbone": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), "head": nn.Linear(4, 2)}
        )
        groups = parameter_groups(
            model, lr=1.0, weight_decay=0.1, norm_decay=0.0, bias_decay=0.01, custom={"backbone": {"lr_mult": 0.1}}
        )
        found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
        named = {name: found[id(p)] for name, p in model.named_parameters()}
        assert named["backbone.0.weight"] == named["backbone.1.bias"] == (0.1, 0.1)
        assert named["head.weight"] == (1.0, 0.1)
        assert named["head.bias"] == (1.0, 0.01)
        groups = parameter_groups(model, lr=1.0, weight_decay=0.1, norm_decay=0.0, bias_decay=0.01)
        found = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
        decays = [found[id(p)] for p in model.parameters()]
        assert decays == [0.1, 0.01, 0.0, 0.0, 0.1, 0.01]

    @pytest.mark.parametrize(
        ("settings", "paramwise", "match"),
        [
            ({"type": "SGDD", "lr": 1}, {}, "must be one of .*did you mean SGD"),
            ({"type": "SGD", "lr": 1, "momentun": 1}, {}, "did you mean momentum"),
            ({"type": "SGD", "lr": 1}, {"custom": {"hed": {"lr_mult": 1}}}, "did you mean head"),
            ({"type": "SGD", "lr": 1}, {"custom": {"head": {"lr": 1}}}, "unknown key 'lr'; known: decay_mult, lr_mult"),
        ],
    )
    def test_wrong_settings_are_named(self, settings, paramwise, match):
        with pytest.raises(ValueError, match=match):
            build_optimizer(TinyNet(4), settings, paramwise, CPU)


@pytest.mark.parametrize(
    ("name", "num_classes", "backbone", "head", "decay"),
    [
        ("voc2007_csra_resnet101", 20, 0.01, 0.1, 1e-4),
        ("coco_csra_vit_l16", 80, 0.01, 0.1, 1e-4),
        ("wider_msl_tresnet_m", 14, 0.01, 0.1, 1e-4),
        ("coco_splicemix_resnet101", 80, 0.005, 0.05, 1e-4),
        ("voc2007_splicemix_cl_resnet101", 20, 0.001, 0.01, 1e-4),
    ],
)
def test_learning_rates_of_backbone_and_head(name, num_classes, backbone, head, decay):
    made, trained = groups(name, num_classes)
    parts = {(round(lr, 12), wd): {own.partition(".")[0] for own in names} for (lr, wd), names in made.items()}
    assert parts == {(backbone, decay): {"backbone"}, (head, decay): {"head"}}
    assert set.union(*made.values()) == trained


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"type": "LBFGS"}, "optimizer LBFGS cannot take a step .*closure.*use SGD with momentum or"),
        ({"type": "SparseAdam"}, "optimizer SparseAdam cannot take a step .*dense gradients.*use SGD"),
        ({"type": "Muon"}, r"optimizer Muon: .*2D.*use SGD with momentum|type='Muon': must be one of"),
        ({"type": "Adam", "capturable": True}, "optimizer Adam cannot take a step with .*capturable"),
        ({"type": "SGD", "differentiable": True}, "optimizer SGD cannot take a step with .*differentiable"),
        ({"type": "FusedAdam"}, "optimizer.type='FusedAdam': must be one of .*did you mean .*Adam"),
        ({"type": "FusedLAMB"}, "optimizer.type='FusedLAMB': must be one of"),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_unsupported_optimizers_are_refused_by_name(settings, word):
    with pytest.raises(ValueError, match=word):
        build_optimizer(TinyNet(4), {**settings, "lr": 1.0}, {}, CPU)


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS.keys() - {"LBFGS", "SparseAdam", "Muon"}))
def test_supported_optimizers_step_and_resume(tmp_path, kind):
    settings = {"type": kind, "lr": 1e-3}
    train_synthetic(recipe(optimizer=settings, max_steps=6), tmp_path / "run")
    assert train_synthetic(recipe(optimizer=settings), tmp_path / "run", resume="must") == "finished"
