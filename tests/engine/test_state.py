"""Resuming with another recipe: state that cannot be carried over is refused, other changes are named beforehand."""

import shutil

import pytest
import torch

from dali_mix.engine.checkpoint.files import load_checkpoint, save_checkpoint
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.run import evaluate_checkpoint
from dali_mix.engine.train.optim import kept_by
from tests.engine.processes import newest_state
from tests.engine.synthetic import TinyNet, make_loaders, recipe, train_synthetic

SGD = {"type": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
ADAMW = {"type": "AdamW", "lr": 1e-3}
HALF = {name: {"custom": {name: {"lr_mult": 0.5}}} for name in ("conv", "head.bias")}


def train_part(work_dir, **changes):
    """Train 6 of a run's 15 steps."""
    train_synthetic(recipe(max_steps=6, **changes), work_dir)


def resume_run(work_dir, **changes):
    return train_synthetic(recipe(**changes), work_dir, resume="must")


class Other(TinyNet):
    """A different model with the same tensors as TinyNet."""


@pytest.fixture(scope="module")
def partial_run(tmp_path_factory):
    """Return the work directory of a run made by `train_part`, for tests to copy."""
    work_dir = tmp_path_factory.mktemp("made") / "run"
    train_part(work_dir)
    return work_dir


def drop(key):
    return lambda state: state.pop(key)


def put(value, *path):
    def change(state):
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return change


def evaluates_or_names_file(path, ema):
    """Return True if a checkpoint can be evaluated, or if the error names it."""
    try:
        return "top1" in evaluate_checkpoint(make_config(recipe()), path, ema=ema, make_loaders=make_loaders).values
    except ValueError as error:
        return path.name in str(error)


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        ({}, {"optimizer": ADAMW}, r"trained with optimizer SGD\(lr=0\.05, .*the recipe now says AdamW\(lr=0\.001\)"),
        ({"optimizer": ADAMW}, {}, r"trained with optimizer AdamW\(lr=0\.001\), the recipe now says SGD\("),
        ({"optimizer": ADAMW}, {"optimizer": {"type": "RMSprop", "lr": 1e-3}}, r"AdamW.*now says RMSprop"),
        ({"optimizer": {"type": "Adam", "lr": 1e-3}}, {"optimizer": ADAMW}, r"optimizer Adam\(.*now says AdamW"),
        ({"optimizer": ADAMW}, {"optimizer": {**ADAMW, "amsgrad": True}}, r"stores .*max_exp_avg_sq.* per parameter"),
        ({}, {"optimizer": {"type": "SGD", "lr": 0.05}}, "which stores nothing per parameter, not momentum_buffer"),
        ({"paramwise": HALF["conv"]}, {"paramwise": HALF["head.bias"]}, "the recipe's has 2, with other parameters"),
        ({"ema": None}, {}, r"trained with ema=None, the recipe now says ema=0\.99"),
        ({}, {"ema": None}, r"trained with ema=0\.99, the recipe now says ema=None"),
        ({}, {"model": {"type": f"{__name__}:Other"}}, r"with model \S+:TinyNet, the recipe now says \S+:Other"),
    ],
    ids=["SGD to AdamW", "AdamW to SGD", "to RMSprop", "same names", "amsgrad", "momentum", "groups", "ema on",
         "ema off", "same tensors"],
)  # fmt: skip
def test_incompatible_state_is_refused_or_reset(tmp_path, before, after, word):
    train_part(tmp_path / "run", **before)
    with pytest.raises(ValueError, match=word) as error:
        resume_run(tmp_path / "run", **after)
    assert "resume_strict=False" in str(error.value) and "step-00000006.pt" in str(error.value)
    assert newest_state(tmp_path / "run")["step"] == 6
    assert resume_run(tmp_path / "run", **after, resume_strict=False) == "finished"
    log = (tmp_path / "run" / "train.log").read_text()
    assert "WARNING: resumed with a changed recipe:" in log
    state, settings = newest_state(tmp_path / "run"), after.get("optimizer", before.get("optimizer", SGD))
    settings = settings if after != {} else SGD
    kept = kept_by(settings, torch.device("cpu"))
    assert {frozenset(moments) for moments in state["optimizer"]["state"].values()} <= {*map(frozenset, kept.values())}
    assert (state["ema"] is None) == (after.get("ema", 0.99) is None)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"schedule": {"type": "step", "milestones": [2]}}, "schedule: this run was trained with {'type': 'cosine'"),
        ({"amp": "bf16"}, "amp: this run was trained with 'off', the recipe now says 'bf16'"),
        ({"amp": "fp16"}, "amp: this run was trained with 'off', the recipe now says 'fp16'"),
        ({"accumulate": 3}, "accumulate: this run was trained with 1, the recipe now says 3"),
        ({"clip_grad_norm": 0.5}, "clip_grad_norm: this run was trained with None, the recipe now says 0.5"),
        ({"ema": 0.9}, "ema: this run was trained with 0.99, the recipe now says 0.9"),
        ({"mixer": None}, "mixer: this run was trained with {'type': 'CutMix'}, the recipe now says None"),
        (
            {"mixer": {"type": "ResizeMix"}},
            "mixer: this run was trained with {'type': 'CutMix'}, the recipe now says {",
        ),
        ({"loss": {"type": "SoftCrossEntropy", "label_smoothing": 0.1}}, "loss: this run was trained with"),
        ({"model": {"type": "tests.engine.synthetic:TinyNet", "dropout": 0.5}}, "model: this run was trained with"),
        ({"epochs": 4}, "epochs: this run was trained with 3, the recipe now says 4"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_allowed_change_is_logged_before_first_step(partial_run, tmp_path, changes, word):
    shutil.copytree(partial_run, tmp_path / "run")
    assert resume_run(tmp_path / "run", **changes) == "finished"
    log = (tmp_path / "run" / "train.log").read_text()
    assert word in log.partition("resumed from step-00000006.pt")[0]


def test_unchanged_recipe_is_not_logged_as_changed(partial_run, tmp_path):
    shutil.copytree(partial_run, tmp_path / "run")
    assert train_synthetic(recipe(max_steps=6), tmp_path / "run", resume="must")
    assert "changed recipe" not in (tmp_path / "run" / "train.log").read_text()


def test_resume_with_fewer_epochs_logs_trained_epochs(partial_run, tmp_path):
    shutil.copytree(partial_run, tmp_path / "run")
    assert resume_run(tmp_path / "run", epochs=1) == "finished"
    log = (tmp_path / "run" / "train.log").read_text()
    assert "resumed from step-00000006.pt, epoch 2, step 6: training is complete" in log
    assert "epoch 2/2  step 6  validation" in log and "epoch 2/1" not in log


@pytest.mark.parametrize(
    "change",
    [
        *map(drop, ("model", "optimizer", "loader", "window", "best", "step")),
        put([1], "model"), put({"conv.weight": 3}, "model"), put({"a": torch.ones(1)}, "model"),
        put(torch.ones(3), "model", "conv.weight"), put(torch.ones(8, 3, 3, 3).to_sparse(), "model", "conv.weight"),
        put(torch.ones(8, 3, 3, 3, device="meta"), "model", "conv.weight"),
        put("x", "optimizer"), put({}, "optimizer"), put([], "optimizer", "param_groups"),
        put([3], "optimizer", "param_groups"), put({0: 3}, "optimizer", "state"), put({}, "optimizer", "state", 0),
        put({"momentum_buffer": torch.ones(2, 2)}, "optimizer", "state", 0),
        put({"momentum_buffer": "x"}, "optimizer", "state", 1),
        put({"exp_avg": torch.ones(8)}, "optimizer", "state", 0),
        put("x", "ema"), put({"model": 3}, "ema"), put({"updates": 3}, "ema"), put({}, "ema", "model"),
        put("x", "ema", "updates"), put(None, "loader"), put({}, "loader"), put("x", "loader", "epoch"),
        put(-1, "step"), put("6", "step"), put(6.5, "step"), put(1 << 70, "step"), put(None, "epoch"),
        put(True, "epoch"),
        put([], "window"), put({"loss": "x", "steps": 0}, "window"), put({}, "best"), put("x", "best", "value"),
        put(0, "steps_per_epoch"), put("x", "recipe"), put({"optimizer": 3}, "recipe"), put({"model": "x"}, "recipe"),
        put(3, "groups"), put("x", "seed"), put("x", "scaler"),
    ],
)  # fmt: skip
def test_modified_checkpoint_with_valid_checksum_is_named(partial_run, tmp_path, change):
    shutil.copytree(partial_run, tmp_path / "run")
    for other in (tmp_path / "run" / "checkpoints").glob("step-0000000[1-5].pt"):
        other.unlink()
    path = tmp_path / "run" / "checkpoints" / "step-00000006.pt"
    state = load_checkpoint(path)
    change(state)
    save_checkpoint(path, state)
    with pytest.raises(ValueError, match=r"step-00000006\.pt"):
        resume_run(tmp_path / "run")
    for ema in (False, True):
        assert evaluates_or_names_file(path, ema)


def test_optimizer_state_is_cast_for_fused_optimizer(tmp_path):
    """Plain Adam (used on a CPU) saves the state; fused Adam (used on a GPU) resumes it and needs `step` in float32."""
    adam = {"type": "Adam", "lr": 1e-3}
    train_synthetic(recipe(optimizer=adam, max_steps=4), tmp_path / "run")
    state = newest_state(tmp_path / "run")
    for moments in state["optimizer"]["state"].values():
        moments["step"] = moments["step"].double()  # stands in for another device's dtype
    save_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000004.pt", state)
    seen = []

    def observer(trainer):
        moments = next(iter(trainer.parts.optimizer.state.values()))
        seen.append((trainer.parts.optimizer.param_groups[0]["fused"], moments["step"].item(), moments["step"].dtype))

    values = recipe(optimizer={**adam, "fused": True}, max_steps=6)
    train_synthetic(values, tmp_path / "run", resume="must", callbacks=[observer])
    assert seen == [(True, 5.0, torch.float32), (True, 6.0, torch.float32)]
