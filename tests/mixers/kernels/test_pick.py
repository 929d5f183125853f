"""Selection of the backend for a batch."""

import torch

from dali_mix.mixers import kernels
from dali_mix.mixers.kernels import torch_paste
from dali_mix.mixers.ops import paste
from tests.mixers.batches import backend, batch, boxes_for


def test_pick_uses_torch_for_unsupported_tensors():
    images, lam = batch(3), torch.rand(3, requires_grad=True)
    assert backend("blend", images) == "numba_paste"
    assert backend("blend", images, lam) == "torch_paste"
    images.requires_grad_()
    assert backend("blend", images) == "torch_paste"
    with torch.no_grad():
        assert backend("blend", images, lam) == "numba_paste"
    assert backend("blend", batch(3, torch.float16)) == "torch_paste"
    assert backend("paste", batch(3, channels=4)[:, ::2]) == "torch_paste"


def test_torch_is_used_without_numba(monkeypatch):
    images, permutation, boxes = batch(6), torch.tensor([1, 2, 3, 4, 5, 0]), boxes_for(6)
    wanted = [paste.paste_boxes(images, permutation, boxes), paste.erase_boxes(images, boxes)]
    monkeypatch.setattr(kernels, "_load", lambda name: None)
    assert backend("paste", images) == "torch_paste"
    assert torch.equal(paste.paste_boxes(images, permutation, boxes), wanted[0])
    assert torch.equal(paste.erase_boxes(images, boxes, inplace=True), wanted[1])


def test_lazily_negated_batch_uses_torch():
    images = batch(4)
    negated = torch._neg_view(images)  # as from `torch.imag(x.conj())`: the memory has the opposite sign
    permutation, boxes = torch.tensor([2, 3, 1, 0]), boxes_for(4)
    assert negated.is_neg() and backend("paste", negated) == "torch_paste"
    wanted = torch_paste.paste(-images, permutation, boxes)
    assert torch.equal(paste.paste_boxes(negated, permutation, boxes), wanted)
