"""SoftCrossEntropy compared with its formula."""

import math

import pytest
import torch
import torch.nn.functional as F

from dali_mix.losses import SoftCrossEntropy

LOGITS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
SOFT = torch.softmax(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), 1)


def by_hand(logits, rows, smoothing=0.0):
    total = 0.0
    for scores, row in zip(logits.double().tolist(), rows.double().tolist(), strict=True):
        norm = math.log(sum(math.exp(score) for score in scores))
        smooth = [(1 - smoothing) * share + smoothing / len(row) for share in row]
        total -= sum(share * (score - norm) for share, score in zip(smooth, scores, strict=True))
    return total / len(rows)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_cross_entropy_equals_formula(smoothing):
    loss = SoftCrossEntropy(smoothing)
    assert loss(LOGITS, LABELS).item() == pytest.approx(by_hand(LOGITS, F.one_hot(LABELS, 5), smoothing), abs=1e-6)
    assert loss(LOGITS, SOFT).item() == pytest.approx(by_hand(LOGITS, SOFT, smoothing), abs=1e-6)
    torch.testing.assert_close(loss(LOGITS, F.one_hot(LABELS, 5).float()), loss(LOGITS, LABELS))


def test_mixed_targets_equal_weighted_cross_entropies():
    lam, other = 0.3, LABELS.flip(0)
    mixed = lam * F.one_hot(LABELS, 5) + (1 - lam) * F.one_hot(other, 5)
    wanted = lam * F.cross_entropy(LOGITS, LABELS) + (1 - lam) * F.cross_entropy(LOGITS, other)
    torch.testing.assert_close(SoftCrossEntropy()(LOGITS, mixed), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("targets", [LABELS, SOFT])
def test_loss_is_float32_inside_autocast(dtype, targets):
    logits = (LOGITS * 20).to(dtype)
    wanted = SoftCrossEntropy()(logits.float(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        loss = SoftCrossEntropy()(logits, targets if targets.ndim == 1 else targets.to(torch.float32))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, wanted)


def test_ignored_labels_do_not_count():
    labels = LABELS.clone()
    labels[[1, 4]] = -1
    kept = [0, 2, 3, 5]
    torch.testing.assert_close(SoftCrossEntropy()(LOGITS, labels), F.cross_entropy(LOGITS[kept], LABELS[kept]))


def test_loss_is_zero_without_samples():
    assert SoftCrossEntropy()(LOGITS[:0], LABELS[:0]) == 0
    assert SoftCrossEntropy()(LOGITS[:0], SOFT[:0]) == 0
    assert SoftCrossEntropy()(LOGITS, torch.full((6,), -1)) == 0


def test_extreme_logits_give_finite_gradients():
    logits = torch.tensor([[80.0, -80, 0, 0, 0], [-1e4, 1e4, 0, 0, 0]], requires_grad=True)
    SoftCrossEntropy(0.1)(logits, SOFT[:2]).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    "targets", [LABELS.float(), SOFT[:, :4], SOFT[:3], F.one_hot(LABELS, 5), LABELS[:4], SOFT[None]]
)
def test_invalid_targets_are_refused(targets):
    with pytest.raises(ValueError, match=r"need \(B"):
        SoftCrossEntropy()(LOGITS, targets)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_invalid_label_smoothing_is_refused(smoothing):
    with pytest.raises(ValueError, match="label_smoothing"):
        SoftCrossEntropy(smoothing)
