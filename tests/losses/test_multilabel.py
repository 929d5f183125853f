"""Behaviour common to all multi-label losses: ignored, extreme and half-precision input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_mix.losses import AsymmetricLoss, BinaryCrossEntropy, MaskedSupervisionLoss, MultiLabelSoftMargin, SGRELoss
from tests.losses.by_hand import draw, gradient

ALL = {
    "bce": BinaryCrossEntropy(),
    "soft margin": MultiLabelSoftMargin(),
    "asl": AsymmetricLoss(),
    "asl mean": AsymmetricLoss(2, 0, 0, eps=1e-5, reduction="mean", scale=1000),
    "sgre": lambda logits, targets: SGRELoss()((logits, logits * 0.5), targets),
    "masked": lambda logits, targets: MaskedSupervisionLoss()(logits, logits * 0.5, targets),
}


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
def test_ignored_entries_do_not_affect_loss_or_gradient(loss):
    logits, targets = draw()
    value, grad = gradient(loss, logits, targets)
    ignored = targets < 0
    assert (grad[ignored] == 0).all() and (grad[~ignored] != 0).all()
    for nonsense in (1e4, -float("inf"), float("nan")):
        other, same = gradient(loss, logits.masked_fill(ignored, nonsense), targets)
        assert torch.equal(value, other)
        assert torch.equal(grad[~ignored], same[~ignored])
        assert (same[ignored] == 0).all()


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
def test_loss_and_gradient_are_zero_without_known_entries(loss):
    logits, targets = draw()
    for some in (slice(None), slice(0)):
        value, grad = gradient(loss, logits[some], torch.full_like(targets, -1)[some])
        assert value == 0
        assert torch.equal(grad, torch.zeros_like(logits[some]))


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.tuples(st.floats(-80, 80, width=32), st.sampled_from([-1.0, 0.0, 0.4, 1.0])), min_size=1))
def test_loss_and_gradient_are_finite_up_to_logit_80(loss, rows):
    rows += [(80.0, 0.0), (80.0, 1.0), (-80.0, 0.0), (-80.0, 1.0)]
    logits, targets = (torch.tensor([[row[i] for row in rows]]) for i in (0, 1))
    value, grad = gradient(loss, logits, targets)
    assert value.isfinite() and value >= 0
    assert grad.isfinite().all()


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_loss_is_float32_inside_autocast(loss, dtype):
    logits, targets = draw()
    logits = (10 * logits).to(dtype)
    wanted = loss(logits.float(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        for truth in (targets, targets.to(torch.int8)):
            value = loss(logits, truth)
            assert value.dtype == torch.float32
            assert torch.equal(value, wanted)


UNFIT = [((4, 3), (4, 2)), ((4, 3), (4,)), ((4, 3), (1, 3)), ((4,), (4,))]
ONE_OUTPUT = [AsymmetricLoss(), BinaryCrossEntropy(), MultiLabelSoftMargin(), SGRELoss()]


@pytest.mark.parametrize(("logits", "targets"), UNFIT)
@pytest.mark.parametrize("loss", ONE_OUTPUT, ids=lambda loss: type(loss).__name__)
def test_mismatched_shapes_are_refused(loss, logits, targets):
    with pytest.raises(ValueError, match=r"must be \(B,K\)"):
        loss(torch.zeros(logits), torch.zeros(targets))


@pytest.mark.parametrize("loss", ONE_OUTPUT, ids=lambda loss: type(loss).__name__)
def test_integer_logits_are_refused(loss):
    with pytest.raises(ValueError, match="floating"):
        loss(torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
def test_loss_on_gpu_matches_cpu_without_synchronizing(loss):
    logits, targets = draw()
    wanted = gradient(loss, logits, targets)
    logits, targets = logits.cuda(), targets.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = gradient(loss, logits, targets)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close([x.cpu() for x in found], list(wanted))
