"""`RemoteSource`: correct steps whatever the workers and the trainer do, without requesting unnecessary chunks."""

import copy
import dataclasses
import os
import pickle
import random
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_mix.loading import chunks, remote
from dali_mix.loading.remote import WINDOW
from tests.loading.fake_workers import FakeWorkers, Worker, answer
from tests.loading.remote_sources import Direct, expected_keys, loader_of, run, schedule_of, source_of, troubled

positions = st.sampled_from([1, 3, 8, 64])
ranks = st.integers(1, 5).flatmap(lambda world: st.tuples(st.integers(0, world - 1), st.just(world)))
schedules = st.builds(
    lambda count, batch, rank, train, drop_last: schedule_of(
        count, batch, *rank, train=train, drop_last=drop_last
    ),
    st.integers(1, 120), st.integers(1, 30), ranks, st.booleans(), st.booleans(),
).filter(lambda schedule: schedule.steps_left(0))  # fmt: skip


@given(schedules, positions, st.integers(0, 1 << 30))
@settings(max_examples=1500, deadline=None)
def test_every_step_is_right_whatever_the_workers_do(schedule, size, seed):
    with patch.object(chunks, "POSITIONS", size), patch.object(remote, "POSITIONS", size):
        workers, chance = troubled(seed), random.Random(seed)
        source = source_of(workers, schedule)
        steps = schedule.steps_left(0) * 2
        run(source, schedule, workers, steps, pause=lambda: chance.choice([0, 0, 0.1, 2.0]))
        assert source.second_asks <= sum(times > 1 for times in workers.asked.values())
        source.close()
        assert not workers.under_way


@given(st.data(), st.integers(0, 1 << 30), positions)
@settings(max_examples=500, deadline=None)
def test_a_trainer_that_moves_about_finds_what_it_would_without_workers(data, seed, size):
    chance = random.Random(seed)
    count, batch = chance.randint(6, 300), chance.randint(1, 30)
    train = chance.random() < 0.7
    with patch.object(chunks, "POSITIONS", size), patch.object(remote, "POSITIONS", size):
        workers = troubled(seed)

        def pair(world_size):
            schedule = schedule_of(count, batch, chance.randrange(world_size), world_size, train=train)
            source = source_of(workers, schedule)
            return loader_of(source, schedule), loader_of(Direct(schedule, source._device), schedule)

        both = pair(chance.randint(1, 3))
        iterators = [iter(one) for one in both]
        for move in data.draw(st.lists(st.sampled_from("aaaisrwcpe"), max_size=12)):
            if move == "i":
                iterators = [iter(one) for one in both]
            elif move == "s":
                epoch = chance.randint(0, 2)
                for one in both:
                    one.set_epoch(epoch)
                iterators = [iter(one) for one in both]
            elif move == "r":  # another run on other ranks
                state = both[1].state_dict()
                assert both[0].state_dict() == state
                both[0].close()
                both = pair(chance.randint(1, 3))
                for one in both:
                    one.load_state_dict(state, strict=False)
                iterators = [iter(one) for one in both]
            elif move == "w":
                both[0]._source.close()
            elif move == "c":
                workers.clock.now += chance.choice([1.0, 20.0])
            elif move == "p":
                both = (copy.deepcopy(both[0]), both[1])
                workers = both[0]._source._workers
                for worker in workers.workers.values():
                    worker.frozen, worker.gone, worker.listed = False, False, True
                for one in both:
                    one.load_state_dict(both[1].state_dict())
                iterators = [iter(one) for one in both]
            for _ in range(chance.randint(1, 9) if move in "ae" else 1):
                mine, theirs = (next(one, None) for one in iterators)
                if theirs is None:
                    assert mine is None
                    iterators = [iter(one) for one in both]
                    continue
                assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        assert both[0].state_dict() == both[1].state_dict()


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 5), st.booleans(), st.booleans(), positions)
@settings(max_examples=200, deadline=None)
def test_the_ranks_take_each_record_once(count, batch, world_size, train, grouped, size):
    groups = np.arange(count) % 3 // 2 if grouped and train else None
    with patch.object(chunks, "POSITIONS", size), patch.object(remote, "POSITIONS", size):
        seen = []
        for rank in range(world_size):
            schedule = schedule_of(count, batch, rank, world_size, train=train, groups=groups)
            workers = FakeWorkers(3, seed=count)
            source, position = source_of(workers, schedule), 0
            while schedule.steps_left(position):
                fetched = source.fetch(0, position)
                seen += fetched.rows.tolist()
                position = fetched.step.end
        assert len(set(seen)) == len(seen)
        assert count - len(seen) < (world_size if train else 1)


@given(
    schedules,
    positions,
    st.integers(0, 1 << 30),
    st.sampled_from([((0.0, 0.9), 0), ((0.0, 0.9), 0.5), ((0.0, 0.9), 40.0), ((2.0, 6.0), 0), ((2.0, 6.0), 0.5)]),
)
@settings(max_examples=400, deadline=None)
def test_without_faults_each_chunk_is_asked_for_once_and_in_order(schedule, size, seed, pace):
    latency, pause = pace
    with patch.object(chunks, "POSITIONS", size), patch.object(remote, "POSITIONS", size):
        workers = FakeWorkers({name: Worker(latency) for name in "abc"}, seed=seed, twice=0.2, one_by_one=seed % 2 == 0)
        source, chance = source_of(workers, schedule), random.Random(seed)
        steps = schedule.steps_left(0) * (2 if schedule.train else 1)
        run(source, schedule, workers, steps, pause=lambda: chance.uniform(0, pause))
        asked, expected = [question.key for _, _, question in workers.log], expected_keys(schedule, steps)
        window = max(WINDOW, -(-schedule.batch_size // size))
        assert asked[: len(expected)] == expected and source.second_asks == 0
        assert len(asked) == len(set(asked)) <= len(expected) + (window if schedule.train else 0)
        assert not workers.refused and not workers.dropped


def test_bad_records_are_told_of_once_and_only_those_of_the_step():
    for skip in (False, True):
        workers = FakeWorkers(2, answer=lambda question: answer(question, {3, 40}))
        schedule = schedule_of(100, 10, train=False)
        source = source_of(workers, schedule, skip=skip)
        if skip:
            assert source.fetch(0, 0).rows.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        else:
            with pytest.raises(ValueError, match="record 3: bad; run `dali-mix verify set` to find"):
                source.fetch(0, 0)
        assert source.fetch(0, 10).rows.tolist() == list(range(10, 20))
        assert source._bad.skipped == ([(3, "record 3: bad")] if skip else [])
        if skip:
            assert source.fetch(0, 40).rows.tolist() == list(range(41, 50))
        else:
            with pytest.raises(ValueError, match="record 40: bad; run `dali-mix verify --decode set`"):
                source.fetch(0, 40)
        assert len(workers.log) == 2
    source = source_of(FakeWorkers(2, answer=lambda question: answer(question, set(range(100)))), schedule, skip=True)
    with pytest.raises(ValueError, match="set: none of its records can be read: record 0: bad"):
        list(loader_of(source, schedule))


def test_close_drops_all_and_the_next_fetch_begins_again():
    workers = FakeWorkers(3)
    schedule = schedule_of(640, 8)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 5)
    source.close()
    workers.most = 0
    workers.count()
    assert not workers.under_way and workers.most == 0 and workers.closed == 1
    run(source, schedule, workers, 100, position=40)
    workers.most = 0
    source.close()
    workers.count()
    assert workers.most == 0


def test_what_is_not_wanted_any_more_is_dropped():
    workers = FakeWorkers(3)
    schedule = schedule_of(640, 64)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 1)
    before = workers.under_way
    assert before
    run(source, schedule, workers, 1, epoch=3)
    assert workers.dropped == before
    run(source, schedule, workers, 1, epoch=3, position=128)  # needs two pending chunks, requests two more
    assert len(workers.log) == 2 * (1 + WINDOW) + 2


def test_the_first_steps_again_cost_nothing():
    workers = FakeWorkers(3)
    schedule = schedule_of(640, 8)
    source = source_of(workers, schedule)
    loader = loader_of(source, schedule)
    for _ in range(5):
        next(iter(loader))
    assert len(workers.log) == 1 + WINDOW and not workers.dropped


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedule_of(640, 64, train=False), 10),
        (schedule_of(7, 2, train=False), 1),
        (schedule_of(2, 4, 1, 3, train=False), 1),
        (schedule_of(640, 30, train=False, drop_last=True), 10),
        (schedule_of(650, 64, train=False, drop_last=True), 10),
        (schedule_of(64 * 5, 64, 1, 5, train=False), 1),
    ],
)
def test_an_evaluation_asks_for_its_own_chunks_only(schedule, expected):
    workers = FakeWorkers(3)
    source = source_of(workers, schedule)
    loader = loader_of(source, schedule)
    for epoch in range(1, 4):
        assert len(list(loader)) == schedule.steps_left(0)
        assert len(workers.log) == expected * epoch and not workers.under_way


def test_ranks_without_a_record_ask_for_nothing():
    workers = FakeWorkers(3)
    schedule = schedule_of(2, 4, 2, 3, train=False)
    assert list(loader_of(source_of(workers, schedule), schedule)) == [] and not workers.log


@pytest.mark.parametrize(("batch", "first"), [(8, 5), (64, 5), (256, 8), (512, 16), (1000, 32)])
def test_as_many_chunks_are_under_way_as_the_next_step_needs(batch, first):
    workers = FakeWorkers(3)
    schedule = schedule_of(64000, batch)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 1)
    assert len(workers.log) == first
    run(source, schedule, workers, 20, position=batch)
    assert source_of(FakeWorkers(1), schedule, window=40)._window == 40


def test_an_epoch_smaller_than_a_chunk():
    workers = FakeWorkers(3)
    schedule = schedule_of(10, 4)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 300)
    assert len(workers.log) == 100 + WINDOW and source.second_asks == 0
    assert len(source._orders) <= 2


def test_in_a_pickle_it_starts_again():
    workers = FakeWorkers(3)
    schedule = schedule_of(100_000, 64)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 20)
    data = pickle.dumps(source)
    assert len(data) < 20_000  # neither the order nor any chunk
    other = pickle.loads(data)  # noqa: TID251
    assert other._workers is not workers and other._clock is other._workers.clock
    run(other, schedule, other._workers, 20, position=1280)
    run(source, schedule, workers, 20, position=1280)
    assert not workers.dropped and max(workers.asked.values()) == 1


def test_after_a_fork_the_child_starts_again_and_the_parent_goes_on():
    workers = FakeWorkers(3)
    schedule = schedule_of(6400, 64)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 20)
    asked = len(workers.log)
    pid = os.fork()
    if pid == 0:
        try:
            assert not source._pieces and not workers.dropped and not workers.closed
            workers.close()  # in a child, the workers do this themselves
            run(source, schedule, workers, 10, position=1280)
            assert len(workers.log) == asked + 10 + WINDOW
            os._exit(0)
        finally:
            os._exit(3)
    assert os.waitpid(pid, 0)[1] == 0
    run(source, schedule, workers, 20, position=1280)
    assert len(workers.log) == asked + 20


def test_another_order_drops_what_was_asked():
    workers = FakeWorkers(3)
    schedule = schedule_of(640, 8, groups=np.arange(640) % 2)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 3)
    source.regroup(16)
    assert workers.closed == 1 and not workers.under_way
    run(source, dataclasses.replace(schedule, group_step=16), workers, 80)
    source.regroup(16)
    assert workers.closed == 1
