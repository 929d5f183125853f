"""Runs with batches from a pool have the same weights, logs and checkpoints as runs that decode images themselves."""

import os
import signal

import numpy as np
import pytest

from tests.engine.processes import PREEMPTED, assert_same_run, finish, newest_state, output_of, records, run, start
from tests.engine.sets import pack_digits
from tests.engine.synthetic import recipe
from tests.service.serving import until
from tests.service.test_faults import workers_of

KILLED = -signal.SIGKILL
OURS = ("XDG_CONFIG_HOME", "DALI_MIX_SERVICE_TOKEN")


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """Return a recipe over 300 scanned digits: 7 steps per epoch, five chunks."""
    train_set, val_set = pack_digits(tmp_path_factory.mktemp("digits"), 300)
    pipeline = {"type": "imagenet", "image_size": 32}
    return recipe(train_set=train_set, val_set=val_set, pipeline=pipeline, batch_size=48, epochs=3)


@pytest.fixture(scope="module")
def local_run(values, tmp_path_factory):
    """Train the run without a pool; return its work directory."""
    work_dir = tmp_path_factory.mktemp("local_run") / "run"
    assert run(values, work_dir, packed=True) == [0], output_of(work_dir)
    return work_dir


@pytest.fixture
def from_pool(values, head):
    """Return the recipe and the options of a run that uses the pool."""
    environment = {name: os.environ[name] for name in OURS}
    return {**values, "service": head.address}, {"packed": True, "env": environment}


def test_run_equals_run_without_pool(local_run, from_pool, tmp_path):
    values, options = from_pool
    assert run(values, tmp_path / "run", **options) == [0], output_of(tmp_path / "run")
    assert_same_run(local_run, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_lost_worker_changes_no_result(local_run, from_pool, head, tmp_path, number):
    values, options = from_pool
    started = start(values, tmp_path / "run", slow=0.1, **options)
    metrics = tmp_path / "run" / "metrics.jsonl"
    until(lambda: metrics.is_file() and len(records(tmp_path / "run")) >= 2)
    worker = workers_of(head)[0]
    os.kill(worker, number)
    try:
        assert finish(started, 120) == [0], output_of(tmp_path / "run")
    finally:
        if number == signal.SIGSTOP:
            os.kill(worker, signal.SIGCONT)
    assert_same_run(local_run, tmp_path / "run")


def test_killed_run_resumes_on_two_ranks(values, from_pool, tmp_path):
    pooled, options = from_pool
    for name, own, more in (("alone", values, {"packed": True}), ("pool", pooled, options)):
        assert run(own, tmp_path / name, kill_at=9, **more) == [KILLED]
        assert run(own, tmp_path / name, ranks=2, resume="must", **more) == [0, 0], output_of(tmp_path / name)
    assert_same_run(tmp_path / "alone", tmp_path / "pool")
    ids = [i for rank in (0, 1) for r in records(tmp_path / "pool", f"ids-rank{rank}.jsonl") for i in r["ids"]]
    assert np.bincount(ids, minlength=300).min() >= 2


def test_preempted_run_resumes_without_pool(local_run, values, from_pool, tmp_path):
    """Ray's SIGTERM handler does not interfere, and a checkpoint does not depend on the pool."""
    pooled, options = from_pool
    assert run(pooled, tmp_path / "run", term_at=7, **options) == [PREEMPTED], output_of(tmp_path / "run")
    assert newest_state(tmp_path / "run")["step"] == 7
    assert run(values, tmp_path / "run", resume="must", packed=True) == [0], output_of(tmp_path / "run")
    assert_same_run(local_run, tmp_path / "run")


def test_cifar_pipeline_refuses_pool(values, from_pool, tmp_path):
    pooled, options = from_pool
    assert run({**pooled, "pipeline": {"type": "cifar"}}, tmp_path / "run", **options) == [1]
    assert "'cifar' decodes a set once and keeps it: it needs no workers" in output_of(tmp_path / "run")
