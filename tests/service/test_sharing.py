"""Several trainers on one pool, all kinds of sets, and resuming in mid-epoch: bit-equal with the in-process loader."""

import itertools
import time

import numpy as np
import pytest

from dali_mix import build_loader
from dali_mix.loading import remote as sources
from dali_mix.recordio import write_set
from tests.loading.sets import boxed_set, encode, picture
from tests.service.serving import same, wait_until_idle


def loader(prefix, name="imagenet", *, batch_size=24, size=64, options=None, **more):
    more = {"train": True, "device": "cpu", "num_threads": 1} | more
    return build_loader(name, prefix, batch_size=batch_size, pipeline_options=options or {"image_size": size}, **more)


def test_trainers_with_different_batch_sizes_share_chunks(pool, records):
    kinds = [{"batch_size": 24}, {"batch_size": 37}, *({"rank": r, "world_size": 2, "batch_size": 16} for r in (0, 1))]
    kinds = [{"seed": 1000, **kind} for kind in kinds]
    before = wait_until_idle(pool)
    remote = [iter(loader(records.prefix, workers=pool, **kind)) for kind in kinds]
    local = [iter(loader(records.prefix, **kind)) for kind in kinds]
    ids = [[] for _ in kinds]
    for _ in range(200):  # all near the same position in the epoch
        for own, ours, theirs in zip(ids, remote, local, strict=True):
            if len(own) < len(records) and (batch := next(ours, None)) is not None:
                assert same(tuple(batch), tuple(next(theirs)))
                own += batch.ids.tolist()
    assert sorted(ids[0]) == sorted(ids[1]) == sorted(ids[2] + ids[3]) == list(range(len(records)))
    chunks = -(-len(records) // 64)
    status = pool.status()
    assert status["decoded"] - before["decoded"] <= 1.02 * chunks + 6 + status["second_asks"] - before["second_asks"]
    assert status["shared"] - before["shared"] >= 2 * chunks


def test_slow_trainer_stays_within_window_and_capacity(pool, records, monkeypatch):
    monkeypatch.setattr(sources, "FIRST_PATIENCE", 60.0)  # a busy machine is not a slow worker
    before = wait_until_idle(pool)["decoded"]
    batches = iter(loader(records.prefix, workers=pool, size=224, seed=2000))
    next(batches)
    assert wait_until_idle(pool)["decoded"] - before <= 5  # the next chunk and its window
    time.sleep(1)
    assert wait_until_idle(pool)["decoded"] - before <= 5
    for _ in batches:
        status = pool.status()
        assert status["bytes"] <= status["capacity"]
    assert status["decoded"] - before >= 20  # twice as many as are kept
    assert 0 < status["chunks"] <= status["capacity"] // (64 * 224 * 224 * 3) + 8  # including those under way


@pytest.mark.parametrize("train", [True, False])
def test_detection_batches_equal_local_loader(pool, tmp_path, train):
    boxed_set(tmp_path / "set", 150, 160)
    options = {"shorter": 64, "longest": 96} | ({"iou_crop": 0.5, "zoom_out": 0.3} if train else {})
    kind = {"name": "detection", "batch_size": 4, "train": train, "options": options}
    for ranks in ([{}], [{"rank": rank, "world_size": 2} for rank in range(2)]):
        for rank in ranks:
            local, remote = (loader(tmp_path / "set", workers=workers, **kind, **rank) for workers in (None, pool))
            for ours, theirs in zip(remote, local, strict=True):
                assert same(tuple(ours), tuple(theirs))
            assert remote.dropped_boxes == local.dropped_boxes


def test_multilabel_batches_equal_local_loader(pool, tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, (150, 5))
    samples = [(encode(picture(50 + i % 9, 60, seed=i)), labels[i]) for i in range(150)]
    write_set(tmp_path / "set", samples, task="multilabel", classes="abcde")
    local, remote = (loader(tmp_path / "set", "multilabel", workers=workers) for workers in (None, pool))
    for _ in range(2):
        for ours, theirs in zip(remote, local, strict=True):
            assert same(tuple(ours), tuple(theirs)) and ours.targets.shape == (len(ours.ids), 5)


@pytest.mark.parametrize("kind", [{"train": False}, {"dtype": "uint8"}, {"drop_last": True}])
def test_batches_with_other_options_equal_local_loader(pool, records, kind):
    local, remote = (loader(records.prefix, workers=workers, seed=3000, **kind) for workers in (None, pool))
    for ours, theirs in zip(remote, local, strict=True):
        assert same(tuple(ours), tuple(theirs))


def test_resumed_ranks_equal_local_loader(pool, records):
    """States saved by the in-process loader resume with the pool's loader, and vice versa."""
    states = []
    for workers in (None, pool):
        made = loader(records.prefix, workers=workers, seed=4000, batch_size=32)
        made.set_epoch(3)
        list(itertools.islice(made, 11))
        states.append(made.state_dict())
    assert states[0] == states[1]
    seen = []
    for rank in range(2):
        kind = {"rank": rank, "world_size": 2, "batch_size": 16, "seed": 4000}
        local, remote = (loader(records.prefix, workers=workers, **kind) for workers in (None, pool))
        local.load_state_dict(states[1])
        remote.load_state_dict(states[0])
        for ours, theirs in zip(remote, local, strict=True):
            assert same(tuple(ours), tuple(theirs))
            seen += ours.ids.tolist()
    assert len(seen) == len(set(seen)) == len(records) - 11 * 32
