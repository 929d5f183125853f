"""Loading weights into models: wrappers, reports, heads with other classes, files that do not fit."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from dali_mix.models import build_detector, build_model, load_weights


def make(num_classes=5, seed=0):
    torch.manual_seed(seed)
    return build_model("wrn-10-1", num_classes)


def same(model, other, but=()):
    ours, theirs = model.state_dict(), other.state_dict()
    return all(torch.equal(ours[key], theirs[key]) for key in ours if key not in but)


def wrap(state, way):
    return {
        "plain": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "model": {"model": state, "optimizer": {"lr": 0.1}},
        "model_state_dict": {"model_state_dict": state},
        "nested": {"model": {"state_dict": state}},
        "module": {f"module.{key}": value for key, value in state.items()},
        "compiled ddp": {"state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}},
    }[way]


@pytest.mark.parametrize(
    "way", ["plain", "state_dict", "model", "model_state_dict", "nested", "module", "compiled ddp"]
)
def test_wrappers_and_prefixes_are_removed(tmp_path, way):
    saved, model = make(seed=1), make(seed=2)
    torch.save(wrap(saved.state_dict(), way), tmp_path / "w.pth")
    assert not same(model, saved)
    report = load_weights(model, tmp_path / "w.pth")
    assert same(model, saved)
    assert len(report.matched) == len(saved.state_dict())
    assert not (report.missing or report.misshaped or report.fresh or report.unexpected)
    assert report.share == 1


def test_safetensors_load_with_any_file_name(tmp_path):
    saved, model = make(seed=1), make(seed=2)
    save_file(saved.state_dict(), tmp_path / "weights.bin")
    load_weights(model, tmp_path / "weights.bin")
    assert same(model, saved)


@pytest.mark.parametrize(
    ("source", "target", "used"),
    [
        ("torchvision/resnet34", "torchvision/resnet18", "51%"),
        ("timm/resnet34", "timm/resnet18", "51%"),
        ("torchvision/resnet18", "torchvision/resnet18", None),
    ],
)
def test_larger_architecture_gives_warning(tmp_path, source, target, used):
    torch.save({f"module.{k}": v for k, v in build_model(source, 7).state_dict().items()}, tmp_path / "w.pth")
    model = build_detector(target, 3, channels=16, hidden=16).get_submodule("backbone.body")
    report = load_weights(model, tmp_path / "w.pth", min_match=0.95)
    assert report.share == 1
    if used is None:
        assert report.unexpected == ("fc.weight", "fc.bias") and not report.warning
    else:
        start = f"only {used} of the weights (100 of 196 tensors) are used: the file is from a larger architecture"
        assert report.warning.startswith(f"{start}, with layer1.2.conv1.weight, ") and report.warning in str(report)


def test_values_are_cast_to_model_dtype(tmp_path):
    saved, model = make(seed=1), make(seed=2)
    torch.save(
        {key: value.double() if value.is_floating_point() else value for key, value in saved.state_dict().items()},
        tmp_path / "w.pth",
    )
    load_weights(model, tmp_path / "w.pth")
    assert same(model, saved)
    assert model.conv1.weight.dtype == torch.float32


def test_head_with_other_classes_stays_fresh_and_is_reported(tmp_path):
    saved, model, before = make(10, seed=1), make(5, seed=2), make(5, seed=2)
    torch.save(saved.state_dict(), tmp_path / "w.pth")
    report = load_weights(model, tmp_path / "w.pth")
    assert report.fresh == ("linear.weight", "linear.bias")
    assert "2 left fresh" in str(report) and "fresh: linear.weight, linear.bias" in str(report)
    assert torch.equal(model.linear.weight, before.linear.weight)
    assert torch.equal(model.conv1.weight, saved.conv1.weight)
    with pytest.raises(ValueError, match=r"linear\.weight: \(10, 64\) in the file, \(5, 64\) in the model"):
        load_weights(model, tmp_path / "w.pth", strict_head=True)


@pytest.mark.parametrize("name", ["timm/resnet10t", "timm/vit_tiny_patch16_224", "torchvision/mobilenet_v3_small"])
def test_heads_of_timm_and_torchvision_stay_fresh(tmp_path, name):
    options = {"img_size": 32} if "vit" in name else {}
    torch.save(build_model(name, 3, **options).state_dict(), tmp_path / "w.pth")
    report = load_weights(build_model(name, 4, **options), tmp_path / "w.pth")
    assert len(report.fresh) == 2
    assert all(key.split(".")[0] in ("fc", "head", "classifier") for key in report.fresh)


def test_missing_or_misshaped_keys_are_listed_and_load_nothing(tmp_path):
    state = make(seed=1).state_dict()
    del state["layer2.0.conv1.weight"]
    torch.save(state, tmp_path / "missing.pth")
    model, before = make(seed=2), make(seed=2)
    with pytest.raises(ValueError, match=r"missing\.pth: .*1 missing: layer2\.0\.conv1\.weight"):
        load_weights(model, tmp_path / "missing.pth")
    state = make(seed=1).state_dict()
    state["conv1.weight"] = torch.zeros(16, 3, 5, 5)
    torch.save(state, tmp_path / "shape.pth")
    for min_match in (1.0, 0.5):
        with pytest.raises(ValueError, match=r"mis-shaped: conv1\.weight: \(16, 3, 5, 5\) in the file"):
            load_weights(model, tmp_path / "shape.pth", min_match=min_match)
    assert same(model, before)


def test_min_match_allows_missing_keys(tmp_path):
    state = make(seed=1).state_dict()
    del state["layer2.0.conv1.weight"]
    torch.save({**state, "extra.weight": torch.zeros(1)}, tmp_path / "w.pth")
    model = make(seed=2)
    report = load_weights(model, tmp_path / "w.pth", min_match=0.95)
    assert report.missing == ("layer2.0.conv1.weight",)
    assert report.unexpected == ("extra.weight",)
    assert torch.equal(model.conv1.weight, state["conv1.weight"])
    with pytest.raises(ValueError, match="99% must"):
        load_weights(model, tmp_path / "w.pth", min_match=0.99)


def test_file_of_another_model_is_refused(tmp_path):
    torch.save(build_model("torchvision/resnet18", 5).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="of the model's weights fit") as caught:
        load_weights(make(), tmp_path / "w.pth", min_match=0.95)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000


def test_batch_norm_counters_may_be_missing(tmp_path):
    saved, model = make(seed=1), make(seed=2)
    state = {key: value for key, value in saved.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "w.pth")
    assert not load_weights(model, tmp_path / "w.pth").missing
    assert same(model, saved)


def test_counters_of_frozen_batch_norms_are_not_unexpected(tmp_path):
    frozen = nn.Sequential(FrozenBatchNorm2d(3))
    state = {**nn.Sequential(nn.BatchNorm2d(3)).state_dict(), "9.num_batches_tracked": torch.tensor(1)}
    torch.save(state, tmp_path / "w.pth")
    report = load_weights(frozen, tmp_path / "w.pth")
    assert report.share == 1 and report.unexpected == ("9.num_batches_tracked",)
    assert load_weights(FrozenBatchNorm2d(3), tmp_path / "w.pth").unexpected == ("9.num_batches_tracked",)
