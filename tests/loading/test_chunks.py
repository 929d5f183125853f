"""Chunk numbers, question keys, and batches cut from chunks."""

import numpy as np
import torch
from dali_mix.pipelines import normalize
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_mix import pipelines
from dali_mix.loading.chunks import POSITIONS, Chunk, Question, cut, numbers_of, pack, question
from dali_mix.loading.order import Schedule, Step

PIPELINE = pipelines.build("imagenet", True, {"image_size": 32})


def step(first, size):
    return Step(0, first, first + size, first, np.arange(first, first + size))


def test_numbers_of_returns_chunks_that_a_step_overlaps():
    assert [numbers_of(step(*place)) for place in [(0, 1), (0, 64), (0, 65), (63, 1), (63, 2), (64, 64), (5, 0)]] == [
        range(1), range(1), range(2), range(1), range(2), range(1, 2), range(0),
    ]  # fmt: skip
    assert numbers_of(step(100, 512)) == range(1, 10)


@given(st.integers(1, 1000), st.integers(1, 90), st.integers(1, 5), st.booleans())
def test_step_needs_exactly_its_numbered_chunks(count, batch_size, world_size, train):
    for rank in range(world_size):
        schedule = Schedule(count, 3, train, batch_size, rank, world_size)
        order, position = schedule.order(1), 0
        while schedule.steps_left(position):
            taken = schedule.step(order, 1, position)
            parts = [question(order, 1, number).rows for number in numbers_of(taken)]
            assert all(np.isin(taken.rows, part).any() and len(part) <= POSITIONS for part in parts)
            start = taken.first - numbers_of(taken).start * POSITIONS
            assert np.array_equal(np.concatenate(parts)[start : start + len(taken.rows)], taken.rows)
            position = taken.end


def test_question_key_depends_on_epoch_and_rows():
    order = np.random.default_rng(0).permutation(200)
    asked = question(order.astype(np.int32), 3, 3)
    assert asked.rows.tolist() == order[192:].tolist() and asked.rows.dtype == np.int64 and asked.epoch == 3
    assert asked.key == question(order, 3, 3).key and len(asked.key) == 16
    # pinned: keys must not change between versions
    assert Question(7, np.arange(64)).key.hex() == "acd1cbf7e3ac280e86ea13c5df2f0d55"
    others = [
        question(order, 4, 3), question(order, 3, 2), question(order, 3 + (1 << 64), 3),
        Question(3, asked.rows[:-1]), Question(3, asked.rows[::-1]),
    ]  # fmt: skip
    assert len({other.key for other in [asked, *others]}) == 6
    assert Question(3, np.ascontiguousarray(asked.rows[::-1])).key == others[-1].key


def fixed_size_chunk(rows, seed=0, **more):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (len(rows), 3, 6, 5), dtype=np.uint8)
    return Chunk(np.array(rows, np.int64), images, random.integers(0, 9, (len(rows), 4)), **more)


def boxed_chunk(rows, random):
    sizes = random.integers(1, 70, (len(rows), 2)).astype(np.int32)
    height, width = (sizes.max(axis=0) + 40).tolist() if len(rows) else (3, 3)
    images = random.integers(0, 256, (len(rows), 3, height, width), dtype=np.uint8)
    targets = [{"boxes": random.random((row % 3, 4)), "size": (1, 2), "dropped": row} for row in rows]
    return images, pack(np.array(rows, np.int64), images, targets, sizes, [])


def test_pack_removes_padding():
    rows = np.arange(3)
    whole, parts = boxed_chunk(rows, np.random.default_rng(0))
    assert parts.images.shape == (3 * parts.sizes.prod(axis=1).sum(),) and not np.shares_memory(whole, parts.images)
    ends = np.cumsum(3 * parts.sizes.prod(axis=1))
    for image, own, (height, width) in zip(whole, np.split(parts.images, ends), parts.sizes, strict=False):
        assert np.array_equal(own.reshape(3, height, width), image[:, :height, :width])
    images = np.zeros((2, 3, 4, 4), np.uint8)
    plain = pack(rows[:2], images, rows[:2], None, [(5, "why", True)])
    assert plain.images is images and plain.sizes is None and plain.bad == ((5, "why", True),)
    none = pack(rows[:0], np.empty((0, 3, 0, 0), np.uint8), [], np.empty((0, 2), np.int32), [])
    assert len(none.images) == len(none.rows) == 0


pieces = st.lists(st.sets(st.integers(0, 9), max_size=10), min_size=1, max_size=4)  # the valid rows of each ten


@given(pieces, st.integers(0, 39), st.integers(0, 40), st.booleans(), st.booleans(), st.integers(0, 9))
@settings(max_examples=400, deadline=None)
def test_cut_returns_valid_rows_of_step_in_order(good, first, size, normalizing, scattered, seed):
    order = np.random.default_rng(seed).permutation(40)
    parts = [order[10 * at : 10 * (at + 1)][sorted(own)] for at, own in enumerate(good)]
    all_of = [fixed_size_chunk(rows, seed + at) for at, rows in enumerate(parts)]
    rows = order[first : first + size][:: 3 if scattered else 1]
    found = cut(all_of, rows, PIPELINE if normalizing else None)
    kept = [row for row in rows.tolist() if any(row in part for part in parts)]
    assert found.rows.tolist() == kept and found.sizes is None
    if not kept:
        assert found.images is None and found.targets is None
        return
    at = {row: (chunk, place) for chunk in all_of for place, row in enumerate(chunk.rows.tolist())}
    images = torch.from_numpy(np.stack([at[row][0].images[at[row][1]] for row in kept]))
    assert np.array_equal(found.targets, [at[row][0].targets[at[row][1]] for row in kept])
    expected = normalize(images, PIPELINE.mean, PIPELINE.std) if normalizing else images
    assert torch.equal(found.images, expected) and found.images.is_contiguous()
    assert found.images.dtype == (torch.float32 if normalizing else torch.uint8)
    for chunk in all_of:
        assert not np.shares_memory(chunk.images, found.images.numpy())
        assert not np.shares_memory(chunk.targets, found.targets) and not np.shares_memory(chunk.rows, found.rows)


@given(pieces, st.integers(0, 39), st.integers(0, 40), st.booleans(), st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_cut_pads_to_largest_image_of_batch(good, first, size, normalizing, seed):
    random = np.random.default_rng(seed)
    order = random.permutation(40)
    made = [boxed_chunk(order[10 * at : 10 * (at + 1)][sorted(own)].tolist(), random) for at, own in enumerate(good)]
    rows = order[first : first + size]
    found = cut([chunk for _, chunk in made], rows, PIPELINE if normalizing else None)
    at = {row: (own, place) for own in made for place, row in enumerate(own[1].rows.tolist())}
    kept = [at[row] for row in rows.tolist() if row in at]
    assert len(found.rows) == len(kept)
    if not kept:
        return
    sizes = np.stack([chunk.sizes[place] for (_, chunk), place in kept])
    assert np.array_equal(found.sizes, sizes) and found.images.dtype == torch.uint8
    assert found.images.shape[2:] == tuple(-(-sizes.max(axis=0) // 32) * 32)
    for image, ((whole, _), place), (height, width) in zip(found.images.numpy(), kept, sizes, strict=True):
        assert np.array_equal(image[:, :height, :width], whole[place, :, :height, :width])
        assert not image[:, height:].any() and not image[:, :, width:].any()
    for target, ((_, chunk), place) in zip(found.targets, kept, strict=True):
        assert target.keys() == chunk.targets[place].keys() and target["dropped"] == chunk.targets[place]["dropped"]
        assert np.array_equal(target["boxes"], chunk.targets[place]["boxes"])
        assert not np.shares_memory(target["boxes"], chunk.targets[place]["boxes"])


def test_cut_does_not_normalize_float32_images():
    """A user's pipeline may normalize in its graph or produce any other float32 output."""
    images = np.random.default_rng(0).normal(size=(4, 3, 6, 5)).astype(np.float32)
    chunk = Chunk(np.arange(4), images, np.arange(4))
    for normalizer in (None, PIPELINE):
        assert np.array_equal(cut([chunk], np.array([1, 2]), normalizer).images.numpy(), images[1:3])
