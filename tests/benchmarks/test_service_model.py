"""Simulation of the pipeline service: no chunk is lost or duplicated, and no resource exceeds its capacity."""

import dataclasses
import itertools
import re
import sys
from pathlib import Path

import pytest

from dali_mix.loading.chunks import POSITIONS

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from _service_machines import Clock, Cluster, Costs, Shared, capacities  # noqa: E402
from _service_model import Simulation  # noqa: E402

sys.path.pop(0)

COSTS = Costs(
    decode=0.05,
    chunk_bytes=1e7,
    record_bytes=1e5,
    ask=3e-4,
    get=1e-4,
    cut=2e-4,
    latency=1e-4,
    pool=8e-4,
    pool_by_worker=0.0,
    pool_else=8e-4,
    listing=4e-6,
    register=4e-4,
    raylet=3e-4,
    send=2e-3,
    receive=6e-3,
    receive_busiest=2e-3,
    pull_rate=1e9,
)
FAST = 12.5e9


def simulate(seconds=3.0, warm=2.0, costs=COSTS, seed=0, **options):
    simulation = Simulation(costs, Cluster(**options), seed)
    return simulation.run(warm, seconds), simulation


def rate(**options):
    return simulate(**options)[0]["images_per_second"]


# Resources


def test_jobs_share_a_resource():
    clock, ended = Clock(), {}
    shared = Shared(clock, 2.0, 1.0)
    for name, work in (("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 3.0)):
        shared.add(work, lambda name=name: ended.setdefault(name, clock.now))
    clock.run(100.0)
    # four at 0.5 until 2; three at 2/3 until 3.5; then two at 1
    assert ended == pytest.approx({"a": 2.0, "b": 3.5, "c": 4.5, "d": 4.5})
    shared.advance()
    assert shared.used == pytest.approx(9.0)


def test_later_job_slows_running_job():
    clock, ended = Clock(), []
    shared = Shared(clock, 1.0, 1.0)
    shared.add(1.0, lambda: ended.append(clock.now))
    clock.after(0.5, lambda: shared.add(0.25, lambda: ended.append(clock.now)))
    clock.run(10.0)
    assert ended == pytest.approx([1.0, 1.25])


# Closed forms


def test_one_worker_is_limited_by_its_core():
    assert rate(workers=1, trainers=1, seconds=20.0) == pytest.approx(
        POSITIONS / (COSTS.decode + COSTS.send + COSTS.raylet), rel=0.03
    )


def test_gpu_runs_at_its_full_rate():
    assert rate(workers=16, trainers=1, gpu_rate=1000, seconds=10.0) == pytest.approx(1000, rel=0.03)


@pytest.mark.parametrize(
    ("limit", "options"),
    [
        ("worker cores", {"workers": 4, "trainers": 8, "link": FAST}),
        ("trainer links", {"workers": 64, "trainers": 8}),
        ("worker links", {"workers": 32, "workers_per_machine": 32, "trainers": 8, "trainers_per_machine": 1}),
        ("disks", {"workers": 16, "trainers": 8, "disk": 5e8, "link": FAST}),
        ("storage", {"workers": 64, "trainers": 8, "storage": 1e9, "link": FAST}),
        ("trainer raylet", {"workers": 96, "trainers": 16, "trainers_per_machine": 16, "link": FAST}),
        ("pool actor", {"workers": 200, "trainers": 48, "link": FAST}),
    ],
)
def test_limiting_resource_is_exhausted_and_named(limit, options):
    found, _ = simulate(**options)
    bounds = capacities(COSTS, Cluster(**options))
    assert min(bounds, key=bounds.get) == limit == found["limit"]
    assert 0.9 * bounds[limit] < found["images_per_second"] < 1.02 * bounds[limit]
    assert all(busy <= 1.001 for name, busy in found["busy"].items() if name != "GPUs")


def test_small_window_limits_rate():
    """If no resource is exhausted, the window limits the chunks in flight (Little's law)."""
    options = {"workers": 64, "trainers": 1, "gpu_rate": 1e9, "link": FAST, "batch_size": POSITIONS}
    rates = {window: rate(window=window, **options) for window in (1, 4, 16)}
    one = POSITIONS * 2 / (COSTS.decode + COSTS.chunk_bytes / COSTS.pull_rate)
    assert simulate(window=4, **options)[0]["limit"] == "window"
    assert 0.8 * one < rates[1] < one
    assert rates[1] < 0.5 * rates[4] < 0.25 * rates[16] * 1.3


# Invariants


CLUSTERS = [
    {"workers": 3, "trainers": 2, "batch_size": 48},
    {"workers": 40, "trainers": 9, "batch_size": 200, "link": FAST},
    {"workers": 20, "trainers": 6, "together": 3, "kept": 30, "link": FAST},
    {"workers": 17, "trainers": 2, "batch_size": 1000, "window": 2, "shared_head": True},
]
FAULTS = {"killed": 400.0, "frozen": 400.0, "lost": 400.0, "freeze": 3.0, "repair": 4.0, "node_noticed": 2.0}


@pytest.mark.parametrize("faults", [{}, FAULTS], ids=["no faults", "faults"])
@pytest.mark.parametrize("options", CLUSTERS, ids=range(len(CLUSTERS)))
def test_every_chunk_is_delivered_once_and_in_order(options, faults):
    found, simulation = simulate(workers_per_machine=6, **options, **faults)
    for trainer in simulation.trainers:
        chunks = -(-trainer.images // POSITIONS)
        assert trainer.taken[:chunks] == list(range(chunks))
        assert trainer.images > 1000
    assert bool(found["faults"]) == bool(faults)
    assert faults or found["second_asks"] == found["asked_directly"] == 0
    bounds = capacities(COSTS, simulation.cluster)
    steps = simulation.cluster.trainers * (simulation.cluster.batch_size + simulation.cluster.window * POSITIONS)
    assert found["images_per_second"] < 1.02 * min(bounds.values()) + steps / 3.0  # steps: already decoded


def test_faults_delay_but_lose_no_chunk():
    options = {"workers": 24, "trainers": 4, "workers_per_machine": 6, "link": FAST, "seconds": 8.0}
    calm, _ = simulate(**options)
    hit, simulation = simulate(**options, **FAULTS)
    assert hit["faults"] > 10 and hit["second_asks"] > 0 and hit["answers_lost"] > 0
    assert calm["longest_wait"] < 0.5 < hit["longest_wait"]
    assert 0.2 * calm["images_per_second"] < hit["images_per_second"] < calm["images_per_second"]
    for trainer in simulation.trainers:
        assert trainer.taken == list(range(len(trainer.taken)))


def test_frozen_worker_is_bridged_by_second_ask():
    simulation = Simulation(COSTS, Cluster(workers=4, trainers=1, gpu_rate=500.0))
    simulation.clock.after(3.0, lambda: simulation.workers[0].freeze(60.0))
    found = simulation.run(2.0, 10.0)
    assert found["second_asks"] >= 1
    assert 0.5 < found["longest_wait"] < 1.3


def test_killed_worker_is_bridged_once_reported():
    simulation = Simulation(COSTS, Cluster(workers=4, trainers=1, gpu_rate=1e9))
    simulation.clock.after(3.0, lambda: simulation.workers[0].die(60.0, 0.2))
    found = simulation.run(2.0, 3.0)
    assert found["answers_lost"] >= 1
    assert 0.2 < found["longest_wait"] < 0.6  # less than the patience of 1 s


def test_rate_does_not_fall_with_more_workers():
    rates = [rate(workers=workers, trainers=8, link=FAST) for workers in (2, 4, 8, 16, 32, 64)]
    assert all(more > 0.97 * fewer for fewer, more in itertools.pairwise(rates))
    assert rates[2] == pytest.approx(4 * rates[0], rel=0.1)


def test_trainers_of_same_set_share_chunks():
    apart, _ = simulate(workers=4, trainers=4, link=FAST, gpu_rate=1e4)
    together, simulation = simulate(workers=4, trainers=4, together=4, link=FAST, gpu_rate=1e4)
    assert together["images_per_second"] > 3 * apart["images_per_second"]
    assert together["decoded"] <= max(trainer.taken[-1] for trainer in simulation.trainers) + 8


def test_in_turn_uses_links_of_all_machines():
    options = {"workers": 128, "trainers": 16, "workers_per_machine": 16}
    first, turn = (simulate(in_turn=each, **options)[0] for each in (False, True))
    assert first["limit"] == "worker links" and turn["images_per_second"] > 1.3 * first["images_per_second"]


def test_seed_makes_simulation_reproducible():
    options = {"workers": 12, "trainers": 3, **FAULTS}
    one, two, other = (simulate(seed=seed, **options)[0] for seed in (1, 1, 2))
    assert one == two != other


def test_unanswered_question_goes_to_worker():
    slow = dataclasses.replace(COSTS, pool=0.4)
    found, simulation = simulate(workers=8, trainers=16, costs=slow, seconds=12.0, link=FAST)
    assert found["asked_directly"] > 0
    assert found["images_per_second"] > 2 * capacities(slow, simulation.cluster)["pool actor"]


def test_constants_match_service():
    """The simulation has copies of the constants, because `dali_mix.service.pool` needs Ray, which may be missing."""
    model = sys.modules["_service_model"]
    text = "".join((ROOT / "dali_mix/service" / name).read_text() for name in ("client.py", "pool.py", "workers.py"))
    for name in ("ANSWER", "DIRECTLY", "REFRESH", "SUSPECTED", "SILENT"):
        assert float(re.search(rf"^{name} = ([\d.]+)", text, re.MULTILINE)[1]) == getattr(model, name), name
    assert int(re.search(r"^LANES = (\d+)", text, re.MULTILINE)[1]) + 1 == model.CONCURRENT
