"""Batches stay bit-equal and each id occurs once if workers, machines or pools die, freeze, leave or join."""

import contextlib
import dataclasses
import itertools
import os
import signal
import time
from signal import SIGCONT, SIGSTOP
from types import SimpleNamespace

import pytest

import dali_mix.service
from dali_mix import build_loader
from dali_mix.loading import remote
from dali_mix.loading.workers import Spec
from dali_mix.recordio import RecordSet
from tests.loading.sets import png_set
from tests.service.crashing import HEIGHT
from tests.service.serving import Serve, processes, same, until, wait_until_idle

OPTIONS = {"image_size": 64, "color_jitter": 0.4}
SEEDS = itertools.count(100)  # a new seed each time, because the pool keeps answers


def loader(records, **more):
    options = {"batch_size": 24, "train": True, "device": "cpu", "num_threads": 1, "pipeline_options": OPTIONS} | more
    return build_loader("imagenet", records.prefix, **options)


@pytest.fixture
def epoch(pool, records, capsys):
    """Return a function that loads two epochs from a pool and compares them with those of the in-process loader.

    `events` maps a step of the first epoch to a function that is called after it. The longest wait from the first
    event on is printed.
    """

    def take(events=(), pool=pool):
        seed, events = next(SEEDS), dict(events)
        local, made = loader(records, seed=seed), loader(records, seed=seed, workers=pool)
        waits = []
        for number in range(2):
            begun, seen = time.monotonic(), []
            for step, (ours, theirs) in enumerate(zip(made, local, strict=True)):
                # The in-process loader decodes ahead, so it accounts for little of the time.
                waits.append((time.monotonic() - begun, number or step >= min(events, default=0)))
                assert same(tuple(ours), tuple(theirs)), step
                seen += ours.ids.tolist()
                if not number and step in events:
                    events[step]()
                begun = time.monotonic()
            assert sorted(seen) == list(range(len(records)))
        with capsys.disabled():
            longest = max(wait for wait, counts in waits if counts)
            print(f"\n    first batch {waits[0][0]:.2f} s, longest wait {longest:.2f} s", end=" ")
        return made

    return take


def workers_of(serve):
    """Return the process ids of a server's workers."""
    sessions = serve.sessions()
    return [pid for pid, session, name in processes() if session in sessions and name.startswith("ray::Worker")]


def kill(pid, number=signal.SIGKILL):
    os.kill(pid, number)


def test_pool_matches_local_loader(epoch, records, pool, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", (60.0, 4.0))  # a busy machine is not a slow worker
    monkeypatch.setattr(remote, "FIRST_PATIENCE", 60.0)
    before = wait_until_idle(pool)
    made = epoch()
    assert repr(made) == repr(loader(records, seed=made.seed)).replace("epoch 0", "epoch 2")
    new = {name: value - before[name] for name, value in pool.status().items() if isinstance(value, int)}
    assert new["decoded"] <= 2 * -(-len(records) // 64) + 5  # part of a third epoch
    assert new["second_asks"] == new["lost"] == 0


def test_killed_worker_changes_no_batch(epoch, head):
    epoch({9: lambda: kill(workers_of(head)[0])})
    until(lambda: len(workers_of(head)) == 2)


def test_killing_all_workers_changes_no_batch(epoch, head):
    epoch({9: lambda: [kill(pid) for pid in workers_of(head)]})
    until(lambda: len(workers_of(head)) == 2)


def test_frozen_worker_changes_no_batch(epoch, head):
    pid = workers_of(head)[0]
    try:
        epoch({9: lambda: kill(pid, signal.SIGSTOP), 40: lambda: kill(pid, signal.SIGCONT)})
    finally:
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGCONT)


def test_node_that_joins_and_is_lost_changes_no_batch(epoch, pool, head, settings):
    nodes = []

    def join():
        nodes.append(Serve(settings, "--workers", 1, "--join", head.address).ready())
        assert len(pool.status()["workers"]) == 3

    try:
        epoch({5: join, 30: lambda: nodes[0].kill()})
        until(lambda: len(pool.status()["workers"]) == 2)
    finally:
        nodes[0].kill()


def test_node_that_stops_changes_no_batch(epoch, pool, head, settings):
    node = Serve(settings, "--workers", 1, "--join", head.address).ready()
    epoch({9: lambda: node.stop(signal.SIGINT)})
    until(lambda: len(pool.status()["workers"]) == 2)  # at once, or after some seconds if it could not sign off


def test_killed_pool_actor_changes_no_batch(epoch, pool):
    import ray

    killed = []

    def end():
        ray.kill(pool.actor(), no_restart=False)
        killed.append(time.time())

    epoch({9: end})
    until(lambda: len(pool.status()["workers"]) == 2)
    assert pool.status()["seconds"] < time.time() - killed[0]  # a new actor, started since


def test_frozen_pool_actor_changes_no_batch(epoch, pool, head):
    [pid] = [pid for pid, session, name in processes() if session in head.sessions() and name == "ray::Pool"]
    try:
        epoch({9: lambda: kill(pid, signal.SIGSTOP)})
    finally:
        kill(pid, signal.SIGCONT)


def test_record_that_crashes_workers_raises(pool, head, tmp_path):
    prefix = png_set(tmp_path / "set", 500, lambda number: (HEIGHT if number == 200 else 80, 80))
    made = build_loader("tests.service.crashing:Crash", prefix, batch_size=24, train=False, device="cpu", workers=pool)
    with pytest.raises(RuntimeError, match=rf"^{prefix}: 4 times a worker's process died .*: \[192, .* 200, .* 255\]"):
        list(made)
    until(lambda: len(workers_of(head)) == 2)
    wait_until_idle(pool)


def test_trainer_decodes_locally_if_all_workers_freeze(epoch, head, monkeypatch):
    monkeypatch.setattr(remote, "ALONE", 2.0)
    pids = workers_of(head)
    stop, go_on = ((lambda number=number: [kill(pid, number) for pid in pids]) for number in (SIGSTOP, SIGCONT))
    try:
        epoch({9: stop, 40: go_on}, dali_mix.service.connect(head.address, fallback="local"))
    finally:
        go_on()


def test_invalid_fallback_or_set_is_refused(pool, head, records, tmp_path):
    local = dali_mix.service.connect(head.address, fallback="local")
    assert local.address == pool.address and pool.fallback == "wait"
    with pytest.raises(ValueError, match="fallback='locl'"):
        dali_mix.service.connect(head.address, fallback="locl")
    opened = local.open(Spec(records.prefix, "imagenet", OPTIONS, True, 0, "auto", True))
    assert opened.local == "cpu"
    other = png_set(tmp_path / "set", 30)
    with pytest.raises(ValueError, match="not the set that the pool opened"):
        loader(RecordSet(other), workers=SimpleNamespace(open=lambda spec: dataclasses.replace(opened, prefix=other)))
