"""Mixing of one-hot, soft, multi-hot and ignored targets."""

import pytest
import torch

from dali_mix.mixers import CutMix, MixUp, MixUpParams, kernels
from dali_mix.mixers.kernels import numba_per_image
from dali_mix.mixers.ops.targets import mix_area, to_soft, unite
from tests.mixers.drawing import generator
from tests.mixers.five import params, pictures


def test_gradients_reach_soft_targets():
    soft = torch.rand(5, 4, requires_grad=True)
    _, targets = CutMix(4).apply(pictures(), soft, params())
    targets.sum().backward()
    assert soft.grad is not None


IMAGES = torch.rand(4, 3, 6, 5, generator=generator(0))
HALF = MixUpParams(torch.tensor([1, 0, 3, 2]), torch.tensor([0.5, 1.0, 0.0, 0.25]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_class_indices_become_one_hot(dtype):
    soft = to_soft(torch.tensor([2, 0], dtype=dtype), 3)
    assert torch.equal(soft, torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    assert soft.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.int64])
def test_to_soft_keeps_rows_as_float32(dtype):
    rows = torch.tensor([[1, 0, 0], [0, 1, 1]], dtype=dtype)
    assert torch.equal(to_soft(rows, 3), rows.float())


@pytest.mark.parametrize(
    ("targets", "num_classes", "message"),
    [
        (torch.tensor([0, 3]), 3, r"0 … 3, outside 0 … 2"),
        (torch.tensor([-1, 2]), 3, r"-1 … 2, outside"),
        (torch.tensor([0.0, 1.0]), 3, r"float32"),
        (torch.tensor([True, False]), 3, r"bool"),
        (torch.zeros(2, 4), 3, r"4 columns.*num_classes=3"),
        (torch.zeros(2, 2, 3), 3, r"\(2, 2, 3\)"),
        (torch.tensor([0, 1]), None, r"without num_classes"),
    ],
)
def test_mixup_refuses_invalid_targets(targets, num_classes, message):
    with pytest.raises(ValueError, match=message):
        MixUp(num_classes)(IMAGES[:2], targets, generator(0))


def test_soft_targets_are_averaged():
    soft = torch.tensor([[0.9, 0.1], [0.2, 0.8], [1.0, 0.0], [0.4, 0.6]])
    _, mixed = MixUp(2).apply(IMAGES, soft, HALF)
    torch.testing.assert_close(mixed, torch.tensor([[0.55, 0.45], [0.2, 0.8], [0.4, 0.6], [0.85, 0.15]]))


def test_mix_area_keeps_ignored_entries_of_visible_images():
    hot = torch.tensor([[1.0, -1, 0], [-1, 0, 1], [1, 1, -1], [-1, 0, 0]])
    mixed = mix_area(hot, HALF.permutation, HALF.lam)
    # Row 1 contains only itself (lam 1), row 2 only its partner (lam 0).
    wanted = torch.tensor([[-1, -1, 0.5], [-1, 0, 1], [-1, 0, 0], [-1, 0.75, -1]])
    assert torch.equal(mixed, wanted)


def test_unite_combines_positive_and_ignored_entries():
    first = torch.tensor([1.0, 1, 1, 0, 0, 0, -1, -1, -1])
    second = torch.tensor([1.0, 0, -1, 1, 0, -1, 1, 0, -1])
    rows, wanted = torch.stack([first, second]), torch.tensor([1.0, 1, 1, 1, 0, -1, 1, -1, -1])
    both = unite(rows, rows, torch.tensor([[0, 1]]), torch.zeros(1, 2, dtype=torch.bool))
    assert torch.equal(both, wanted[None])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_mix_area_of_class_indices_equals_one_hot(dtype):
    gen = torch.Generator().manual_seed(5)
    labels, permutation = torch.randint(5, (4000,), generator=gen), torch.randperm(4000, generator=gen)
    lam = torch.rand(4000, generator=gen)
    lam[:200], lam[200:400] = 0, 1
    permutation[400:410] = torch.arange(400, 410)
    mixed = mix_area(labels.to(dtype), permutation, lam, 5)
    assert torch.equal(mixed, mix_area(torch.eye(5)[labels], permutation, lam))
    equal = labels == labels[permutation]
    assert torch.equal(mixed[equal], torch.eye(5)[labels[equal]]), "not exactly 1 for two images of one class"
    rows = torch.arange(4000)[~equal]
    assert torch.equal(mixed[rows, labels[~equal]], lam[~equal])
    assert torch.equal(mixed[rows, labels[permutation][~equal]], (1 - lam)[~equal])


def test_numba_and_torch_mix_classes_agree(monkeypatch):
    gen = torch.Generator().manual_seed(6)
    labels, permutation = torch.randint(5, (60,), generator=gen), torch.randperm(30, generator=gen)
    given = labels[::2], permutation, torch.rand(60, generator=gen)[::2]  # two of them strided
    assert kernels.pick("mix_classes", labels[:30], given[2]) is numba_per_image.mix_classes
    mixed = mix_area(*given, 5)
    assert mixed.dtype == torch.float32
    monkeypatch.setattr(kernels, "_load", lambda name: None)
    assert torch.equal(mixed, mix_area(*given, 5))


@pytest.mark.parametrize("partners", [[1, 2], [5, 0], [0, -3]])
@pytest.mark.parametrize("loops", [True, False])
def test_mix_area_refuses_partners_outside_batch(partners, loops, monkeypatch):
    if not loops:
        monkeypatch.setattr(kernels, "_load", lambda name: None)
    with pytest.raises(ValueError, match=r"permutation must name images 0 … 1"):
        mix_area(torch.tensor([0, 1]), torch.tensor(partners), torch.rand(2), 3)


@pytest.mark.parametrize("targets", [torch.tensor([0, 1, 2]), torch.eye(3)])
@pytest.mark.parametrize(("partners", "shares"), [(2, 3), (3, 2), (4, 3), (3, 1)])
def test_mix_area_refuses_wrong_number_of_partners_or_lam(targets, partners, shares):
    with pytest.raises(ValueError, match="do not fit 3 targets"):
        mix_area(targets, torch.zeros(partners, dtype=torch.long), torch.rand(shares), 3)


def test_mix_area_passes_gradients_to_lam():
    lam = torch.tensor([0.25, 0.5, 0.75], requires_grad=True)
    mixed = mix_area(torch.tensor([0, 1, 1]), torch.tensor([1, 2, 0]), lam, 3)
    (mixed * torch.tensor([1.0, 10, 100])).sum().backward()
    assert lam.grad.tolist() == [-9, 0, 9]


@pytest.mark.parametrize(
    ("targets", "classes", "message"),
    [
        (torch.tensor([0, 3]), 3, "class indices span 0 … 3, outside 0 … 2"),
        (torch.tensor([0, -1]), 3, "class indices span -1 … 0"),
        (torch.tensor([0, 1]), None, "without num_classes"),
        (torch.tensor([0.0, 1.0]), 3, "torch.float32"),
        (torch.zeros(2, 4), 3, "4 columns"),
    ],
)
def test_mix_area_refuses_invalid_targets(targets, classes, message):
    with pytest.raises(ValueError, match=message):
        mix_area(targets, torch.tensor([1, 0]), torch.rand(2), classes)
