"""The order of in-place writes, and concurrent callers."""

import itertools
import threading

import numpy as np
import pytest
import torch

from dali_mix.mixers.kernels import numba_paste, torch_paste
from dali_mix.mixers.ops import paste
from tests.mixers.batches import batch, boxes_for


@pytest.mark.parametrize("count", [0, 1, 2, 128])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_chain_order_stages_few_images(count, parts):
    partners = np.random.default_rng(count).permutation(count)
    chain, staged_at = numba_paste.loops.chain(partners, True)
    assert staged_at.tolist() == [-1] * count
    backwards, _ = numba_paste.loops.chain(partners, False)
    assert backwards.tolist() == chain[::-1].tolist()
    assert sorted(chain) == list(range(count))
    assert all(b == partners[a] or partners[a] in chain[: i + 1] for i, (a, b) in enumerate(itertools.pairwise(chain)))
    order = np.array_split(chain, parts)
    late = numba_paste.read_too_late(partners, order)
    cycles, seen = 0, set()
    for start in range(count):
        cycles += start not in seen
        while start not in seen:
            seen.add(start)
            start = partners[start]
    assert len(late) <= cycles + parts - 1
    written = {}
    for part, members in enumerate(order):
        for index, image in enumerate(members):
            written[image] = part, index
    for image in set(range(count)) - set(late):
        part, index = written[image]
        assert written[partners[image]][0] == part
        assert written[partners[image]][1] > index


def test_concurrent_callers_get_correct_results():
    images, permutation, boxes = batch(16), torch.randperm(16), boxes_for(16)
    wanted = torch_paste.paste_nearest(images, permutation, boxes)
    results = []

    def work():
        results.extend(paste.paste_resized(images, permutation, boxes, "nearest") for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    assert all(torch.equal(result, wanted) for result in results)
