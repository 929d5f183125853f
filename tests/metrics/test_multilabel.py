"""Multi-label metrics compared with published values and plain loops; ignored entries, NaN, invalid input."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_mix.metrics import MultiLabelMetrics
from tests.metrics.counting import assert_equal, draw, measure

PUBLISHED = np.load(Path(__file__).parent / "data" / "multilabel_metrics.npz")
SIX = ("OP", "OR", "OF1", "CP", "CR", "CF1")  # in the order of the arrays


def published_targets(name):
    raw = PUBLISHED[name]
    if name == "voc_ternary":  # 1, -1 negative, 0 difficult
        raw = np.select([raw == 1, raw == -1], [1, 0], -1)
    return torch.from_numpy(np.where(raw == 99, -1, raw))


@pytest.mark.parametrize("ties", ["random", "order", "sklearn"])
@pytest.mark.parametrize(
    ("protocol", "targets", "ap", "six", "top"),
    [
        ("plain", "targets", "coco_ap", "coco_OP_OR_OF1_CP_CR_CF1", "coco_top3"),
        ("voc07", "targets", "sgre_voc07_ap", "sgre_threshold_OP_OR_OF1_CP_CR_CF1", "sgre_top3_OP_OR_OF1_CP_CR_CF1"),
        ("voc12", "targets", "sgre_voc12_ap", "sgre_threshold_OP_OR_OF1_CP_CR_CF1", "sgre_top3_OP_OR_OF1_CP_CR_CF1"),
        ("voc07", "voc_ternary", "voc07_ap", "voc07_OP_OR_OF1_CP_CR_CF1", None),
        ("plain", "voc_ternary", "voc07_ap", "voc07_OP_OR_OF1_CP_CR_CF1", None),
        ("wider", "wider_targets_99ignore", "wider_ap", "wider_OP_OR_OF1_CP_CR_CF1", None),
    ],
)
def test_metrics_equal_published_values(protocol, targets, ap, six, top, ties):
    """The published scores have no ties, so the handling of ties does not matter."""
    found = measure(torch.from_numpy(PUBLISHED["scores"]), published_targets(targets), protocol=protocol, ties=ties)
    np.testing.assert_allclose(found["AP"], PUBLISHED[ap], rtol=1e-14)
    assert found["mAP"] == pytest.approx(PUBLISHED[ap].mean(), rel=1e-14)
    assert [found[name] for name in SIX] == pytest.approx(list(PUBLISHED[six]), rel=1e-14)
    if top:
        assert [found[f"{name}_top3"] for name in SIX] == pytest.approx(list(PUBLISHED[top]), rel=1e-14)


def ap_by_hand(column, truth, interpolated):
    order = sorted((i for i in range(len(column)) if truth[i] >= 0), key=lambda i: (-column[i], i))
    precisions = [
        sum(truth[j] == 1 for j in order[: index + 1]) / (index + 1) for index, i in enumerate(order) if truth[i] == 1
    ]
    if interpolated:
        precisions = [max(precisions[i:]) for i in range(len(precisions))]
    return sum(precisions) / len(precisions) if precisions else math.nan


def rates_by_hand(predicted, truth):
    """Compute the six rates from sets of (sample, class) pairs."""
    samples, classes = len(truth), len(truth[0])
    true = {(i, k) for i in range(samples) for k in range(classes) if truth[i][k] == 1}

    def share(hits, of):
        return len(hits) / len(of) if of else 0.0

    def f1(p, r):
        return 2 * p * r / (p + r) if p + r else 0.0

    by_class = [({e for e in predicted if e[1] == k}, {e for e in true if e[1] == k}) for k in range(classes)]
    op, recall = share(predicted & true, predicted), share(predicted & true, true)
    cp = sum(share(guess & own, guess) for guess, own in by_class) / classes
    cr = sum(share(guess & own, own) for guess, own in by_class) / classes
    return dict(zip(SIX, (op, recall, f1(op, recall), cp, cr, f1(cp, cr)), strict=True))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(1, 5), st.sampled_from(["plain", "voc07", "voc12", "wider"]))
def test_metrics_with_ties_and_ignored_entries_equal_loop(data, samples, classes, protocol):
    def draw(values):
        rows = st.lists(st.sampled_from(values), min_size=classes, max_size=classes)
        return data.draw(st.lists(rows, min_size=samples, max_size=samples))

    scores, truth = draw([0.0, 0.25, 0.5, 0.75, 1.0]), draw([-1, 0, 1])
    found = measure(torch.tensor(scores), torch.tensor(truth), protocol=protocol, ties="order")
    columns = ([[row[k] for row in rows] for k in range(classes)] for rows in (scores, truth))
    aps = [ap_by_hand(*pair, protocol == "voc12") for pair in zip(*columns, strict=True)]
    np.testing.assert_allclose(found["AP"], aps, rtol=1e-12)
    present = [ap for ap in aps if not math.isnan(ap)]
    np.testing.assert_allclose(found["mAP"], sum(present) / len(present) if present else math.nan, rtol=1e-12)
    predicted, top = set(), set()
    for i in range(samples):
        part = [k for k in range(classes) if truth[i][k] >= 0 or protocol == "wider"]
        highest = sorted(part, key=lambda k: (-scores[i][k], k))[:3]
        predicted |= {(i, k) for k in part if scores[i][k] > 0.5}
        top |= {(i, k) for k in highest if scores[i][k] > 0.5}
    wanted = rates_by_hand(predicted, truth) | {
        f"{name}_top3": value for name, value in rates_by_hand(top, truth).items()
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-12)


def test_split_and_order_do_not_change_results_with_ids():
    scores, targets, ids = draw()
    wanted = measure(scores, targets, ids)
    order = torch.randperm(61, generator=torch.Generator().manual_seed(5))
    parts = [MultiLabelMetrics(5), MultiLabelMetrics(5)]
    for i, rows in enumerate(order.split(9)):
        parts[i % 2].update(scores[rows], targets[rows], ids[rows])
    parts[1].update(scores[:0], targets[:0], ids[:0])
    parts[1].merge(parts[0].state())
    assert_equal(parts[1].compute(), wanted)
    assert_equal(parts[1].compute(), wanted)
    sorted_rows = ids.argsort()
    assert_equal(measure(scores[sorted_rows], targets[sorted_rows]), wanted)
    arrived = measure(scores[order], targets[order])
    assert arrived["AP"] == pytest.approx(wanted["AP"]), "the order of tied scores changed the AP"
    given = measure(scores[order], targets[order], ties="order")
    assert given["AP"] != measure(scores, targets, ids, ties="order")["AP"], (
        "the order must change the AP because scores are tied"
    )


def test_classes_without_positives_are_excluded_from_map():
    scores = torch.tensor([[0.9, 0.9, 0.2], [0.8, 0.1, 0.7]])
    targets = torch.tensor([[0, 0, 1], [1, 0, -1]])
    found = measure(scores, targets)
    assert found["AP"][0] == 0.5 and math.isnan(found["AP"][1]) and found["AP"][2] == 1.0
    assert found["mAP"] == 0.75
    assert found["CP"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert found["CR"] == pytest.approx((1 + 0 + 0) / 3)
    none = measure(scores, torch.zeros(2, 3))
    assert math.isnan(none["mAP"])
    assert [none[name] for name in SIX] == [0.0] * 6


@pytest.mark.parametrize("ties", ["random", "order", "sklearn"])
def test_nan_scores_raise_error_naming_samples(ties):
    scores = torch.tensor([[float("nan"), 0.5], [0.1, 0.3], [0.6, float("nan")]])
    targets = torch.tensor([[1, 0], [0, 1], [1, 1]])
    with pytest.raises(ValueError, match=r"the scores of 2 of 3 samples are NaN, first \[0, 2\]"):
        measure(scores, targets, ties=ties)
    with pytest.raises(ValueError, match=r"2 of 3 samples are NaN, first \[7, 9\]"):
        measure(scores, targets, torch.tensor([9, 8, 7]), ties=ties)
    with pytest.raises(ValueError, match="200 of 200 samples"):
        measure(torch.full((200, 5), float("nan")), torch.ones(200, 5), ties=ties)


def test_nan_of_ignored_entry_does_not_count():
    scores, targets = torch.tensor([[float("nan")], [0.1], [0.6]]), torch.tensor([[-1], [0], [1]])
    assert measure(scores, targets)["AP"] == [1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_and_logits_give_same_results(dtype):
    scores, targets, _ = draw()
    assert_equal(measure(scores.to(dtype), targets.to(torch.int8)), measure(scores, targets))
    logits = scores.double() * 16 - 8
    assert_equal(measure(logits, targets, threshold=0.0), measure(logits.sigmoid(), targets))


def test_compute_without_samples_raises():
    metrics = MultiLabelMetrics(5)
    with pytest.raises(ValueError, match="no samples"):
        metrics.compute()
    metrics.update(*draw())
    assert len(metrics.state()) == 61
    metrics.reset()
    assert metrics.state().shape == (0, 11)
    metrics.gather()
    with pytest.raises(ValueError, match="no samples"):
        metrics.compute()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"protocol": "voc"}, "protocol='voc': must be one of plain, voc07"),
        ({"ties": "first"}, "ties='first': must be one of random, order, sklearn"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultiLabelMetrics(**{"num_classes": 3, **options})


SCORES, TARGETS = torch.rand(4, 3), torch.ones(4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SCORES, TARGETS[:2]), r"\(4, 3\).*\(2, 3\).*need \(B, 3\)"),
        ((SCORES[:, :2], TARGETS[:, :2]), r"need \(B, 3\)"),
        ((SCORES > 0.5, TARGETS), "bool: need a floating"),
        ((SCORES, TARGETS, torch.arange(3)), r"ids \(3,\).*need \(4,\)"),
        ((SCORES, TARGETS, torch.arange(4.0)), "float32: need"),
    ],
)
def test_update_refuses_invalid_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiLabelMetrics(3).update(*arguments)


def test_merge_refuses_state_of_other_class_count():
    with pytest.raises(ValueError, match=r"state \(4, 3\): need \(n, 7\)"):
        MultiLabelMetrics(3).merge(SCORES)


ROWS, TRUTH, IDS = draw()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ROWS, TRUTH.masked_fill(TRUTH < 0, 99.0)), "targets contain 99"),
        ((ROWS, TRUTH * 0.5), r"targets contain -?0\.5"),
        ((ROWS * 4 - 2, TRUTH), "from -2 to 2.*threshold=0.5"),
        ((ROWS, TRUTH, IDS // 6), "are duplicates, e.g. id"),
        ((ROWS, TRUTH, IDS - 3), "1 of 61 samples have no ids"),
    ],
)
def test_compute_refuses_invalid_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        measure(*arguments)


def test_rows_stay_on_given_device():
    metrics = MultiLabelMetrics(5, device="meta")
    metrics.update(torch.rand(2, 5), torch.zeros(2, 5))
    assert metrics.state().is_meta


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rows_stay_on_gpu_and_equal_cpu_results():
    scores, targets, ids = draw()  # ids stay on the CPU, as in a loader
    scores, targets = scores.cuda(), targets.cuda()
    metrics = MultiLabelMetrics(5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        metrics.update(scores, targets, ids)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert metrics.state().is_cuda
    assert_equal(metrics.compute(), measure(*draw()))
