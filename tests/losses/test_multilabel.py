"""Multi-label losses against published numbers and plain loops; ignored, extreme and half-precision input."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_mix.losses import (
    AsymmetricLoss,
    BinaryCrossEntropy,
    MaskedSupervisionLoss,
    MultiLabelSoftMargin,
    SGRELoss,
    SpliceMixConsistencyLoss,
)

ASL = np.load(Path(__file__).parent / "data" / "asl_loss.npz")
SPLICED = np.load(Path(__file__).parents[1] / "models" / "data" / "splicemix_cl.npz")
PUBLISHED = {
    "asl_sum_gn4_gp1_clip0.05": AsymmetricLoss(),
    "asl_sum_gn4_gp0_clip0.05": AsymmetricLoss(gamma_pos=0),
    "asl_sum_gn2_gp0_clip0.0": AsymmetricLoss(gamma_neg=2, gamma_pos=0, clip=0),
    "asl_sum_gn0_gp0_clip0.0": AsymmetricLoss(gamma_neg=0, gamma_pos=0, clip=0),
    "sgre_gn2_gp0_clip0": AsymmetricLoss(2, 0, 0, eps=1e-5, reduction="mean", scale=1000),
}


def draw(rows=5, classes=7, seed=0):
    gen = torch.Generator().manual_seed(seed)
    targets = torch.randint(-1, 2, (rows, classes), generator=gen).float()
    return 3 * torch.randn(rows, classes, generator=gen), targets


def log_sigmoid(z):
    return -math.log1p(math.exp(-z)) if z > 0 else z - math.log1p(math.exp(z))


def bce_by_hand(z, y):
    return -y * log_sigmoid(z) - (1 - y) * log_sigmoid(-z)


def asl_by_hand(z, y, gamma_neg=4, gamma_pos=1, clip=0.05, eps=1e-8):
    p = 1 / (1 + math.exp(-z))
    q = min(1 - p + clip, 1)
    true = p * y + q * (1 - y)
    log = y * math.log(max(p, eps)) + (1 - y) * math.log(max(q, eps))
    return -log * (1 - true) ** (gamma_pos * y + gamma_neg * (1 - y))


def known_terms(term, logits, targets):
    """Lists by row of a loss's terms where the target is known."""
    pairs = zip(logits.double().tolist(), targets.double().tolist(), strict=True)
    return [[term(z, y) for z, y in zip(row, truth, strict=True) if y >= 0] for row, truth in pairs]


@pytest.mark.parametrize("setting", PUBLISHED)
def test_asl_gives_the_published_numbers(setting):
    logits = torch.from_numpy(ASL["logits"]).requires_grad_()
    loss = PUBLISHED[setting](logits, torch.from_numpy(ASL["targets"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(ASL[setting]), rel=1e-6)
    torch.testing.assert_close(logits.grad, torch.from_numpy(ASL[f"{setting}_grad"]), rtol=1e-5, atol=1e-5)


def test_terms_by_hand_over_known_entries():
    logits, targets = draw()
    targets[3] = -1  # a sample of which nothing is known
    soft = torch.where(targets > 0, 0.3, targets)
    for truth in (targets, soft):
        rows = known_terms(bce_by_hand, logits, truth)
        flat = [term for row in rows for term in row]
        assert BinaryCrossEntropy()(logits, truth).item() == pytest.approx(sum(flat) / len(flat), rel=1e-5)
        means = [sum(row) / len(row) for row in rows if row]
        assert MultiLabelSoftMargin()(logits, truth).item() == pytest.approx(sum(means) / len(means), rel=1e-5)
        terms = [term for row in known_terms(asl_by_hand, logits, truth) for term in row]
        assert AsymmetricLoss()(logits, truth).item() == pytest.approx(sum(terms), rel=1e-5)
        mean = AsymmetricLoss(reduction="mean", scale=10)(logits, truth)
        assert mean.item() == pytest.approx(10 * sum(terms) / len(terms), rel=1e-5)


def test_both_bce_are_torchs_where_all_is_known():
    logits, targets = draw()
    targets = targets.clamp(min=0)
    torch.testing.assert_close(BinaryCrossEntropy()(logits, targets), F.multilabel_soft_margin_loss(logits, targets))
    torch.testing.assert_close(MultiLabelSoftMargin()(logits, targets), F.multilabel_soft_margin_loss(logits, targets))


def test_sgre_adds_the_auxiliary_logits_in_training_only():
    logits, targets = draw()
    auxiliary, _ = draw(seed=1)
    asl = PUBLISHED["sgre_gn2_gp0_clip0"]
    wanted = asl(logits, targets) + 0.1 * asl(auxiliary, targets)
    torch.testing.assert_close(SGRELoss(lam=0.1)((logits, auxiliary), targets), wanted)
    torch.testing.assert_close(SGRELoss(lam=0.1)(logits, targets), asl(logits, targets))


def test_masked_supervision_by_hand():
    logits, targets = draw()
    masked, _ = draw(seed=1)
    total = 0.0
    for z, other, y in zip(*(x.double().flatten().tolist() for x in (logits, masked, targets)), strict=True):
        if y >= 0:
            gap = 1 / (1 + math.exp(-z)) - 1 / (1 + math.exp(-other))
            total += 0.3 * bce_by_hand(z, y) + 0.2 * bce_by_hand(other, y) + 0.5 * gap**2
    known = targets >= 0
    logits.requires_grad_()
    masked.requires_grad_()
    loss = MaskedSupervisionLoss()(logits, masked, targets)
    assert loss.item() == pytest.approx(total / known.sum().item(), rel=1e-5)
    loss.backward()
    # Neither branch is a fixed target of the other's.
    p, other = logits.detach().sigmoid(), masked.detach().sigmoid()
    pulled = (p - other) * known / known.sum()
    wanted = 0.3 * (p - targets) * known / known.sum() + pulled * p * (1 - p)
    torch.testing.assert_close(logits.grad, wanted)
    wanted = 0.2 * (other - targets) * known / known.sum() - pulled * other * (1 - other)
    torch.testing.assert_close(masked.grad, wanted)


CASES = {"case0_2x2_drop0": 4, "case1_1x2_drop1": 2, "case2_2x3_drop2": 6, "case3_2x2_drop1": 4}


def published_cells(case):
    values = {name: torch.from_numpy(SPLICED[f"{case}_{name}"]) for name in ("logits", "cell_logits", "targets")}
    shape = (-1, CASES[case])
    values["cell_logits"] = values["cell_logits"].unflatten(0, shape)
    sources = torch.from_numpy(SPLICED[f"{case}_source_index"]).view(shape)
    return values, sources, torch.from_numpy(SPLICED[f"{case}_drop"]).bool().view(shape)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_consistency_gives_the_published_numbers(case, detach):
    values, sources, dropped = published_cells(case)
    # What stands in a dropped cell must not matter: the published arrays have -1000 there.
    values["cell_logits"] = torch.where(dropped[..., None], 7.0, values["cell_logits"])
    loss = SpliceMixConsistencyLoss(detach)(**values, sources=sources, dropped=dropped)
    assert loss.item() == pytest.approx(float(SPLICED[f"{case}_loss"]), abs=1e-6)


@pytest.mark.parametrize("detach", [True, False])
def test_consistency_by_hand_with_ignored_classes(detach):
    values, sources, dropped = published_cells("case2_2x3_drop2")
    logits, cells, targets = values["logits"], values["cell_logits"], values["targets"].clone()
    targets[[1, 3, 5], [0, 2, 4]] = -1
    targets[-1, 3] = -1
    logits, cells = (x.clone().requires_grad_() for x in (logits, cells))
    loss = SpliceMixConsistencyLoss(detach)(logits, cells, targets, sources, dropped)
    terms, count = [], 0
    for image, cell in np.ndindex(*sources.shape):
        source = int(sources[image, cell])
        for k in range(targets.shape[1]):
            if targets[source, k] >= 0:
                count += 1
                if not dropped[image, cell]:
                    share = 1 / (1 + math.exp(-logits[source, k].item()))
                    terms.append(bce_by_hand(cells[image, cell, k].item(), share))
    rows = [term for row in known_terms(bce_by_hand, logits, targets) for term in row]
    assert loss.item() == pytest.approx(sum(rows) / len(rows) + sum(terms) / count, rel=1e-5)
    loss.backward()
    gone = dropped[..., None] | (targets[sources] < 0)
    assert (cells.grad[gone] == 0).all() and (cells.grad[~gone] != 0).all()
    assert (logits.grad[targets < 0] == 0).all()
    supervised = logits.detach().clone().requires_grad_()
    BinaryCrossEntropy()(supervised, targets).backward()
    assert torch.equal(logits.grad, supervised.grad) == detach


ALL = {
    "bce": BinaryCrossEntropy(),
    "soft margin": MultiLabelSoftMargin(),
    "asl": AsymmetricLoss(),
    "asl mean": AsymmetricLoss(2, 0, 0, eps=1e-5, reduction="mean", scale=1000),
    "sgre": lambda logits, targets: SGRELoss()((logits, logits * 0.5), targets),
    "masked": lambda logits, targets: MaskedSupervisionLoss()(logits, logits * 0.5, targets),
}


def gradient(loss, logits, targets):
    logits = logits.clone().requires_grad_()
    value = loss(logits, targets)
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
def test_ignored_entries_take_no_part(loss):
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
def test_nothing_known_is_zero_with_gradients_of_zero(loss):
    logits, targets = draw()
    for some in (slice(None), slice(0)):
        value, grad = gradient(loss, logits[some], torch.full_like(targets, -1)[some])
        assert value == 0
        assert torch.equal(grad, torch.zeros_like(logits[some]))


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.tuples(st.floats(-80, 80, width=32), st.sampled_from([-1.0, 0.0, 0.4, 1.0])), min_size=1))
def test_finite_up_to_80(loss, rows):
    rows += [(80.0, 0.0), (80.0, 1.0), (-80.0, 0.0), (-80.0, 1.0)]
    logits, targets = (torch.tensor([[row[i] for row in rows]]) for i in (0, 1))
    value, grad = gradient(loss, logits, targets)
    assert value.isfinite() and value >= 0
    assert grad.isfinite().all()


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_float32_inside_autocast(loss, dtype):
    logits, targets = draw()
    logits = (10 * logits).to(dtype)
    wanted = loss(logits.float(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        for truth in (targets, targets.to(torch.int8)):
            value = loss(logits, truth)
            assert value.dtype == torch.float32
            assert torch.equal(value, wanted)


@pytest.mark.parametrize("loss", [AsymmetricLoss(), BinaryCrossEntropy(), MultiLabelSoftMargin(), SGRELoss()])
def test_input_that_does_not_fit(loss):
    for logits, targets in [((4, 3), (4, 2)), ((4, 3), (4,)), ((4, 3), (1, 3)), ((4,), (4,))]:
        with pytest.raises(ValueError, match=r"need \(B,K\)"):
            loss(torch.zeros(logits), torch.zeros(targets))
    with pytest.raises(ValueError, match="floating"):
        loss(torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, 3))


def test_consistency_refuses_what_does_not_fit():
    values, sources, dropped = published_cells("case0_2x2_drop0")
    loss = SpliceMixConsistencyLoss()
    with pytest.raises(ValueError, match=r"\(8, 1\).*have \(2, 4\) cells"):
        loss(**values, sources=sources.view(8, 1), dropped=dropped)
    with pytest.raises(ValueError, match="float32: need int64 and bool"):
        loss(**values, sources=sources, dropped=dropped.float())
    with pytest.raises(ValueError, match=r"\(n, cells, K\)"):
        loss(**{**values, "cell_logits": values["cell_logits"][..., :3]}, sources=sources, dropped=dropped)
    with pytest.raises(ValueError, match=r"need \(B,K\)"):
        MaskedSupervisionLoss()(torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AsymmetricLoss(gamma_neg=-1), "gamma_neg=-1"),
        (lambda: AsymmetricLoss(gamma_pos=float("nan")), "gamma_pos=nan"),
        (lambda: AsymmetricLoss(clip=1.0), "clip=1.0"),
        (lambda: AsymmetricLoss(eps=0), "eps=0"),
        (lambda: AsymmetricLoss(reduction="batch"), "reduction='batch': must be one of sum, mean"),
        (lambda: AsymmetricLoss(scale=0), "scale=0"),
        (lambda: SGRELoss(lam=-0.1), "lam=-0.1"),
        (lambda: MaskedSupervisionLoss(agreement=-1), "agreement=-1"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
def test_on_a_gpu_without_waiting_for_it(loss):
    logits, targets = draw()
    wanted = gradient(loss, logits, targets)
    logits, targets = logits.cuda(), targets.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = gradient(loss, logits, targets)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close([x.cpu() for x in found], list(wanted))


@pytest.mark.gpu
@needs_gpu
def test_consistency_on_a_gpu_without_waiting_for_it():
    values, sources, dropped = published_cells("case2_2x3_drop2")
    values |= {"sources": sources, "dropped": dropped}
    moved = {name: value.cuda() for name, value in values.items()}
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = SpliceMixConsistencyLoss()(**moved)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.item() == pytest.approx(float(SPLICED["case2_2x3_drop2_loss"]), abs=1e-6)
