"""SpliceMix compared with published arrays and a loop over pixels; its draws; rejected input."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from dali_mix import mixers
from dali_mix.mixers import MixChoice, SpliceMix, SpliceMixParams, kernels
from dali_mix.mixers.kernels import threads
from dali_mix.mixers.ops.targets import unite
from tests.mixers import oracles

# Arrays from a run of the published implementation in float32 on a CPU.
REFERENCE = np.load(Path(__file__).parent / "data" / "splicemix.npz")
CASES = sorted(name.removesuffix("_drop") for name in REFERENCE if name.endswith("_drop"))
DRAWS = 100_000
P_MIN = 1e-3  # seeds are fixed, so tests are deterministic


def generator(seed=11):
    return torch.Generator().manual_seed(seed)


def pictures(count=6, height=13, width=8, dtype=torch.float32, channels_last=False):
    images = torch.rand(count, 3, height, width, generator=generator(3))
    images = (images * 255).to(dtype) if dtype == torch.uint8 else (images * 4 - 2).to(dtype)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def grid(rows, cols, sources, dropped=()):
    """Return the params of one grid; `dropped` lists (image, cell) pairs."""
    flags = torch.zeros(len(sources), rows * cols, dtype=torch.bool)
    for index in dropped:
        flags[index] = True
    return SpliceMixParams(rows, cols, torch.tensor(sources), flags)


@pytest.mark.parametrize("case", CASES)
def test_splicemix_equals_published_implementation(case):
    rows, cols = map(int, re.search(r"_(\d)x(\d)_", case).groups())
    images, labels = torch.tensor(REFERENCE[f"{case}_x"]), torch.tensor(REFERENCE[f"{case}_y"])
    wanted = torch.tensor(REFERENCE[f"{case}_mixed"])
    cells = (len(wanted), rows * cols)
    drawn = SpliceMixParams(
        rows, cols, torch.arange(len(images)).view(cells), torch.tensor(REFERENCE[f"{case}_drop"]).bool().view(cells)
    )
    mixed, targets = SpliceMix().apply(images, labels, drawn)
    torch.testing.assert_close(mixed[len(images) :], wanted, rtol=0, atol=1e-6)
    assert torch.equal(mixed[: len(images)], images)
    assert torch.equal(targets[len(images) :], torch.tensor(REFERENCE[f"{case}_mixed_targets"]))
    assert torch.equal(targets[: len(images)], labels)


def join_grids(first, *more):
    return replace(first, more=more)


GRIDS = join_grids(
    grid(1, 2, [[5, 0], [2, 2]]),  # 4 cells for 6 images: resized before they are selected
    grid(3, 2, [[0, 1, 2, 3, 4, 5]], [(0, 0), (0, 3), (0, 4)]),
    grid(1, 2, [[3, 1]], [(0, 1)]),  # 2 cells: selected, then resized
)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("height", "width"), [(13, 8), (12, 7), (12, 8)])
@pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float32, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 3e-2), (torch.uint8, 0.501)]
)
def test_splicemix_equals_pixel_loop(dtype, within, height, width, channels_last):
    images = pictures(height=height, width=width, dtype=dtype, channels_last=channels_last)
    before = images.clone()
    mixed, targets = SpliceMix(num_classes=4).apply(images, torch.tensor([0, 1, 2, 3, 0, 1]), GRIDS)
    assert mixed.dtype == dtype and mixed.shape == (10, 3, height, width)
    assert mixed.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert torch.equal(images, before)
    assert torch.equal(mixed[:6], images)
    index = 6
    for drawn in GRIDS.grids:
        for sources, dropped in zip(drawn.sources.tolist(), drawn.dropped.tolist(), strict=True):
            wanted = oracles.splicemix(images, drawn.rows, drawn.cols, sources, dropped)
            torch.testing.assert_close(mixed[index].double(), wanted, rtol=0, atol=within)
            index += 1
    hot = torch.eye(4)
    assert torch.equal(targets[:6], hot[[0, 1, 2, 3, 0, 1]])
    # Not dropped: images 5 and 0; image 2 twice; images 1, 2 and 5; image 3.
    wanted_targets = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]])
    assert torch.equal(targets[6:], wanted_targets)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize(
    ("height", "width", "channels"), [(30, 42, 3), (37, 23, 3), (3, 2, 1), (5, 224, 4), (13, 8, 2)]
)
def test_numba_and_torch_splice_agree(height, width, channels, dtype, channels_last, monkeypatch):
    monkeypatch.setattr(threads, "_COST_OF_A_THREAD", 256)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    images = torch.rand(6, channels, height, width, generator=generator()) * 255
    images = (images / 64 - 2 if dtype == torch.float32 else images).to(dtype)
    images = images.contiguous(memory_format=torch.channels_last) if channels_last else images
    before = images.clone()
    assert kernels.pick("splice", images).__module__ == "dali_mix.mixers.kernels.numba_splice"
    mixed, targets = SpliceMix().apply(images, torch.eye(6), GRIDS)
    monkeypatch.setattr(kernels, "_load", lambda name: None)
    wanted, wanted_targets = SpliceMix().apply(images, torch.eye(6), GRIDS)
    assert mixed.dtype == dtype and mixed.stride() == wanted.stride() and torch.equal(images, before)
    assert torch.equal(mixed[:6], images) and torch.equal(targets, wanted_targets)
    if dtype == torch.uint8:  # sums very close to .5 may round to either side
        apart = (mixed.int() - wanted.int()).abs()
        assert apart.max() <= 1 and apart.float().mean() < 0.01
    else:
        torch.testing.assert_close(mixed, wanted, rtol=0, atol=1e-6)


def test_unite_equals_loop():
    gen = generator()
    rows = torch.randint(-1, 2, (500, 4, 5), generator=gen).float()
    seen = torch.rand(500, 4, generator=gen) < 0.6
    seen[:, 0] |= ~seen.any(1)
    wanted = [oracles.targets_union(r, s) for r, s in zip(rows.tolist(), seen.tolist(), strict=True)]
    targets, sources = rows.flatten(0, 1), torch.arange(2000).view(500, 4)
    assert torch.equal(unite(targets, targets, sources, ~seen), torch.tensor(wanted))


def test_unite_of_class_indices_equals_one_hot():
    gen = generator()
    labels, sources = torch.randint(7, (9,), generator=gen), torch.randint(9, (200, 6), generator=gen)
    dropped = torch.rand(200, 6, generator=gen) < 0.6
    rows = torch.eye(7)[labels]
    for given in (labels, labels.int()):
        united = unite(given, rows, sources, dropped)
        assert united.is_contiguous() and torch.equal(united, unite(rows, rows, sources, dropped))
    assert (united.sum(1) == 0).any(), "all cells dropped"


def test_ignored_entries_of_dropped_cells_are_excluded():
    hot = torch.tensor([[1.0, -1, 0, -1], [0, 0, 0, -1], [-1, 1, 0, -1], [0, 0, -1, 1]])
    drawn = join_grids(grid(2, 2, [[0, 1, 2, 3]]), grid(2, 2, [[0, 1, 2, 3]], [(0, 0), (0, 3)]))
    _, targets = SpliceMix().apply(pictures(4), hot, drawn)
    assert torch.equal(targets[:4], hot)
    assert torch.equal(targets[4:], torch.tensor([[1.0, 1, -1, 1], [-1, 1, 0, -1]]))


def test_default_layouts_follow_documented_probabilities():
    mixer, gen = SpliceMix(), generator()
    seen: dict[tuple[int, int, int], int] = {}
    for _ in range(DRAWS):
        rows, cols, drops, count = mixer._draw_layouts(8, gen)[0]
        assert count == 2
        seen[rows, cols, drops] = seen.get((rows, cols, drops), 0) + 1
    wanted = {}
    for shapes, share in (([(1, 2), (2, 1)], 0.3), ([(2, 2)], 0.4), ([(2, 3), (3, 2)], 0.3)):
        for rows, cols in shapes:
            wanted[rows, cols, 0] = share / len(shapes) * 0.7
            for drops in range(1, rows * cols):
                wanted[rows, cols, drops] = share / len(shapes) * 0.3 / (rows * cols - 1)
    assert seen.keys() == wanted.keys()
    expected = [DRAWS * wanted[key] for key in wanted]
    assert stats.chisquare([seen[key] for key in wanted], expected).pvalue > P_MIN


def test_dropped_cells_are_uniform_with_fixed_count():
    drawn = SpliceMix(["2x2-2"], counts=[DRAWS]).sample(50, 8, 8, generator()).grids[0]
    assert (drawn.dropped.sum(1) == 2).all()
    codes = (drawn.dropped.long() * torch.tensor([8, 4, 2, 1])).sum(1)
    counts = np.bincount(codes.numpy(), minlength=16)
    assert stats.chisquare(counts[counts > 0]).pvalue > P_MIN and (counts > 0).sum() == 6


def test_sources_are_permutations_of_the_batch():
    drawn = SpliceMix("mini").sample(8, 8, 8, generator()).grids[0]
    assert sorted(drawn.sources.flatten().tolist()) == list(range(8)), "each image once: 2 images of 4 cells"
    pooled = SpliceMix(["1x2", "2x3"], counts=[1, 2]).sample(6, 8, 8, generator())
    flat = torch.cat([part.sources.flatten() for part in pooled.grids]).tolist()
    assert sorted(flat[:6]) == sorted(flat[6:12]) == list(range(6)) and len(flat) == 14
    gen, mixer = generator(), SpliceMix("mini")
    first = [int(mixer.sample(5, 8, 8, gen).grids[0].sources[0, 0]) for _ in range(20_000)]
    assert stats.chisquare(np.bincount(first, minlength=5)).pvalue > P_MIN


@pytest.mark.parametrize("name", ["default", "mini"])
@pytest.mark.parametrize(("size", "appended"), [(0, 0), (1, 0), (3, 0), (4, 1), (7, 1), (9, 2)])
def test_default_and_mini_append_a_quarter(name, size, appended):
    images, labels = torch.rand(size, 3, 9, 5), torch.zeros(size, dtype=torch.int64)
    for seed in range(8):
        mixed, targets = SpliceMix(name, num_classes=3)(images, labels, generator(seed))
        assert len(mixed) == len(targets) == size + appended
        assert torch.equal(mixed[:size], images)
        assert mixed is not images


def test_custom_grids_append_their_counts():
    mixer = SpliceMix(["1x2", "2x3-2"], counts=[1, 2], num_classes=3)
    shapes = set()
    for seed in range(30):
        first, second = mixer.sample(5, 9, 7, generator(seed)).grids
        assert first.sources.shape == (1, 2) and second.sources.shape == (2, 6)
        assert not first.dropped.any() and (second.dropped.sum(1) == 2).all()
        shapes |= {(first.rows, first.cols), (second.rows, second.cols)}
    assert shapes == {(1, 2), (2, 1), (2, 3), (3, 2)}
    mixed, targets = mixer(torch.rand(1, 3, 9, 7), torch.tensor([2]), generator())
    assert mixed.shape == (4, 3, 9, 7)
    assert torch.equal(targets, torch.tensor([[0.0, 0, 1]]).expand(4, 3))
    assert len(mixer(torch.rand(0, 3, 9, 7), torch.zeros(0, dtype=torch.int64), generator())[0]) == 0


def test_draws_depend_only_on_generator():
    first, again, other = (SpliceMix("mini").sample(16, 8, 8, generator(seed)).grids[0].sources for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    state = torch.get_rng_state()
    SpliceMix(num_classes=2)(torch.rand(8, 3, 6, 5, generator=generator()), torch.zeros(8).long(), generator())
    assert torch.equal(state, torch.get_rng_state())


def test_gradients_reach_only_visible_images():
    images = pictures(4, 8, 6).double().requires_grad_()
    drawn = grid(2, 2, [[0, 1, 1, 3]], [(0, 3)])
    mixed, _ = SpliceMix().apply(images, torch.eye(4), drawn)
    mixed[4:].sum().backward()
    gradient = images.grad.sum((1, 2, 3))
    assert gradient[0] > 0 and gradient[1] > gradient[0] and gradient[2] == 0 and gradient[3] == 0
    assert torch.autograd.gradcheck(lambda x: SpliceMix().apply(x, torch.eye(4), drawn)[0], (images,))


WRONG = SpliceMixParams(2, 2, torch.tensor([[0, 1, 2]]), torch.zeros(1, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpliceMix("large"), "grids='large'"),
        (lambda: SpliceMix("mini", counts=[1]), "only for a list"),
        (lambda: SpliceMix(["2x2"]), "one count per grid"),
        (lambda: SpliceMix([], counts=[]), "needs grids"),
        (lambda: SpliceMix(["2x2"], counts=[1, 2]), "one count per grid"),
        (lambda: SpliceMix(["2x2"], counts=[0]), "at least 1"),
        (lambda: SpliceMix(["2by2"], counts=[1]), "must be like"),
        (lambda: SpliceMix(["0x2"], counts=[1]), "must be like"),
        (lambda: SpliceMix([22], counts=[1]), "must be like"),
        (lambda: SpliceMix(["2x2-4"], counts=[1]), "at least one must remain"),
        (lambda: SpliceMix(num_classes=0), "num_classes=0"),
        (lambda: SpliceMix().sample(4, 2, 9, generator()), "cannot be cut into 3"),
        (lambda: SpliceMix().sample(-1, 9, 9, generator()), "cannot mix"),
        (lambda: SpliceMix()(pictures(4), torch.tensor([0, 1, 0, 1]), generator()), "without num_classes"),
        (lambda: SpliceMix().apply(pictures(4), torch.eye(4), grid(1, 2, [[0, 4]])), "image 4 of 4"),
        (lambda: SpliceMix().apply(pictures(4), torch.eye(4), grid(1, 2, [[0, -1]])), "image -1: images count from 0"),
        (lambda: SpliceMix().apply(pictures(1, 5, 2), torch.eye(1), grid(1, 3, [[0, 0, 0]])), "5×2 pixels .* 1×3"),
        (lambda: SpliceMix().apply(pictures(4), torch.eye(4), grid(1, 2, [[0, 3]]), inplace=True), "larger batch"),
        (lambda: SpliceMix().apply(pictures(4), torch.eye(3), grid(1, 2, [[0, 3]])), "do not fit together"),
        (
            lambda: SpliceMix().apply(pictures(4), torch.eye(4), WRONG),
            r"\(1, 3\).*must be \(n, 4\)",
        ),
    ],
)
def test_splicemix_refuses_invalid_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_splicemix_works_in_build_and_mix_choice():
    mixer = mixers.build("splicemix", num_classes=3, grids=["2x2-1"], counts=[2])
    assert isinstance(mixer, SpliceMix) and mixer.num_classes == 3 and mixer.combine == "union"
    choice = MixChoice([SpliceMix("mini", num_classes=2)], probs=[0.5])
    sizes = {len(choice(pictures(8), torch.zeros(8).long(), generator(seed))[1]) for seed in range(20)}
    assert sizes == {8, 10}
    with pytest.raises(ValueError, match="different ways"):
        MixChoice([SpliceMix(num_classes=2), mixers.CutMix(2)], probs=[0.5, 0.5])


def test_all_grids_are_on_requested_device():
    drawn = SpliceMix(["1x2", "2x2-1"], counts=[1, 2]).sample(4, 8, 8, generator(), device="meta")
    assert [(grid.sources.is_meta, grid.dropped.is_meta) for grid in drawn.grids] == [(True, True)] * 2
