"""A run that is killed at any point and resumed is bit-equal to an uninterrupted one."""

import json
import signal

import pytest

from dali_mix.engine.config.schema import make_config
from dali_mix.engine.run import train
from dali_mix.engine.train.lr_schedules import build_schedule
from tests.engine.processes import (
    INTERRUPTED,
    PREEMPTED,
    assert_same_run,
    finish,
    newest_state,
    output_of,
    records,
    run,
    start,
)
from tests.engine.synthetic import make_loaders, recipe, train_synthetic

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Train without an interruption; return the work directory."""
    work_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert run(recipe(), work_dir) == [0], output_of(work_dir)
    return work_dir


def test_repeated_run_is_bit_identical(uninterrupted, tmp_path):
    assert run(recipe(), tmp_path / "again") == [0]
    assert_same_run(uninterrupted, tmp_path / "again")


def test_losses_equal_recorded_values(uninterrupted):
    """Losses equal those recorded with the torch in .ci/constraints.txt, and every epoch sees every record once."""
    losses = [r["loss"] for r in records(uninterrupted) if r["kind"] == "train"]  # the last covers half an interval
    golden = [1.431142, 1.479353, 1.386746, 1.304680, 1.410086, 1.253196, 1.230938, 1.169978]
    assert losses == pytest.approx(golden, abs=1e-4)
    ids = [i for r in records(uninterrupted, "ids-rank0.jsonl") for i in r["ids"]]
    assert [sorted(ids[e * 40 : e * 40 + 40]) for e in range(3)] == [list(range(40))] * 3


@pytest.mark.parametrize("step", range(2, 16))
def test_killed_after_any_step(uninterrupted, tmp_path, step):
    work_dir = tmp_path / "run"
    assert run(recipe(), work_dir, kill_at=step) == [KILLED]
    assert run(recipe(), work_dir, resume="must") == [0], output_of(work_dir)
    assert_same_run(uninterrupted, work_dir)


def test_killed_before_any_checkpoint(uninterrupted, tmp_path):
    work_dir = tmp_path / "run"
    assert run(recipe(), work_dir, kill_at=1) == [KILLED]
    assert run(recipe(), work_dir, resume="must") == [1]
    assert "nothing to resume from" in output_of(work_dir)
    assert run(recipe(), work_dir, resume="auto") == [0]
    assert_same_run(uninterrupted, work_dir)


def test_killed_repeatedly(uninterrupted, tmp_path):
    work_dir = tmp_path / "run"
    assert run(recipe(), work_dir, kill_at=3) == [KILLED]
    for step in (4, 7, 10, 13):
        assert run(recipe(), work_dir, resume="must", kill_at=step) == [KILLED]
    assert run(recipe(), work_dir, resume="must") == [0]
    assert_same_run(uninterrupted, work_dir)


# Step 7 is not a multiple of the save interval; step 15 is the last, before the final evaluation.
@pytest.mark.parametrize("step", [7, 15])
def test_sigterm_saves_and_resumes_bit_identical(uninterrupted, tmp_path, step):
    work_dir = tmp_path / "run"
    assert run(recipe(), work_dir, term_at=step) == [PREEMPTED]
    assert newest_state(work_dir)["step"] == step
    assert run(recipe(), work_dir, resume="must") == [0]
    assert_same_run(uninterrupted, work_dir)


@pytest.mark.parametrize("step", [7, 15])
def test_ctrl_c_saves_and_resumes_bit_identical(uninterrupted, tmp_path, step):
    work_dir = tmp_path / "run"
    assert run(recipe(), work_dir, interrupt_at=step) == [INTERRUPTED]
    assert newest_state(work_dir)["step"] == step
    assert f"Ctrl-C: saved at step {step}" in output_of(work_dir)
    assert run(recipe(), work_dir, resume="must") == [0]
    assert_same_run(uninterrupted, work_dir)


def test_ctrl_c_twice_stops_at_once(tmp_path):
    assert run(recipe(), tmp_path / "run", interrupt_at=7, interrupts=2) == [-signal.SIGINT & 0xFF]
    assert newest_state(tmp_path / "run")["step"] < 7


@pytest.mark.parametrize("step", [4, 5, 8])
def test_two_ranks_killed(tmp_path, step):
    one, two = tmp_path / "one", tmp_path / "two"
    values = recipe(batch_size=12)
    assert run(values, one, ranks=2) == [0, 0], output_of(one)
    assert run(values, two, ranks=2, kill_at=step) == [KILLED, KILLED]
    assert run(values, two, ranks=2, resume="must") == [0, 0], output_of(two)
    assert_same_run(one, two)


def test_two_ranks_stop_at_same_step_after_sigterm(tmp_path):
    values = recipe(batch_size=12)
    assert run(values, tmp_path / "run", ranks=2, term_at=5) == [PREEMPTED, PREEMPTED]
    assert newest_state(tmp_path / "run")["step"] == 6  # the ranks agree to stop one step after the signal
    assert run(values, tmp_path / "run", ranks=2, resume="must") == [0, 0]


def test_two_ranks_ignore_sigterm_while_leaving(tmp_path):
    """After its last save, a rank waits for the others, which may still be saving. SIGTERM does not end it."""
    assert run(recipe(batch_size=12, epochs=1), tmp_path / "run", ranks=2, term_at_end=True) == [0, 0]


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_rank_during_evaluation_saves(tmp_path, rank):
    """SIGTERM reaches one rank only. Both ranks leave, and the steps since the last save are saved."""
    values = recipe(batch_size=12, checkpoint={"interval_epochs": 3})
    assert run(values, tmp_path / "one", ranks=2) == [0, 0]
    work_dir = tmp_path / "two"
    assert run(values, work_dir, ranks=2, term_in_evaluation=rank) == [PREEMPTED, PREEMPTED], output_of(work_dir)
    assert newest_state(work_dir)["step"] == 4
    assert run(values, work_dir, ranks=2, resume="must") == [0, 0]
    assert_same_run(tmp_path / "one", work_dir)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_resume_with_other_number_of_ranks(tmp_path, before, after):
    """The resumed run finishes the epoch, with each record seen once."""
    values, work_dir = recipe(batch_size=12, epochs=2), tmp_path / "run"
    assert run(values, work_dir, ranks=before, term_at=2) == [PREEMPTED] * before
    assert run(values, work_dir, ranks=after, resume="must") == [0] * after, output_of(work_dir)
    steps = {}
    for rank in range(max(before, after)):
        for record in records(work_dir, f"ids-rank{rank}.jsonl"):
            steps.setdefault(record["step"], []).extend(record["ids"])
    assert sorted(steps) == list(range(1, 9))
    for epoch in range(2):
        assert sorted(i for s in range(4) for i in steps[epoch * 4 + s + 1]) == list(range(40))


def test_checkpoint_is_saved_only_after_all_micro_batches(tmp_path):
    """A step of 9 records has 3 micro-batches. It is saved only after all of them, so 3 steps are 27 records."""
    values = recipe(accumulate=3, checkpoint={"interval_steps": 1, "keep": 3})
    assert run(values, tmp_path / "one") == [0]
    assert run(values, tmp_path / "two", kill_at=3) == [KILLED]
    assert newest_state(tmp_path / "two")["loader"]["samples_seen"] == 27
    assert run(values, tmp_path / "two", resume="must") == [0]
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(("accumulate", "batches", "saved"), [(1, 7, 7), (3, 7, 2), (3, 6, 2), (3, 3, 1)])
def test_sigterm_while_loader_waits_for_pool(tmp_path, accumulate, batches, saved):
    """Nothing is saved between micro-batches, because BatchNorm and the loader are then ahead of the last step."""
    values = recipe(accumulate=accumulate, checkpoint={"interval_steps": 1, "keep": 100})

    def waiting(config, ranks):
        loaders = make_loaders(config, ranks)
        loaders[0].waits_at = batches
        return loaders

    assert train(make_config(values), tmp_path / "run", make_loaders=waiting) == "preempted"
    assert int(newest_state(tmp_path / "run")["step"]) == saved
    assert train_synthetic(values, tmp_path / "run", resume="must") == "finished"
    train_synthetic(values, tmp_path / "uninterrupted")
    assert_same_run(tmp_path / "run", tmp_path / "uninterrupted")


def test_sigterm_while_evaluation_waits_for_pool(tmp_path):
    def waiting(config, ranks):
        loaders = make_loaders(config, ranks)
        loaders[1].waits_at = 1
        return loaders

    assert train(make_config(recipe()), tmp_path / "run", make_loaders=waiting) == "preempted"
    assert train_synthetic(recipe(), tmp_path / "run", resume="must") == "finished"
    train_synthetic(recipe(), tmp_path / "uninterrupted")
    assert_same_run(tmp_path / "run", tmp_path / "uninterrupted")


def test_early_stopping_resumes_bit_identical(tmp_path):
    """The best score and the remaining patience are in the checkpoint."""
    values = recipe(
        epochs=12, optimizer={"type": "SGD", "lr": 1e-9}, early_stopping={"patience": 3}, log_ids=True, mixer=None
    )
    assert run(values, tmp_path / "one") == [0]
    validations = [r for r in records(tmp_path / "one") if r["kind"] == "val"]
    assert len(validations) < 12
    assert run(values, tmp_path / "two", kill_at=12) == [KILLED]
    assert run(values, tmp_path / "two", resume="must") == [0]
    assert_same_run(tmp_path / "one", tmp_path / "two")
    best = [json.dumps(newest_state(d)["best"]) for d in (tmp_path / "one", tmp_path / "two")]
    assert best[0] == best[1]


def test_early_stopping_saves_last_step(tmp_path):
    values = recipe(
        epochs=12,
        optimizer={"type": "SGD", "lr": 1e-9},
        early_stopping={"patience": 3},
        checkpoint={"interval_epochs": None},
        mixer=None,
    )
    assert run(values, tmp_path / "run") == [0]
    state = newest_state(tmp_path / "run")
    assert f"stopped early: step {state['step']}, " in output_of(tmp_path / "run")
    assert run({**values, "early_stopping": {"patience": 4}}, tmp_path / "run", resume="must") == [0]
    assert newest_state(tmp_path / "run")["epoch"] == state["epoch"] + 1


@pytest.mark.parametrize(
    ("changes", "word"), [({"seed": 1}, "seed=0"), ({"batch_size": 10}, "batch_size=9")], ids=["seed", "batch size"]
)
def test_changed_run_is_refused_unless_resume_strict_is_off(tmp_path, changes, word):
    work_dir = tmp_path / "run"
    assert run(recipe(), work_dir, kill_at=6) == [KILLED]
    assert run(recipe(**changes), work_dir, resume="must") == [1]
    assert word in output_of(work_dir)
    assert run(recipe(**changes, resume_strict=False), work_dir, resume="must") == [0], output_of(work_dir)


@pytest.mark.parametrize(("batch_size", "steps"), [(27, 2), (3, 14)])
def test_resume_with_other_batch_size_ends_at_same_epoch(tmp_path, batch_size, steps):
    """Interrupt a run at step 12 of 15, after 18 of 40 records of epoch 3. Epochs then have `steps` steps.

    With a larger batch, the run used to end at once, because three of its epochs have fewer than 12 steps.
    """
    work_dir = tmp_path / "run"
    assert run(recipe(), work_dir, kill_at=12) == [KILLED]
    changed = recipe(
        batch_size=batch_size, resume_strict=False, log_interval=1, checkpoint={"interval_steps": 1, "keep": 3}
    )
    assert run(changed, work_dir, resume="must", kill_at=13) == [KILLED]
    assert run(changed, work_dir, resume="must") == [0], output_of(work_dir)
    left = -(-(40 - 18) // batch_size)
    state = newest_state(work_dir)
    assert (state["step"], state["epoch"]) == (12 + left, 2)
    assert (state["loader"]["epoch"], state["loader"]["samples_seen"]) == (3, 0)  # the last batch completed the epoch
    ids = [record["ids"] for record in records(work_dir, "ids-rank0.jsonl")]
    assert sorted(number for step in ids[10:] for number in step) == list(range(40))
    logged = [record for record in records(work_dir) if record["kind"] == "train" and record["step"] > 12]
    done = [(record["step"] - 12) + 12 * steps // 5 for record in logged]
    assert [record["epoch"] for record in logged] == [pytest.approx(count / steps) for count in done]
    factor = build_schedule(recipe()["schedule"], lr=0.05, steps_per_epoch=steps, total_steps=3 * steps)
    assert [record["lr"] for record in logged] == [pytest.approx(0.05 * factor(count - 1)) for count in done]


def test_resume_with_other_model_or_groups_is_refused(tmp_path):
    work_dir = tmp_path / "run"
    assert run(recipe(), work_dir, kill_at=4) == [KILLED]
    changed = recipe(model={"type": "tests.engine.synthetic:TinyNet", "norm": False})
    assert run(changed, work_dir, resume="must") == [1]
    assert "for a different model: 1 missing: conv.bias; 5 unexpected: norm.weight" in output_of(work_dir)
    changed = recipe(paramwise={"bias_decay": 0.5})
    assert run(changed, work_dir, resume="must") == [1]
    assert "it has 1 groups of parameters, the recipe's has 2" in output_of(work_dir)


def test_changed_learning_rate_is_applied_and_logged(tmp_path):
    work_dir = tmp_path / "run"
    assert run(recipe(), work_dir, kill_at=4) == [KILLED]
    values = recipe(optimizer={"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-3})
    assert run(values, work_dir, resume="must") == [0]
    assert "changed recipe: optimizer" in output_of(work_dir)
    assert newest_state(work_dir)["optimizer"]["param_groups"][0]["base_lr"] == 0.01


def test_killed_rank_ends_other_rank(tmp_path):
    """No launcher is involved."""
    processes = start(recipe(batch_size=12), tmp_path / "run", ranks=2, kill_at=3, kill_rank=1)
    codes = finish(processes, seconds=60)
    assert codes[1] == KILLED
    assert codes[0] not in (0, None)


def test_checkpoint_contains_only_tensors_and_plain_values(uninterrupted):
    def check(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                assert isinstance(key, (str, int))
                check(inner)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                check(inner)
        else:
            assert value is None or isinstance(value, (bool, int, float, str)) or type(value).__name__ == "Tensor"

    check(newest_state(uninterrupted))
