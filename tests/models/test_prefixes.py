"""Weight files of other trainers: key prefixes, wrappers around the state dict, several sets of weights."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from dali_mix.cli.main import main
from dali_mix.models import build_model, build_multilabel, load_weights, read_state_dict
from dali_mix.models.weights.prefixes import best_prefix


def make(seed=0, num_classes=5):
    torch.manual_seed(seed)
    return build_model("wrn-10-1", num_classes)


def same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


def prefixed(model, prefix):
    return {f"{prefix}{key}": value for key, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "prefix",
    [
        *(
            "model.",
            "module.",
            "_orig_mod.",
            "net.",
            "backbone.",
            "encoder.",
            "0.",
            "anything.at_all.",
            "module.model.",
        ),
        *("module._orig_mod.", "_orig_mod.module.", "model.module._orig_mod.net.", "_forward_module.model."),
        "_fsdp_wrapped_module.model._fsdp_wrapped_module.",
    ],
)
@pytest.mark.parametrize("save", [torch.save, save_file])
def test_prefix_is_removed_and_reported(tmp_path, prefix, save):
    saved, model = make(1), make(2)
    save(prefixed(saved, prefix), tmp_path / "w")
    report = load_weights(model, tmp_path / "w")
    assert same(model, saved)
    assert report.share == 1 and not report.unexpected
    assert report.prefix == prefix and f"prefix {prefix!r} removed" in str(report)


def test_plain_keys_report_no_prefix(tmp_path):
    torch.save(make(1).state_dict(), tmp_path / "w")
    report = load_weights(make(2), tmp_path / "w")
    assert report.prefix == "" and "removed" not in str(report)


@pytest.mark.parametrize("inserted", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."])
def test_wrapper_names_inside_keys_are_removed(tmp_path, inserted):
    """The blocks were compiled, sharded or checkpointed individually."""
    saved, model = make(1), make(2)
    state = {re.sub(r"^(layer\d\.)", rf"\1{inserted}", key): value for key, value in saved.state_dict().items()}
    assert sum(inserted in key for key in state) > 10
    torch.save({"state_dict": {f"model.{key}": value for key, value in state.items()}}, tmp_path / "w")
    load_weights(model, tmp_path / "w")
    assert same(model, saved)


def test_lightning_checkpoint_loads(tmp_path):
    saved, model = make(1), make(2)
    state = {**prefixed(saved, "model."), "loss_fn.weight": torch.ones(5), "val_acc.total": torch.zeros(())}
    adam = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}
    content = {"epoch": 3, "pytorch-lightning_version": "2.5", "state_dict": state, "optimizer_states": [adam]}
    torch.save({**content, "hyper_parameters": {"lr": 0.1}, "callbacks": {}}, tmp_path / "last.ckpt")
    report = load_weights(model, tmp_path / "last.ckpt")
    assert same(model, saved)
    assert (report.prefix, report.wrapper) == ("model.", "state_dict")
    assert report.unexpected == ("loss_fn.weight", "val_acc.total")


def test_averaged_model_loads(tmp_path):
    """AveragedModel adds `n_averaged`; torchvision's references save its state dict as `model_ema`."""
    saved, model = make(1), make(2)
    average = AveragedModel(nn.Sequential(saved)).state_dict()
    torch.save({"model_ema": average, "epoch": 1}, tmp_path / "w")
    report = load_weights(model, tmp_path / "w")
    assert same(model, saved) and report.unexpected == ("n_averaged",) and report.prefix == "module.0."


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model_ema": state, "epoch": 1},
        lambda state: {"state_dict_ema": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
        lambda state: {"ema": {"module": state, "decay": 0.9}},
        lambda state: {"module": state, "global_steps": 3},
        lambda state: {"net": state, "rng": {"cpu": torch.zeros(4), "cuda": torch.zeros(4)}},
        lambda state: {"steps": torch.tensor(3), "weights": state},
    ],
)
def test_state_dict_under_any_key_loads(tmp_path, wrap):
    saved, model = make(1), make(2)
    torch.save(wrap(prefixed(saved, "module.")), tmp_path / "w")
    load_weights(model, tmp_path / "w")
    assert same(model, saved)


@pytest.mark.parametrize(("first", "second"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_unread_average_is_reported(tmp_path, first, second):
    saved, model = make(1), make(2)
    torch.save({second: make(3).state_dict(), first: saved.state_dict()}, tmp_path / "w")
    report = load_weights(model, tmp_path / "w")
    assert same(model, saved)
    assert report.unread == (second,) and f"read from '{first}'; not read: {second}" in str(report)


def test_two_state_dicts_under_unknown_keys_are_refused(tmp_path):
    """The advice in the message gives a file that loads."""
    student, model = make(1), make(2)
    torch.save({"student": student.state_dict(), "teacher": make(3).state_dict()}, tmp_path / "w")
    with pytest.raises(ValueError, match="contains weights under student and teacher") as error:
        load_weights(model, tmp_path / "w")
    code = re.search(r"(torch\.save\(.*, PATH\))", str(error.value))[1]
    exec(code, {"torch": torch, "checkpoint": torch.load(tmp_path / "w"), "PATH": tmp_path / "one"})
    load_weights(model, tmp_path / "one")
    assert same(model, student)


@pytest.mark.parametrize(("one", "two"), [("student.", "teacher."), ("encoder_q.", "encoder_k."), ("a.b.", "ema.")])
def test_two_models_under_prefixes_are_refused(tmp_path, one, two):
    model, before, other = make(2), make(2), make(3)
    torch.save({**prefixed(make(1), one), **prefixed(other, two), "queue": torch.zeros(9)}, tmp_path / "w")
    with pytest.raises(ValueError, match="fitting weights under") as error:
        load_weights(model, tmp_path / "w")
    assert repr(one) in str(error.value) and repr(two) in str(error.value)
    assert same(model, before)
    kept = re.search(r"weights under '(.*?)'", str(error.value))[1]
    code = re.search(r"(torch\.save\(.*, PATH\))", str(error.value))[1]
    exec(code, {"torch": torch, "state": torch.load(tmp_path / "w"), "PATH": tmp_path / "one"})
    load_weights(model, tmp_path / "one")
    assert same(model, {one: make(1), two: other}[kept])


def test_same_weights_under_two_prefixes_load(tmp_path):
    """A module with the model in two attributes saves it twice."""
    saved, model = make(1), make(2)
    torch.save({**prefixed(saved, "net."), **prefixed(saved, "model.")}, tmp_path / "w")
    load_weights(model, tmp_path / "w")
    assert same(model, saved)


def test_prefix_of_most_keys_is_removed(tmp_path):
    """The classifier is outside the wrapped part."""
    saved, model = make(1), make(2)
    state = {key if key.startswith("linear.") else f"features.{key}": v for key, v in saved.state_dict().items()}
    torch.save(state, tmp_path / "w")
    report = load_weights(model, tmp_path / "w")
    assert same(model, saved) and report.prefix == "features." and not report.unexpected


def test_prefixed_head_with_other_classes_stays_fresh(tmp_path):
    model, before = make(2), make(2)
    torch.save(prefixed(make(1, num_classes=9), "model."), tmp_path / "w")
    report = load_weights(model, tmp_path / "w")
    assert report.fresh == ("linear.weight", "linear.bias") and torch.equal(model.linear.weight, before.linear.weight)


def test_prefixed_model_of_other_size_error_lists_shapes(tmp_path):
    torch.save(prefixed(build_model("wrn-10-2", 5), "model."), tmp_path / "w")
    with pytest.raises(ValueError, match=r"mis-shaped: .*\(32, 16, 3, 3\) in the file, \(16, 16, 3, 3\) in the model"):
        load_weights(make(), tmp_path / "w")


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_backbone_loads_from_complete_model(tmp_path, prefix):
    whole, model = (build_multilabel("resnet10t", "csra", num_classes=k) for k in (4, 6))
    torch.save({"state_dict": prefixed(whole, prefix)}, tmp_path / "w")
    report = load_weights(model.backbone, tmp_path / "w")
    assert same(model.backbone, whole.backbone) and report.prefix == f"{prefix}backbone."
    assert all(".head." in f".{key}" for key in report.unexpected) and report.unexpected


@pytest.mark.parametrize(
    ("origin", "name"), [(["timm"], "timm/resnet18"), (["torchvision", "--model", "torchvision/mobilenet_v2"], "")]
)
def test_convert_removes_prefixes(tmp_path, capsys, origin, name):
    torch.manual_seed(1)
    saved = build_model(name or origin[-1], 5)
    torch.save({"state_dict": {**prefixed(saved, "model."), "loss_fn.weight": torch.ones(5)}}, tmp_path / "w.ckpt")
    assert main(["convert", "--from", *origin, str(tmp_path / "w.ckpt"), str(tmp_path / "out.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "prefix 'model.' removed" in said and "left out: loss_fn.weight" in said
    found = read_state_dict(tmp_path / "out.safetensors")
    assert found.keys() == saved.state_dict().keys()
    assert all(torch.equal(value, found[key]) for key, value in saved.state_dict().items())


@pytest.mark.parametrize(("fitting", "prefix"), [(1, ""), (2, "body."), (4, "body.")])
def test_prefix_must_fit_half_of_model(fitting, prefix):
    wanted = {name: torch.zeros(2) for name in "abcd"}
    found = {f"body.{name}": torch.zeros(2) for name in "abcd"[:fitting]}
    assert best_prefix(found, wanted) == prefix
