"""Building models by name: layouts of released checkpoints, options, wrong names, options that would load files."""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest
import timm
import torch
from torchvision import models

from dali_mix.models import build_model, build_multilabel
from dali_mix.models.build import _maker

LAYOUTS = json.loads((Path(__file__).parent / "data" / "layouts.json").read_text())


@pytest.mark.parametrize("release", LAYOUTS)
def test_state_dict_layout_matches_release(release):
    wanted = LAYOUTS[release]
    with torch.device("meta"):
        model = build_model(wanted["model"], wanted["num_classes"])
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert list(ours.items()) == list(wanted["state_dict"].items())
    assert sum(parameter.numel() for parameter in model.parameters()) == wanted["parameters"]


SMALL = ["wrn-10-1", "wrn-16-2", "cifar_resnet50", "shakeshake26_2x4d", "torchvision/resnet18", "timm/resnet10t"]


@pytest.mark.parametrize("name", SMALL)
def test_every_trainable_weight_gets_a_gradient(name):
    torch.manual_seed(0)
    model = build_model(name, 7)
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    idle = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not idle, "DDP needs a gradient for each trainable weight"
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.requires_grad)


def test_timm_and_torchvision_options_are_passed_on():
    model = build_model("timm/vit_tiny_patch16_224", 5, img_size=32, drop_path_rate=0.1)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 5)
    model = build_model("torchvision/resnet18", 5, zero_init_residual=True)
    assert (model.layer1[0].bn2.weight == 0).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wrn-28_10", {}, r"no model is called 'wrn-28_10'.*wrn-28-10"),
        ("resnet50", {}, r"did you mean timm/resnet50 or torchvision/resnet50"),
        ("timm/resnet5O", {}, r"did you mean .*timm/resnet50"),
        ("torchvision/resnet55", {}, r"did you mean .*torchvision/resnet50"),
        ("torchvision/fasterrcnn_resnet50_fpn", {}, r"no model is called"),
        ("wrn-27-10", {}, r"depth=27"),
        ("wrn-28-0", {}, r"widen=0"),
        ("wrn-16-2", {"dropout": 1.0}, r"dropout=1.0"),
        ("wrn-16-2", {"drop_out": 0.1}, r"drop_out"),
        ("cifar_resnet34", {}, r"depth=34.*50, 101"),
        ("shakeshake26_2x5d", {}, r"width=5"),
        ("timm/resnet10t", {"nonsense": 1}, r"nonsense"),
        ("timm/resnet10t", {"pretrained": True}, r"not downloaded"),
        ("torchvision/resnet18", {"weights": "DEFAULT"}, r"not downloaded"),
    ],
)
def test_build_model_refuses_invalid_names_and_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, 10, **options)


class Payload:
    """An object that creates a folder when it is unpickled."""

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
def test_loading_and_download_options_are_refused(tmp_path, name, option):
    torch.save({"state_dict": Payload(tmp_path / "ran")}, tmp_path / "w.pth")
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
def test_names_outside_registries_are_refused(name):
    with pytest.raises(ValueError, match="no model is called"):
        build_model(name, 2)


def test_no_library_model_accepts_loading_options():
    """Check for every model of timm and torchvision that options for loading or downloading are excluded."""
    functions = (timm.create_model, timm.models.build_model_with_cfg, timm.models.load_pretrained, models.resnet18)
    refused = {option for function in functions for option in inspect.signature(function).parameters}
    refused |= {field.name for field in dataclasses.fields(timm.models.PretrainedCfg) if "hub" in field.name}
    refused |= {"url", "file", "state_dict", "source", "custom_load"}
    refused -= {"num_classes", "in_chans"}  # also options of the models
    names = [f"timm/{name}" for name in timm.list_models()]
    names += [f"torchvision/{name}" for name in models.list_models(module=models)]
    for name in names:
        assert not _maker(name)[1] & refused, name
    assert {"drop_path_rate", "img_size", "dynamic_img_size", "act_layer"} <= _maker("timm/vit_tiny_patch16_224")[1]
    assert {"output_stride", "avg_down", "drop_block_rate"} <= _maker("timm/resnet10t")[1]


def test_zero_classes_are_refused():
    with pytest.raises(ValueError, match="num_classes=0"):
        build_model("wrn-16-2", 0)
