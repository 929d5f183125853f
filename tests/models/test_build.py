"""Models by name: layouts of released checkpoints, forward passes against plain formulas, options, wrong names."""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torchvision import models

from dali_mix.models import build_model, build_multilabel
from dali_mix.models.build import _maker
from dali_mix.models.zoo.shakeshake import ShakeBlock, ShakeShake, _Mix

LAYOUTS = json.loads((Path(__file__).parent / "data" / "layouts.json").read_text())


@pytest.mark.parametrize("release", LAYOUTS)
def test_layout_is_the_released_one(release):
    wanted = LAYOUTS[release]
    with torch.device("meta"):
        model = build_model(wanted["model"], wanted["num_classes"])
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert list(ours.items()) == list(wanted["state_dict"].items())
    assert sum(parameter.numel() for parameter in model.parameters()) == wanted["parameters"]


SMALL = ["wrn-10-1", "wrn-16-2", "cifar_resnet50", "shakeshake26_2x4d", "torchvision/resnet18", "timm/resnet10t"]


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_in_use_learns(name):
    torch.manual_seed(0)
    model = build_model(name, 7)
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    idle = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not idle, "DDP needs a gradient for each weight that wants one"
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.requires_grad)


@pytest.mark.parametrize("name", SMALL[:4])
def test_maps_before_pooling(name):
    model = build_model(name, 5).eval()
    images = torch.randn(2, 3, 40, 24)
    features = model.forward_features(images)
    head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    assert features.shape[2:] == ((5, 3) if name == "cifar_resnet50" else (10, 6))
    torch.testing.assert_close(model(images), head(features.mean((2, 3))))


@pytest.mark.parametrize("name", ["wrn-16-1", "cifar_resnet50", "shakeshake26_2x4d"])
def test_fresh_weights_keep_the_scale(name):
    torch.manual_seed(0)
    features = build_model(name, 10).train().forward_features(torch.randn(8, 3, 32, 32))
    assert 0.05 < features.std() < 30


def test_wide_block_by_hand():
    torch.manual_seed(0)
    model = build_model("wrn-10-2", 3).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    w = model.state_dict()
    images = torch.randn(2, 3, 12, 8)

    def norm(x, name):
        return F.batch_norm(x, *(w[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")))

    x = F.conv2d(images, w["conv1.weight"], w["conv1.bias"], padding=1)
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        name = f"layer{stage}.0"
        out = F.conv2d(F.relu(norm(x, f"{name}.bn1")), w[f"{name}.conv1.weight"], w[f"{name}.conv1.bias"], padding=1)
        out = F.relu(norm(out, f"{name}.bn2"))
        out = F.conv2d(out, w[f"{name}.conv2.weight"], w[f"{name}.conv2.bias"], padding=1, stride=stride)
        x = out + F.conv2d(x, w[f"{name}.shortcut.0.weight"], w[f"{name}.shortcut.0.bias"], stride=stride)
    wanted = F.relu(norm(x, "bn1")).mean((2, 3)) @ w["linear.weight"].T + w["linear.bias"]
    torch.testing.assert_close(model(images), wanted)


def test_dropout_drops_in_training_only():
    model = build_model("wrn-10-1", 3, dropout=0.5)
    images = torch.randn(4, 3, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("name", ["wrn-16-1", "cifar_resnet50", "shakeshake26_2x4d"])
def test_zero_init_makes_blocks_start_as_their_shortcut(name):
    model = build_model(name, 3, zero_init_residual=True).eval()
    channels = {"wrn-16-1": 16, "cifar_resnet50": 256, "shakeshake26_2x4d": 4}[name]
    x = torch.randn(2, channels, 8, 8).relu()
    torch.testing.assert_close(model.layer1[1](x), x)


def test_shake_mixes_forward_and_backward_by_different_shares():
    first, second = (torch.randn(3, 2, 4, 4, requires_grad=True) for _ in range(2))
    forward, backward = torch.tensor([0.0, 0.25, 1.0]), torch.tensor([0.5, 1.0, 0.25])
    out = _Mix.apply(first, second, forward.view(3, 1, 1, 1), backward.view(3, 1, 1, 1))
    torch.testing.assert_close(out[0], second[0])
    torch.testing.assert_close(out[1], 0.25 * first[1] + 0.75 * second[1])
    torch.testing.assert_close(out[2], first[2])
    out.sum().backward()
    for i, share in enumerate(backward.tolist()):
        torch.testing.assert_close(first.grad[i], torch.full_like(first[i], share))
        torch.testing.assert_close(second.grad[i], torch.full_like(first[i], 1 - share))


@pytest.mark.parametrize("shake", ["image", "batch"])
def test_shake_draws_per_image_or_per_batch(shake):
    # Branches giving constants 0 and 1 show the share that was drawn.
    block = ShakeBlock(4, 4, 1, shake)
    for branch, value in ((block.branch1, 1.0), (block.branch2, 0.0)):
        torch.nn.init.zeros_(branch[5].weight)
        torch.nn.init.constant_(branch[5].bias, value)
    shares = block(torch.zeros(16, 4, 3, 3))
    assert torch.equal(shares, shares[:, :1, :1, :1].expand_as(shares))
    per_image = shares[:, 0, 0, 0]
    assert per_image.unique().numel() == (16 if shake == "image" else 1)
    assert per_image.min() >= 0 and per_image.max() <= 1
    assert torch.equal(block.eval()(torch.zeros(16, 4, 3, 3)), torch.full((16, 4, 3, 3), 0.5))


def test_shake_shake_leaves_unused_shortcuts_alone():
    model = ShakeShake(4, 3)
    unused = [key for key, value in model.named_parameters() if not value.requires_grad]
    assert unused and all(".shortcut." in key and ".0.shortcut" not in key for key in unused)


def test_timm_and_torchvision_take_their_options():
    model = build_model("timm/vit_tiny_patch16_224", 5, img_size=32, drop_path_rate=0.1)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 5)
    model = build_model("torchvision/resnet18", 5, zero_init_residual=True)
    assert (model.layer1[0].bn2.weight == 0).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wrn-28_10", {}, r"no model is called 'wrn-28_10'.*wrn-28-10"),
        ("resnet50", {}, r"did you mean .*torchvision/resnet50|did you mean .*resnet50"),
        ("timm/resnet5O", {}, r"did you mean .*timm/resnet50"),
        ("torchvision/resnet55", {}, r"did you mean .*torchvision/resnet50"),
        ("torchvision/fasterrcnn_resnet50_fpn", {}, r"no model is called"),
        ("wrn-27-10", {}, r"depth=27"),
        ("wrn-28-0", {}, r"widen=0"),
        ("wrn-16-2", {"dropout": 1.0}, r"dropout=1.0"),
        ("wrn-16-2", {"drop_out": 0.1}, r"drop_out"),
        ("cifar_resnet34", {}, r"depth=34.*50, 101"),
        ("shakeshake26_2x5d", {}, r"width=5"),
        ("shakeshake26_2x4d", {"shake": "row"}, r"shake='row'"),
        ("timm/resnet10t", {"nonsense": 1}, r"nonsense"),
        ("timm/resnet10t", {"pretrained": True}, r"not downloaded"),
        ("torchvision/resnet18", {"weights": "DEFAULT"}, r"not downloaded"),
    ],
)
def test_refusals_say_why(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, 10, **options)


class Runs:
    """What a pickle would call."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.mkdir, (Path(self.mark),)


@pytest.mark.parametrize(
    "option",
    [
        *("checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_filter_fn"),
        *("pretrained_strict", "pretrained_model_args", "pretrained", "model_cfg", "kwargs_filter", "features_only"),
        *("file", "url", "hf_hub_id", "hf_hub_filename", "state_dict", "weights", "progress", "weights_backbone"),
    ],
)
@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/resnet18", "wrn-10-1"])
def test_no_option_loads_or_fetches(tmp_path, name, option):
    torch.save({"state_dict": Runs(tmp_path / "ran")}, tmp_path / "w.pth")
    path = str(tmp_path / "w.pth")
    for value in (path, {"file": path}, {"url": path}):
        with pytest.raises(ValueError, match=f"has no option '{option}'"):
            build_model(name, 2, **{option: value})
        with pytest.raises(ValueError, match=f"has no option '{option}'"):
            build_multilabel(name, "max", num_classes=2, backbone_options={option: value})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name",
    [
        *(
            "timm/hf-hub:timm/resnet18",
            "timm/hf_hub:timm/resnet18",
            "hf-hub:timm/resnet18",
            "timm/local-dir:/tmp/model",
        ),
        *("timm/resnet18.hf-hub:some/one", "timm/./resnet18", "timm/", "torchvision/", "torchvision/../resnet18"),
    ],
)
def test_names_are_those_of_the_registries_alone(name):
    with pytest.raises(ValueError, match="no model is called"):
        build_model(name, 2)


def test_options_of_no_library_model_load_or_fetch():
    """Every name of timm and torchvision: what their functions take beside the options of the models is left out."""
    functions = (timm.create_model, timm.models.build_model_with_cfg, timm.models.load_pretrained, models.resnet18)
    refused = {option for function in functions for option in inspect.signature(function).parameters}
    refused |= {field.name for field in dataclasses.fields(timm.models.PretrainedCfg) if "hub" in field.name}
    refused |= {"url", "file", "state_dict", "source", "custom_load"}
    refused -= {"num_classes", "in_chans"}  # of the models too
    names = [f"timm/{name}" for name in timm.list_models()]
    names += [f"torchvision/{name}" for name in models.list_models(module=models)]
    for name in names:
        assert not _maker(name)[1] & refused, name
    assert {"drop_path_rate", "img_size", "dynamic_img_size", "act_layer"} <= _maker("timm/vit_tiny_patch16_224")[1]
    assert {"output_stride", "avg_down", "drop_block_rate"} <= _maker("timm/resnet10t")[1]


def test_a_model_has_classes():
    with pytest.raises(ValueError, match="num_classes=0"):
        build_model("wrn-16-2", 0)
