import numpy as np
import pytest
from dali_mix.pipelines.random import SampleRandom, philox4x32

# kat_vectors of Random123 for philox4x32-10: (counter, key, result).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def test_philox_matches_published_vectors():
    for counter, key, expected in KNOWN:
        assert philox4x32(np.array(counter, dtype=np.uint32), key).tolist() == list(expected)
    together = philox4x32(np.array([KNOWN[0][0], KNOWN[0][0]], dtype=np.uint32).T, KNOWN[0][1])
    assert together.T.tolist() == [list(KNOWN[0][2])] * 2


def test_draws_of_a_record_do_not_depend_on_others():
    ids = np.array([5, 0, 123_456_789_012, 7])
    together = SampleRandom(9, 3, ids)
    first, second, third = together.uniform(5), together.integers(0, 100, 3), together.normal(2)
    for place, number in enumerate(ids):
        alone = SampleRandom(9, 3, np.array([number]))
        assert np.array_equal(alone.uniform(5)[0], first[place])
        assert np.array_equal(alone.integers(0, 100, 3)[0], second[place])
        assert np.array_equal(alone.normal(2)[0], third[place])


def test_draws_depend_on_seed_epoch_record_call_and_branch():
    def drawn(seed=1, epoch=0, number=0, skip=0, branch=0):
        random = SampleRandom(seed, epoch, np.array([number]))
        for _ in range(skip):
            random.uniform(1)
        return (random.branch(branch) if branch else random).uniform(1)[0, 0]

    others = [drawn(seed=2), drawn(seed=1 + (1 << 40)), drawn(epoch=1), drawn(number=1), drawn(number=1 << 33)]
    others += [drawn(skip=1), drawn(branch=1), drawn(branch=2)]
    assert len({drawn(), *others}) == 9
    assert drawn(skip=3, branch=1) == drawn(branch=1)


def test_draws_have_expected_distribution():
    random = SampleRandom(0, 0, np.arange(20_000))
    uniform, normal = random.uniform(3), random.normal(3)
    assert uniform.min() >= 0 and uniform.max() < 1
    counts = np.histogram(uniform, bins=50, range=(0, 1))[0]
    assert ((counts - 1200) ** 2 / 1200).sum() < 95  # chi-squared with 49 degrees of freedom, p = 0.0001
    assert abs(np.corrcoef(uniform.T) - np.eye(3)).max() < 0.03
    assert abs(normal.mean()) < 0.02 and abs(normal.std() - 1) < 0.02
    assert abs((abs(normal) < 1.96).mean() - 0.95) < 0.005


def test_first_words_do_not_depend_on_count():
    """The first words do not depend on the number of words drawn."""
    first = SampleRandom(1, 2, np.arange(3)).words(12)
    for count in (1, 3, 4, 6):
        assert np.array_equal(SampleRandom(1, 2, np.arange(3)).words(count), first[:, :count])


def test_integers_accept_bounds_per_record():
    random = SampleRandom(4, 0, np.arange(3000))
    high = np.arange(3000)[:, None] % 5 + 1
    drawn = random.integers(0, high, 2)
    assert drawn.dtype == np.int64 and (drawn >= 0).all() and (drawn < high).all()
    assert set(drawn[high[:, 0] == 5].ravel()) == set(range(5))
    assert set(random.integers(-2, 3, 1).ravel()) == {-2, -1, 0, 1, 2}
    with pytest.raises(ValueError, match="high must be above low"):
        random.integers(3, 3, 1)


def test_out_of_range_arguments_are_refused():
    for seed, epoch in ((-1, 0), (1 << 64, 0), (0, -1), (0, 1 << 32)):
        with pytest.raises(ValueError, match=r"seed|epoch"):
            SampleRandom(seed, epoch, np.arange(2))
    with pytest.raises(ValueError, match="branch"):
        SampleRandom(0, 0, np.arange(2)).branch(0)
