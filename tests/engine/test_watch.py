"""A NaN or infinity stops the run at its step and is never saved; parameters without a gradient are named."""

import re

import pytest
import torch
from torch import nn

from dali_mix.engine.checkpoint.files import load_checkpoint
from dali_mix.engine.train.finite import NonFinite, NonFiniteLoss
from tests.engine.processes import newest_state, output_of, records, run
from tests.engine.synthetic import recipe, train_synthetic

BROKEN = "tests.engine.broken:Broken"


def broken_recipe(**changes):
    """Return a recipe whose model breaks in its fourth pass; every step is saved and logged."""
    model = {"type": BROKEN, **changes.pop("model", {})}
    return recipe(
        model=model, mixer=None, batch_size=10, log_interval=1, checkpoint={"interval_steps": 1, "keep": 9}, **changes
    )


def saved_checkpoints(work_dir):
    """Return the content of every checkpoint of a run by file name."""
    return {path.name: load_checkpoint(path) for path in sorted((work_dir / "checkpoints").glob("*.pt"))}


def assert_all_finite(value):
    if isinstance(value, dict):
        for inner in value.values():
            assert_all_finite(inner)
    elif isinstance(value, torch.Tensor) and value.is_floating_point():
        assert value.isfinite().all()


def training_changes(changes):
    return {key: value for key, value in changes.items() if key not in ("model", "max_steps")}


class Steep(nn.Module):
    def forward(self, logits, targets):
        return 1e9 * nn.functional.cross_entropy(logits, targets)


def values(**changes):
    pipeline = {"type": "cifar", "image_size": 8, "padding": 0, "flip": 0.0}
    return recipe(**{"pipeline": pipeline, "mixer": None, "epochs": 1, "log_ids": False, "ema": None, **changes})


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "the gradient is NaN or infinite at step 4 (first in conv.weight), though the loss is 1."),
        ({"clip_grad_norm": 1.0}, "the gradient is NaN or infinite at step 4 (first in"),
        ({"model": {"how": "infinite gradient"}}, "the gradient is NaN or infinite at step 4 (first in"),
        ({"optimizer": {"type": "AdamW", "lr": 1e-3}}, "the gradient is NaN or infinite at step 4 (first in"),
        ({"amp": "bf16"}, "the gradient is NaN or infinite at step 4 (first in"),
        ({"max_steps": 4}, "the gradient is NaN or infinite at step 4 (first in"),
        ({"model": {"how": "statistics"}}, "side.running_mean is NaN or infinite at step 4 (loss 1."),
        ({"model": {"how": "statistics"}, "amp": "fp16"}, "side.running_mean is NaN or infinite at step 4 (loss 1."),
    ],
    ids=["sgd", "clip", "infinite", "adamw", "bf16", "last step", "statistics", "statistics with a scaler"],
)
def test_non_finite_step_is_not_taken(tmp_path, changes, word):
    with pytest.raises(NonFiniteLoss, match="stopped before that optimizer step") as error:
        train_synthetic(broken_recipe(**changes), tmp_path / "run")
    assert word in str(error.value)
    state = newest_state(tmp_path / "run")
    assert state["step"] == 3
    for content in saved_checkpoints(tmp_path / "run").values():
        assert_all_finite(content)
    whole = recipe(
        model={"type": BROKEN, "at": 99}, mixer=None, batch_size=10, log_interval=1, **training_changes(changes)
    )
    train_synthetic({**whole, "max_steps": 4}, tmp_path / "whole")
    ids = [record["ids"] for record in records(tmp_path / "whole", "ids-rank0.jsonl")]
    assert f"Records in it: {ids[3]}. " in str(error.value)


@pytest.mark.parametrize("how", ["gradient", "statistics"])
@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_stop_together_if_one_is_non_finite(tmp_path, how, rank):
    work_dir = tmp_path / "run"
    assert run(broken_recipe(model={"how": how, "rank": rank}), work_dir, ranks=2) == [1, 1]
    texts = [output_of(work_dir, rank) for rank in (0, 1)]  # one of them may only report that the other failed
    named = [text for text in texts if "NonFiniteLoss" in text]
    assert named and all("NonFiniteLoss" in text or "RankLost: rank" in text for text in texts)
    for text in named:  # equal on both ranks, regardless of which one broke
        what = "side.running_mean is" if how == "statistics" else "the gradient is"
        assert f"{what} NaN or infinite at step 4" in text
        lists = re.search(r"in it: \[(.*)\] on rank 0, \[(.*)\] on rank 1\. Lower", text).groups()
        mine = [ids.split(", ") for ids in lists]
        assert [len(ids) for ids in mine] == [5, 5] and not set(mine[0]) & set(mine[1])
    assert newest_state(work_dir)["step"] == 3
    for content in saved_checkpoints(work_dir).values():
        assert_all_finite(content)


def test_error_names_records_of_all_micro_batches(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"at step 2 .*though") as error:
        train_synthetic(broken_recipe(accumulate=2), tmp_path / "run")
    assert len(str(error.value).partition("in it: [")[2].partition("]")[0].split(", ")) == 10


@pytest.mark.parametrize("steps", [3, 9])
def test_overflowing_weights_are_not_saved(tmp_path, steps):
    """A finite gradient times too high a rate overflows. This is found when saving, or at the next step's loss."""
    values = broken_recipe(optimizer={"type": "SGD", "lr": 1e36}, max_steps=steps, ema=None, model={"at": 99})
    values["checkpoint"] = {"interval_steps": 1} if steps == 3 else {"interval_epochs": 9}
    values |= {"schedule": {"type": "constant"}, "loss": {"type": f"{__name__}:Steep"}}
    with pytest.raises(
        NonFinite, match=r"contains NaN or infinity, so nothing|became NaN or infinite in the update of step"
    ):
        train_synthetic(values, tmp_path / "run")
    for content in saved_checkpoints(tmp_path / "run").values():
        assert_all_finite(content)


def test_non_finite_moments_are_not_saved(tmp_path):
    """An infinite second moment leaves the weights finite, but they would never change again."""

    def overflow(trainer):
        if trainer.step == 2:
            next(iter(trainer.parts.optimizer.state.values()))["exp_avg_sq"][0] = float("inf")

    values = broken_recipe(optimizer={"type": "Adam", "lr": 1e-3}, model={"at": 99})
    with pytest.raises(NonFinite, match="step 2: exp_avg_sq of the optimizer, parameter 0 contains NaN or infinity"):
        train_synthetic(values, tmp_path / "run", callbacks=[overflow])
    assert list(saved_checkpoints(tmp_path / "run")) == ["step-00000001.pt"]


@pytest.mark.parametrize("entry", ["conv.weight", "norm.running_var", "head.bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused_at_start(tmp_path, entry, value):
    train_synthetic(recipe(max_steps=1), tmp_path / "first")
    weights = newest_state(tmp_path / "first")["model"]
    weights[entry].view(-1)[-1] = value
    torch.save(weights, tmp_path / "weights.pt")
    with pytest.raises(NonFinite, match=rf"{entry} contains NaN or infinity before the first step; .*weights\.pt"):
        train_synthetic(recipe(weights=str(tmp_path / "weights.pt")), tmp_path / "second")
    assert not (tmp_path / "second" / "checkpoints").exists()


@pytest.mark.parametrize("frozen", [False, True])
def test_parameters_without_gradient_are_logged_on_one_process(tmp_path, capsys, frozen):
    model = {"type": "tests.engine.broken:Unused", "frozen": frozen}
    train_synthetic(values(model=model, max_steps=3), tmp_path / "run")
    said = capsys.readouterr().err
    assert said.count("no gradient reaches aux.weight, aux.bias, which will not be trained: freeze") == (not frozen)


@pytest.mark.parametrize(
    ("model", "word"),
    [("Unused", "no gradient reaches aux.weight, aux.bias: freeze"), ("Sometimes", "a parameter had no gradient|aux")],
)
def test_parameters_without_gradient_are_refused_on_two_ranks(tmp_path, model, word):
    given = values(model={"type": f"tests.engine.broken:{model}"}, batch_size=10)
    assert run(given, tmp_path / "run", ranks=2) == [1, 1]
    text = output_of(tmp_path / "run", 0) + output_of(
        tmp_path / "run", 1
    )  # one of them may only report that the other failed
    assert any(part in text for part in word.split("|"))
    assert "find_unused_parameters=True" in text
    given |= {"find_unused_parameters": True}
    assert run(given, tmp_path / "found", ranks=2) == [0, 0], output_of(tmp_path / "found")
