"""Loaders behave like ordinary iterables: complete epochs after any kind of interruption, and exact states."""

import copy
import gc
import itertools
import json
import logging
import pickle
import re

import numpy as np
import pytest
import torch
from tqdm import tqdm

from dali_mix import build_loader
from dali_mix.recordio import RecordSet, write_set
from tests.loading.sets import encode, picture, png_set

SOURCES = {"exact": ("imagenet", {}), "cached": ("cifar", {})}
STEPS = 5  # 20 records, 4 per step


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    return RecordSet(png_set(tmp_path_factory.mktemp("twenty") / "set", 20))


def loader(records, source="cached", train=True, **more):
    name, options = SOURCES[source]
    options = {"batch_size": 4, "device": "cpu", "num_threads": 1, "pipeline_options": {"image_size": 32}} | options
    return build_loader(name, records, train=train, **(options | more))


def ids(batches):
    return [number for batch in batches for number in batch.ids.tolist()]


def epochs(records, source="cached", train=True, count=3, **more):
    """Return the record numbers of the first epochs of an uninterrupted loader."""
    one = loader(records, source, train, **more)
    return [ids(one) for _ in range(count)]


def pickled(one):
    return pickle.loads(pickle.dumps(one))  # noqa: TID251


def position_of(one):
    return one.epoch, one.samples_seen


# Ways to iterate over an epoch; each must yield the complete epoch.
def by_for(one):
    return ids(one)


def by_zip(one):
    return ids(batch for _, batch in zip(range(len(one)), one, strict=False))


def by_islice(one):
    return ids(itertools.islice(one, len(one)))


def by_next(one):
    batches = iter(one)
    return ids(next(batches) for _ in range(len(one)))


def by_enumerate_and_break(one):
    found = []
    for number, batch in enumerate(one):
        found += batch.ids.tolist()
        if number + 1 == len(one):
            break
    return found


def by_tqdm(one):
    return ids(tqdm(one, disable=True))


def by_kept_iterator(one):
    by_kept_iterator.kept = iter(one)  # the generator is not garbage-collected
    return ids(itertools.islice(by_kept_iterator.kept, len(one)))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("way", [by_for, by_zip, by_islice, by_next, by_enumerate_and_break, by_tqdm, by_kept_iterator])
def test_every_way_of_iterating_yields_complete_epochs(twenty, source, train, way):
    one = loader(twenty, source, train)
    found = [way(one) for _ in range(3)]
    assert found == epochs(twenty, source, train)
    assert [sorted(epoch) for epoch in found] == [list(range(20))] * 3
    assert position_of(one) == (3, 0) and len(one) == STEPS


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_partial_iteration_restarts_epoch(twenty, source, train, taken):
    expected = epochs(twenty, source, train)
    one = loader(twenty, source, train)
    for epoch in range(2):
        for _ in range(2):
            assert ids(itertools.islice(one, taken)) == expected[epoch][: 4 * taken]
            assert position_of(one) == (epoch, 4 * taken)
        iter(one)
        assert position_of(one) == (epoch, 0)  # a state now describes the new iterator
        assert ids(one) == expected[epoch]


@pytest.mark.parametrize("how", ["exception", "return", "collected", "closed"])
def test_loop_after_interrupted_loop_yields_complete_epoch(twenty, how):
    expected = epochs(twenty, "exact")
    one = loader(twenty, "exact")

    def part():
        for number, _ in enumerate(one):
            if number == 2:
                if how == "exception":
                    raise KeyError("of the body")
                return

    if how == "exception":
        with pytest.raises(KeyError):
            part()
    elif how == "return":
        part()
    else:
        batches = iter(one)
        next(batches)
        if how == "closed":
            batches.close()
        del batches
        gc.collect()
    assert [ids(one) for _ in range(3)] == expected


@pytest.mark.parametrize("source", ["exact", "cached"])
def test_iteration_continues_after_close(twenty, source):
    one, found = loader(twenty, source), []
    for batch in one:
        found += batch.ids.tolist()
        one.close()
    assert [found, ids(one)] == epochs(twenty, source, count=2)


def test_itertools_cycle_and_chain(twenty):
    one = loader(twenty)
    assert ids(itertools.islice(itertools.cycle(one), 12)) == (epochs(twenty, count=1)[0] * 3)[:48]  # it stores batches
    one = loader(twenty)
    endless = itertools.chain.from_iterable(itertools.repeat(one))
    assert ids(itertools.islice(endless, 3 * STEPS)) == list(itertools.chain(*epochs(twenty)))


@pytest.mark.parametrize("source", SOURCES)
def test_second_iterator_invalidates_the_first(twenty, source):
    one = loader(twenty, source)
    first = iter(one)
    next(first)
    second = iter(one)
    begun = ids([next(second)])
    with pytest.raises(RuntimeError, match=r"set'.*another iter\(\) of this loader was started.*build a second loader"):
        next(first)
    assert begun + ids(second) == epochs(twenty, source, count=1)[0]
    with pytest.raises(RuntimeError, match="another iter"):
        list(zip(one, one, strict=True))
    done = iter(one)
    assert len(list(itertools.islice(done, STEPS))) == STEPS
    next(iter(one))
    assert next(done, None) is None  # it was already exhausted


def test_loaders_of_one_set_are_independent(twenty):
    train, other, val = loader(twenty), loader(twenty), loader(twenty, train=False)
    assert ids(train) == ids(other)
    shown = []
    for batch, twin in zip(train, other, strict=True):
        assert torch.equal(batch.ids, twin.ids)
        shown += batch.ids.tolist()
        assert ids(val) == list(range(20))
        next(iter(val))
    assert shown == epochs(twenty, count=2)[1]


@pytest.mark.parametrize("source", SOURCES)
def test_set_epoch_always_restarts_the_epoch(twenty, source):
    expected = epochs(twenty, source)
    one = loader(twenty, source)
    for epoch in (0, 0, 2, 1):
        next(iter(one))
        one.set_epoch(epoch)
        assert position_of(one) == (epoch, 0)
        assert ids(one) == expected[epoch]
    found = []
    for batch in one:  # epoch 2: going back to its start ends the loop
        found.append(batch)
        one.set_epoch(2)
    assert len(found) == 1 and ids(one) == expected[2]
    batches = iter(one)
    one.set_epoch(1)  # between iter() and the first batch
    assert ids(batches) == expected[1]
    state = one.state_dict() | {"epoch": 1, "samples_seen": 8}
    one.load_state_dict(state)
    one.set_epoch(1)
    assert ids(one) == expected[1]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("source", ["exact", "cached"])
@pytest.mark.parametrize("taken", range(STEPS + 1))
@pytest.mark.parametrize("when", ["inside", "after a break", "on a fresh iterator"])
def test_state_is_exact_at_any_step(twenty, source, train, taken, when):
    first, second, third = epochs(twenty, source, train)
    one = loader(twenty, source, train)
    if when == "inside":
        state = one.state_dict()
        for _, batch in zip(range(taken), one, strict=False):
            state = one.state_dict()
            assert len(batch.ids) == 4
    else:
        batches = iter(one)
        shown = list(itertools.islice(batches, taken))
        state = one.state_dict()
        if when == "on a fresh iterator" and len(shown) < STEPS:
            iter(one)
            state, taken = one.state_dict(), 0
    rest = [first[4 * taken :], second, third] if taken < STEPS else [second, third]
    assert (state["epoch"], state["samples_seen"]) == ((0, 4 * taken) if taken < STEPS else (1, 0))
    for other in (loader(twenty, source, train), one):
        other.load_state_dict(json.loads(json.dumps(state)))
        assert len(other) == STEPS
        assert other.state_dict() == state
        iter(other)  # an unused iterator does not consume the position
        assert [ids(other) for _ in rest] == rest


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [True, False])
def test_last_batch_completes_epoch_on_every_rank(tmp_path, world_size, drop_last):
    records = RecordSet(png_set(tmp_path / "set", 22))
    ranks = [
        loader(records, batch_size=3, rank=rank, world_size=world_size, drop_last=drop_last)
        for rank in range(world_size)
    ]
    for epoch in range(2):
        for _ in zip(range(len(ranks[0])), *ranks, strict=False):
            assert len({position_of(one) for one in ranks}) == 1
        assert [position_of(one) for one in ranks] == [(epoch + 1, 0)] * world_size
    # Records may be left over or dropped. A state after the last step still counts as a completed epoch.
    state = ranks[0].state_dict() | {"epoch": 5, "samples_seen": 22}
    for one in ranks:
        one.load_state_dict(state)
        assert position_of(one) == (6, 0) and len(ids(one)) > 0


def test_evaluation_rank_without_records_yields_nothing(tmp_path):
    records = RecordSet(png_set(tmp_path / "two", 2))
    ranks = [loader(records, train=False, rank=rank, world_size=3) for rank in range(3)]
    for _ in range(3):
        assert [ids(itertools.islice(one, len(one))) for one in ranks] == [[0], [1], []]
    assert [ids(one) for one in ranks] == [[0], [1], []]


@pytest.mark.parametrize("name", ["imagenet", "cifar"])
@pytest.mark.parametrize("bad", [{3}, {0, 1, 2, 3}, {8, 9, 10, 11}, {4, 5, 6, 7, 8, 9, 10, 11}])
def test_skipped_records_keep_epochs_and_states_exact(tmp_path, name, bad):
    """If all records of the last steps are skipped, the batch before them completes the epoch."""
    good = [encode(picture(40, 40, seed=number)) for number in range(12)]
    samples = [(b"<html>" if i in bad else good[i], 0, 40, 40, "png") for i in range(12)]
    write_set(tmp_path / "set", samples, classes="a")
    left = [number for number in range(12) if number not in bad]
    source = {"imagenet": "exact", "cifar": "cached"}[name]
    one = loader(RecordSet(tmp_path / "set"), source, False, on_bad_record="skip")
    for epoch in range(3):
        taken = []
        while len(taken) < len(left):  # stops at the last good record, without asking for more
            state = one.state_dict()
            other = loader(RecordSet(tmp_path / "set"), source, False, on_bad_record="skip")
            other.load_state_dict(state)
            assert taken + ids(other) == left
            one.load_state_dict(state)
            taken += ids(itertools.islice(one, 1))
        assert taken == left and position_of(one) == (epoch + 1, 0)
    assert ids(one) == left


def test_repeatedly_restarted_epoch_warns_once(twenty, caplog):
    one = loader(twenty)
    with caplog.at_level(logging.WARNING, "dali_mix"):
        for _ in range(3):
            next(iter(one))  # inspecting the first batch
        ids(one)
        assert not caplog.messages
        for _ in range(4):
            ids(itertools.islice(one, 3))
    (message,) = caplog.messages
    assert "epoch 1, samples_seen 12" in message and "restarts the epoch" in message
    first, second, third = epochs(twenty)
    ids(itertools.islice(one, 2))  # follows the advice of the message
    one.load_state_dict(one.state_dict())
    assert ids(one) == second[8:]
    one.set_epoch(2)
    assert ids(one) == third != first
    with caplog.at_level(logging.WARNING, "dali_mix"):
        val = loader(twenty, train=False)
        for _ in range(3):
            ids(itertools.islice(val, 3))
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("source", SOURCES)
def test_pickle_and_deepcopy_keep_position(twenty, source):
    expected = epochs(twenty, source)
    one = loader(twenty, source)
    ids(one)
    for other in (pickled(one), copy.deepcopy(one)):
        assert position_of(other) == (1, 0) and ids(other) == expected[1]
    next(iter(one))
    assert ids(pickled(one)) == expected[1] == ids(one)


def test_repr_shows_configuration_and_position(twenty):
    one = loader(twenty, "exact")
    next(iter(one))
    assert repr(one) == (
        f"Loader('{twenty.prefix}': 20 records, pipeline 'imagenet', train, batch_size 4, epoch 0, samples_seen 4)"
    )
    one = loader(twenty, train=False, rank=1, world_size=2)
    one.set_epoch(3)
    assert repr(one) == (
        f"Loader('{twenty.prefix}': 20 records, pipeline 'cifar', eval, batch_size 4, epoch 3, samples_seen 0,"
        " rank 1 of 2)"
    )
    assert "\n" not in repr(one)


@pytest.mark.parametrize("epoch", ["a", "1", -1, 1.5, 2.0, None, True, [1], float("nan")])
def test_set_epoch_refuses_invalid_values(twenty, epoch):
    one = loader(twenty)
    with pytest.raises(ValueError, match=re.escape(f"epoch={epoch!r}: must be an integer of at least 0")):
        one.set_epoch(epoch)
    assert position_of(one) == (0, 0)


@pytest.mark.parametrize("epoch", [3, np.int64(3), torch.tensor(3).item()])
def test_set_epoch_accepts_any_integer_type(twenty, epoch):
    one = loader(twenty)
    one.set_epoch(epoch)
    assert position_of(one) == (3, 0) and type(one.epoch) is int
