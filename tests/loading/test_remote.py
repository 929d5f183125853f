"""`RemoteSource` returns correct steps with faulty workers and random access, and requests no unnecessary chunks."""

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
from tests.loading.remote_sources import Direct, expected_keys, faulty_workers, loader_of, run, schedule_of, source_of

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
def test_steps_are_correct_with_faulty_workers(schedule, size, seed):
    with patch.object(chunks, "POSITIONS", size), patch.object(remote, "POSITIONS", size):
        workers, chance = faulty_workers(seed), random.Random(seed)
        source = source_of(workers, schedule)
        steps = schedule.steps_left(0) * 2
        run(source, schedule, workers, steps, pause=lambda: chance.choice([0, 0, 0.1, 2.0]))
        assert source.second_asks <= sum(times > 1 for times in workers.asked.values())
        source.close()
        assert not workers.under_way


@given(st.data(), st.integers(0, 1 << 30), positions)
@settings(max_examples=500, deadline=None)
def test_random_loader_calls_match_source_without_workers(data, seed, size):
    chance = random.Random(seed)
    count, batch = chance.randint(6, 300), chance.randint(1, 30)
    train = chance.random() < 0.7
    with patch.object(chunks, "POSITIONS", size), patch.object(remote, "POSITIONS", size):
        workers = faulty_workers(seed)

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
def test_ranks_fetch_each_record_once(count, batch, world_size, train, grouped, size):
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
def test_chunks_are_requested_once_in_order_without_faults(schedule, size, seed, pace):
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


def test_bad_records_are_reported_only_for_their_step():
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


def test_close_drops_all_chunks_and_fetch_restarts():
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


def test_jump_drops_unneeded_pending_chunks():
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


def test_restarted_iteration_reuses_requested_chunks():
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
def test_evaluation_requests_only_its_own_chunks(schedule, expected):
    workers = FakeWorkers(3)
    source = source_of(workers, schedule)
    loader = loader_of(source, schedule)
    for epoch in range(1, 4):
        assert len(list(loader)) == schedule.steps_left(0)
        assert len(workers.log) == expected * epoch and not workers.under_way


def test_rank_without_records_requests_nothing():
    workers = FakeWorkers(3)
    schedule = schedule_of(2, 4, 2, 3, train=False)
    assert list(loader_of(source_of(workers, schedule), schedule)) == [] and not workers.log


@pytest.mark.parametrize(("batch", "first"), [(8, 5), (64, 5), (256, 8), (512, 16), (1000, 32)])
def test_requests_in_flight_scale_with_batch_size(batch, first):
    workers = FakeWorkers(3)
    schedule = schedule_of(64000, batch)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 1)
    assert len(workers.log) == first
    run(source, schedule, workers, 20, position=batch)
    assert source_of(FakeWorkers(1), schedule, window=40)._window == 40


def test_epoch_smaller_than_chunk_requests_one_chunk():
    workers = FakeWorkers(3)
    schedule = schedule_of(10, 4)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 300)
    assert len(workers.log) == 100 + WINDOW and source.second_asks == 0
    assert len(source._orders) <= 2


def test_unpickled_source_restarts_without_chunks():
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


def test_fork_restarts_child_and_keeps_parent_requests():
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


def test_regroup_drops_requests_only_if_order_changes():
    workers = FakeWorkers(3)
    schedule = schedule_of(640, 8, groups=np.arange(640) % 2)
    source = source_of(workers, schedule)
    run(source, schedule, workers, 3)
    source.regroup(16)
    assert workers.closed == 1 and not workers.under_way
    run(source, dataclasses.replace(schedule, group_step=16), workers, 80)
    source.regroup(16)
    assert workers.closed == 1
