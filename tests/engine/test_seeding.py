"""Seeds derived from keys."""

from dali_mix.engine.train.seeding import derive_seed


def test_seeds_do_not_collide():
    seeds = {derive_seed(a, b, c) for a in range(3) for b in range(40) for c in range(40)}
    assert len(seeds) == 3 * 40 * 40
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive_seed(1, 2) != derive_seed(2, 1)
    assert derive_seed(1, 2, 3) == derive_seed(1, 2, 3)
