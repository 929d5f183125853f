"""`RemoteSource`s with fake workers, and the expected results."""

import dataclasses
import itertools
import random

import numpy as np
import torch

from dali_mix import pipelines
from dali_mix.loading import chunks
from dali_mix.loading.bad_records import BadRecords
from dali_mix.loading.chunks import numbers_of
from dali_mix.loading.loader import Loader
from dali_mix.loading.order import Schedule
from dali_mix.loading.remote import WINDOW, RemoteSource
from dali_mix.loading.source import Fetched, Source
from tests.loading.fake_workers import FakeWorkers, Worker, answer

PIPELINE = pipelines.build("imagenet", True, {"image_size": 32})
CPU = torch.device("cpu")


@dataclasses.dataclass
class FakeSet:
    count: int
    prefix: str = "set"

    @property
    def metainfo(self):
        return {"fingerprint": "f", "num_classes": 3, "classes": ("a", "b", "c"), "task": "classification"}

    def __len__(self):
        return self.count


class Direct(Source):
    """The reference for `RemoteSource`: a source that answers every step immediately."""

    def fetch(self, epoch, position):
        step = next(self._schedule.steps_from(epoch, position))
        assert (step.epoch, step.start) == (epoch, position)
        chunk = answer(chunks.Question(epoch, step.rows))
        return Fetched(step, chunk.rows, torch.tensor(chunk.images), chunk.targets)

    def close(self):
        pass


def schedule_of(count=200, batch_size=8, rank=0, world_size=1, *, train=True, drop_last=False, groups=None):
    schedule = Schedule(count, 5, train, batch_size, rank, world_size, drop_last)
    return schedule if groups is None else dataclasses.replace(schedule, groups=groups, group_step=batch_size)


def source_of(workers, schedule, *, skip=False, **more):
    bad = BadRecords("set", skip)
    return RemoteSource(workers, PIPELINE, schedule, bad, device=CPU, normalizing=False, clock=workers.clock, **more)


def loader_of(source, schedule):
    bad = getattr(source, "_bad", BadRecords("set", False))
    return Loader(FakeSet(schedule.count), PIPELINE, source, bad, schedule, CPU, torch.uint8)


def check(fetched, step):
    """Check that a fetched step equals the answer of a worker."""
    expected = answer(chunks.Question(step.epoch, step.rows))
    assert dataclasses.astuple(fetched.step)[:4] == dataclasses.astuple(step)[:4]
    assert fetched.rows.tolist() == step.rows.tolist()
    assert np.array_equal(fetched.images.numpy(), expected.images)
    assert fetched.targets.tolist() == expected.targets.tolist()


def run(source, schedule, workers, steps, *, pause=lambda: 0.0, epoch=0, position=0):
    """Fetch `steps` steps. Check each one and the number of chunks in flight. Return the simulated seconds of each."""
    took = []
    for step in itertools.islice(schedule.steps_from(epoch, position), steps):
        bound = len(numbers_of(step)) + max(WINDOW, -(-schedule.batch_size // chunks.POSITIONS))
        begun, workers.most = workers.clock.now, 0
        check(source.fetch(step.epoch, step.start), step)
        assert workers.most <= bound
        took.append(workers.clock.now - begun)
        workers.clock.now += pause()
        workers.count()
        assert workers.most <= bound
        wanted = [piece for piece in source._pieces.values() if piece.chunk is None]
        known = sum(len(piece.tickets) for piece in wanted) + (source._probe is not None)
        assert workers.under_way <= known  # all others are dropped
    return took


def expected_keys(schedule, steps):
    """Return the keys of the chunks of the first steps, in order."""
    return list(
        dict.fromkeys(
            chunks.question(schedule.order(step.epoch), step.epoch, number).key
            for step in itertools.islice(schedule.steps_from(0, 0), steps)
            for number in numbers_of(step)
        )
    )


def faulty_workers(seed):
    """Return workers that die, freeze, become unreachable and recover, in an order determined by the seed."""
    chance = random.Random(seed)
    names = [f"w{number}" for number in range(chance.randint(1, 5))]
    slow = chance.choice([0.2, 0.2, 3.0])
    made = {name: Worker((0.0, chance.uniform(0.01, slow)), serial=chance.random() < 0.5) for name in names}
    workers = FakeWorkers(
        made, seed=seed, one_by_one=seed % 2 == 0, twice=chance.choice([0, 0.3]), losing=chance.choice([0, 0, 0.3])
    )
    workers.change(names[0], frozen=chance.random() < 0.3)
    for _ in range(chance.randint(0, 12)):
        one, what = chance.choice(names), chance.choice(["frozen", "gone", "listed"])
        for name in names if chance.random() < 0.2 else [one]:
            start, length = chance.uniform(0, 12), chance.choice([0.3, 2.0, 10.0, 45.0])
            workers.later(start, lambda n=name, w=what: workers.change(n, **{w: w != "listed"}))
            workers.later(start + length, lambda n=name, w=what: workers.change(n, **{w: w == "listed"}))
    workers.later(80, lambda: [workers.change(name, frozen=False) for name in names])
    return workers
