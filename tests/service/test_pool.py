"""Answers and trainers that the pool's actor keeps and forgets. Workers are stand-ins that answer on demand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dali_mix.loading.chunks import Question
from dali_mix.loading.workers import Spec
from dali_mix.service import cluster

SPEC = Spec(Path("set"), "imagenet", {}, train=True, seed=0, decode="auto", verify_crc=False)
CHUNK = 100  # bytes


class Cluster:
    """Stand-in for Ray that holds the questions to workers until a test answers them."""

    def __init__(self):
        self.under_way, self.answers, self.dead = [], {}, set()

    def nodes(self):
        return [{"NodeID": node, "Alive": node not in self.dead} for node in ("a", "b")]

    def handle(self, name):
        def answer(*_):
            chunk, info = object(), object()
            self.under_way.append((name, info))
            return chunk, info

        return SimpleNamespace(answer=SimpleNamespace(options=lambda num_returns: SimpleNamespace(remote=answer)))

    def finish(self, answer=None):
        for _, info in self.under_way:
            self.answers[info] = answer or {"bytes": CHUNK, "pid": 1, "images": 64, "seconds": 0.1}
        self.under_way = []

    def wait(self, references, num_returns, timeout):
        return [each for each in references if each in self.answers], None

    def get(self, info):
        if isinstance(self.answers[info], Exception):
            raise self.answers[info]
        return self.answers[info]


@pytest.fixture
def ray(settings, monkeypatch):
    real = cluster.import_ray(cluster.make_token(), loopback=True)
    from dali_mix.service import pool

    fake = Cluster()
    fake.exceptions = real.exceptions
    monkeypatch.setattr(pool, "ray", fake)
    monkeypatch.setattr(pool, "LOOK", -1.0)  # at every question
    return fake


def pool_of(ray, nodes, capacity, workers=1):
    from dali_mix.service.pool import Pool

    pool = Pool()
    for node in nodes:
        details = {"versions": {}, "decode": "cpu", "node": node, "capacity": capacity}
        pool.register({f"{node}.{n}": (ray.handle(f"{node}.{n}"), details) for n in range(workers)})
    return pool


def ask(pool, number, avoid=(), trainer="trainer"):
    return pool.ask("key", SPEC, "fingerprint", Question(0, np.array([number])), avoid, trainer)


def kept(pool):
    return {key for _, key in pool._answers}


def keys(*numbers):
    return {Question(0, np.array([number])).key for number in numbers}


def test_least_recently_requested_chunk_is_dropped_first(ray):
    pool = pool_of(ray, "a", 3 * CHUNK)
    for number in range(3):
        ask(pool, number)
        ray.finish()
    assert pool.status()["bytes"] == 3 * CHUNK
    first = ask(pool, 0)
    assert ask(pool, 0) == first and pool.status()["shared"] == 2
    ask(pool, 3)
    ray.finish()
    assert pool.status()["bytes"] == 3 * CHUNK
    assert kept(pool) == keys(0, 2, 3)


def test_each_node_has_its_own_capacity(ray):
    pool = pool_of(ray, "ab", 2 * CHUNK)
    for number in range(10):
        ask(pool, number)  # the less loaded worker, in turn
        if number % 2:
            ray.finish()
    assert pool.status()["bytes"] == 4 * CHUNK
    assert kept(pool) == keys(6, 7, 8, 9)
    pool.remove(["b.0"])
    assert pool.status()["bytes"] == 2 * CHUNK
    assert [entry.node for entry in pool._answers.values()] == ["a", "a"]


def test_equally_loaded_workers_are_asked_in_turn(ray):
    pool, names = pool_of(ray, "ab", 5 * CHUNK, workers=3), []
    for number in range(12):
        names.append(ask(pool, number)[1])
        ray.finish()
    assert sorted(names[:6]) == [f"{node}.{n}" for node in "ab" for n in range(3)]
    assert names[6:] == names[:6]
    idle = ask(pool, 12)[1]
    for number in range(13, 18):
        ask(pool, number)
    ray.under_way, busy = [each for each in ray.under_way if each[0] == idle], ray.under_way
    ray.finish()
    assert ask(pool, 18)[1] == idle and len(busy) == 6  # it is the least loaded, so its turn does not matter


def test_live_workers_exclude_dead_machines(ray):
    """Trainers may get one for up to 12 s, because they ask another worker if a question is lost."""
    pool = pool_of(ray, ("a", "b"), CHUNK, workers=2)
    assert pool.live_workers() == pool.workers() and len(pool.workers()) == 4
    ray.dead.add("a")
    assert list(pool.live_workers()) == ["b.0", "b.1"] and len(pool.workers()) == 4


def test_replaced_answer_counts_no_bytes(ray):
    pool = pool_of(ray, "ab", 5 * CHUNK)
    first = ask(pool, 0)
    second = ask(pool, 0, [first[1]])
    assert {first[1], second[1]} == {"a.0", "b.0"}
    ray.finish()
    assert pool.status()["bytes"] == CHUNK
    assert ask(pool, 0)[0] == second[0]
    ask(pool, 0, [second[1]])  # its machine is gone: decoded again, and the kept answer is dropped
    assert pool.status()["bytes"] == 0
    ray.finish()
    assert pool.status()["bytes"] == CHUNK


def test_lost_answer_is_requested_again(ray):
    pool = pool_of(ray, "a", 5 * CHUNK)
    ask(pool, 0)
    ray.finish(ray.exceptions.RayError("lost"))
    assert (pool.status()["lost"], pool.status()["chunks"]) == (1, 0)
    ask(pool, 0)
    ray.finish()
    assert (pool.status()["decoded"], pool.status()["bytes"]) == (1, CHUNK)


def test_ask_does_not_iterate_over_kept_answers(ray):
    """A subclass of dict counts the entries that are iterated over."""

    class Counting(dict):
        looked = 0

        def __iter__(self):
            Counting.looked += len(self)
            return super().__iter__()

        def items(self):
            Counting.looked += len(self)
            return super().items()

        def values(self):
            Counting.looked += len(self)
            return super().values()

    pool = pool_of(ray, "ab", 1000 * CHUNK)
    pool._answers = Counting(pool._answers)
    for number in range(100):
        ask(pool, number)
        ray.finish()
    assert (Counting.looked, len(pool._answers)) == (0, 100)


def test_status_shows_which_workers_trainers_wait_for(ray):
    pool = pool_of(ray, "ab", 5 * CHUNK)
    first, second = ask(pool, 0, trainer="one")[1], ask(pool, 1, trainer="one")[1]
    ask(pool, 0, trainer="two")
    found = {own["name"]: own["waits_for"] for own in pool.status()["trainers"]}
    assert found == {"one": {first: 1, second: 1}, "two": {first: 1}}
    ray.finish()
    assert [own["waits_for"] for own in pool.status()["trainers"]] == [{}, {}]


def test_loaders_of_one_trainer_are_summed(ray, monkeypatch):
    """Training and validation loaders of one process count as one trainer with two sets."""
    from dali_mix.service import pool as module

    now = [1000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    pool = pool_of(ray, "ab", 5 * CHUNK)
    for number, key in enumerate(("training", "training", "validation")):
        now[0] += 10
        pool.ask(key, SPEC, "fingerprint", Question(0, np.array([number])), (), "host:1")
    now[0] += 5
    found = pool.status()
    [trainer] = found["trainers"]
    assert (trainer["name"], trainer["idle"], trainer["asked"]) == ("host:1", 5, 3)
    assert sum(trainer["waits_for"].values()) == 3
    assert [own["key"] for own in found["sets"]] == ["training", "validation"]


def test_finished_answers_are_shared_between_checks(ray, monkeypatch):
    """Between two checks, a finished answer still counts as under way, but trainers that ask for it get it."""
    from dali_mix.service import pool as module

    pool = pool_of(ray, "ab", 5 * CHUNK)
    ask(pool, 0)
    monkeypatch.setattr(module, "LOOK", 1e9)
    reference = ask(pool, 1)
    ray.finish()
    assert ask(pool, 1) == reference
    assert sum(len(member.under_way) for member in pool._members.values()) == 2
    assert pool.status()["decoded"] == 2


def test_idle_trainers_and_sets_are_forgotten(ray, monkeypatch):
    """A sweep of thousands of runs does not make the pool grow. A trainer that comes back is answered."""
    from dali_mix.service import pool as module

    now = [1000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    pool = pool_of(ray, "a", 100 * CHUNK)
    for run in range(50):
        now[0] += module.READER_GONE / 10
        pool.ask(f"key {run}", SPEC, "fingerprint", Question(0, np.array([0])), (), f"trainer {run}")
        ray.finish()
        pool.ask("key", SPEC, "fingerprint", Question(0, np.array([0])), (), f"trainer {run}")
        ray.finish()
    found = pool.status()
    assert 5 < len(found["trainers"]) < 15 and 5 < len(found["sets"]) < 15
    assert found["sets"][-1]["key"] == "key 49"
    assert not any(entry.askers for entry in pool._answers.values())
    assert pool.ask("key 0", SPEC, "fingerprint", Question(0, np.array([0])), (), "trainer 0")[1] == "a.0"
    assert pool.status()["sets"][-1]["key"] == "key 0"
