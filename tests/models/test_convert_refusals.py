"""Checkpoints that do not fit a release are refused, and errors use the names from the file."""

import re

import pytest
import torch

from dali_mix.models import build_model
from dali_mix.models.weights.convert import to_ours, to_theirs
from dali_mix.models.weights.layouts import LAYOUTS
from tests.models.released import (
    same,
    small,
)

EDITS = [
    ("msl", "layer1.0.conv1.weight", None, "missing"),
    ("msl", "classifier.multi_head.0.head.weight", None, "not a checkpoint of msl"),
    ("msl", "layer4.2.conv1.weight", (512, 512, 3, 3), "unexpected"),
    ("msl", "classifier.bias", (5,), "unexpected"),
    ("msl", "classifier.multi_head.2.head.weight", (5, 512, 1, 1), "numbered from 0"),
    ("msl", "classifier.multi_head.1.head.weight", (4, 512, 1, 1), "all of one shape"),
    ("splicemix", "backbone.7.0.conv1.weight", None, "missing"),
    ("splicemix", "backbone.3.weight", (4,), "unexpected"),
    ("splicemix", "cls.weight", (5, 256), "mis-shaped"),
    ("splicemix", "backbone.1.num_batches_tracked", None, "missing"),
    ("sgre", "fc2.0.bias", None, "missing"),
    ("sgre", "net5.0.weight", (2, 2), "unexpected"),
    ("sgre", "encoder.layers.1.linear1.weight", (2, 2), "unexpected"),
    ("sgre", "attention.linear1.weight", (8, 512), "mis-shaped"),
    ("torchvision", "fc.bias", None, "missing"),
    ("torchvision", "layer2.1.bn3.weight", (128,), "unexpected"),
    ("timm", "blocks.11.mlp.fc2.bias", None, "missing"),
    ("timm", "blocks.12.norm1.weight", (192,), "unexpected"),
    ("timm", "blocks.3.attn.qkv.weight", (192, 192), "mis-shaped"),
    ("resizemix", "layer2.0.shortcut.0.bias", None, "missing"),
    ("resizemix", "linear.weight", (5, 32), "mis-shaped"),
]


@pytest.mark.parametrize(("release", "key", "shape", "kind"), EDITS)
def test_mismatched_keys_are_named_as_in_file(release, key, shape, kind):
    state = small(release)
    if shape is None:
        del state[key]
    else:
        state[key] = torch.zeros(shape)
    with pytest.raises(ValueError) as caught:
        to_ours(state, release)
    message = str(caught.value)
    assert kind in message and "\n" not in message
    assert re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.]*\w)", message), message


RIGHT = {  # release of the state → releases with the same keys
    "msl": ["msl", "csra"],
    "splicemix": ["splicemix"],
    "sgre": ["sgre"],
    "torchvision": ["splicemix", "resizemix", "saliencymix", "torchvision", "timm"],
    "timm": ["timm"],
    "resizemix": ["resizemix", "saliencymix"],
}
WRONG = [(release, wrong) for release, right in RIGHT.items() for wrong in LAYOUTS if wrong not in right]


@pytest.mark.parametrize(("release", "wrong"), WRONG)
def test_wrong_release_error_names_right_one(release, wrong):
    with pytest.raises(ValueError, match=rf"--from {' or '.join(RIGHT[release])}$"):
        to_ours(small(release), wrong)


@pytest.mark.parametrize("release", ["msl", "splicemix", "sgre"])
@pytest.mark.parametrize("wrong", ["msl", "splicemix", "sgre"])
def test_error_for_own_layout_suggests_from_dali_mix(release, wrong):
    with pytest.raises(ValueError, match=r"--from dali_mix$"):
        to_ours(to_ours(small(release), release).state, wrong)


def test_unsupported_number_of_csra_heads_is_refused():
    state = small("msl")
    for i in (1, 2):
        state[f"classifier.multi_head.{i}.head.weight"] = torch.zeros(5, 512, 1, 1)
    with pytest.raises(ValueError, match="num_heads=3: must be one of 1, 2, 4, 6, 8"):
        to_ours(state, "msl")


def test_library_checkpoint_converts_with_model_option():
    state = build_model("timm/resnet10t", 4).state_dict()
    with pytest.raises(ValueError, match=r"would be resnet18.*unexpected: conv1\.0\.weight.*pass --model NAME"):
        to_ours(state, "timm")
    converted = to_ours(state, "timm", model="timm/resnet10t")
    assert converted.model.num_classes == 4 and same(converted.state, state)
    assert same(to_theirs(state, "timm", model="timm/resnet10t").state, state)
    with pytest.raises(ValueError, match="can be written as timm"):
        to_theirs(state, "torchvision", model="timm/resnet10t")
    with pytest.raises(ValueError, match=r"1 unexpected: conv9\.weight"):
        to_ours({**state, "conv9.weight": torch.zeros(1)}, "timm", model="timm/resnet10t")
    with pytest.raises(ValueError, match=r"no head\.fc\.weight, which timm/convnext_atto"):
        to_ours(state, "timm", model="timm/convnext_atto")
    with pytest.raises(ValueError, match="no model is called 'timm/resnet10x'"):
        to_ours(state, "timm", model="timm/resnet10x")


def test_multilabel_checkpoint_converts_with_model_option():
    body = build_model("timm/resnet10t", 1).state_dict()
    given = {key: value for key, value in body.items() if not key.startswith("fc.")}
    given["classifier.multi_head.0.head.weight"] = torch.randn(3, 512, 1, 1)
    with pytest.raises(ValueError, match="--model NAME"):
        to_ours(given, "msl")
    converted = to_ours(given, "msl", model="timm/resnet10t")
    assert same(to_theirs(converted.state, "msl", model="timm/resnet10t").state, given)


@pytest.mark.parametrize(
    ("release", "to", "able"),
    [
        ("msl", "splicemix", "msl, csra"),
        ("splicemix", "sgre", "splicemix"),
        ("resizemix", "timm", "resizemix, saliencymix"),
    ],
)
def test_release_without_matching_layout_is_refused(release, to, able):
    ours = to_ours(small(release), release).state
    with pytest.raises(ValueError, match=f"{to} has no layout for .*; it can be written as {able}$"):
        to_theirs(ours, to)
    ours.pop(next(key for key in ours if key.endswith("running_mean")))
    with pytest.raises(ValueError, match=r"1 missing: \S+running_mean"):
        to_theirs(ours, release)
