"""Accuracy of all samples and per class, compared with counting by hand, for any split of the data."""

import math
import operator

import pytest
import torch
import torch.nn.functional as F

from dali_mix.metrics import Accuracy, ClassAccuracy


def data(count=101, classes=7):
    gen = torch.Generator().manual_seed(0)
    return torch.randn(count, classes, generator=gen), torch.randint(classes, (count,), generator=gen)


def by_hand(logits, labels, k):
    """Compute top-k accuracy; a tie counts as the share of its orders in which the sample is correct."""
    hits = 0.0
    for scores, label in zip(logits.tolist(), labels.tolist(), strict=True):
        higher, equal = (sum(f(other, scores[label]) for other in scores) for f in (operator.gt, operator.eq))
        hits += min(max(k - higher, 0), equal) / equal
    return 100 * hits / len(labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_topk_accuracy_equals_loop(dtype):
    logits, labels = data()
    logits = logits.to(dtype)  # bfloat16 causes ties
    accuracy = Accuracy(topk=(1, 3, 5))
    accuracy.update(logits, labels)
    assert accuracy.compute() == pytest.approx({f"top{k}": by_hand(logits, labels, k) for k in (1, 3, 5)}, rel=1e-12)


def test_merged_parts_equal_single_update():
    logits, labels = data()
    whole = Accuracy()
    whole.update(logits, labels)
    parts = [Accuracy(), Accuracy()]
    for i, (some, classes) in enumerate(zip(logits.split(9), labels.split(9), strict=True)):
        parts[i % 2].update(some, classes)
    parts[0].update(logits[:0], labels[:0])
    parts[0].merge(parts[1].state())
    assert torch.equal(parts[0].state(), whole.state())
    assert parts[0].compute() == whole.compute()
    assert whole.state().dtype == torch.int64 and whole.state()[-1] == 101


def test_accuracy_uses_largest_entry_of_soft_targets():
    logits, labels = data()
    soft = 0.6 * F.one_hot(labels, 7) + 0.4 * F.one_hot((labels + 1) % 7, 7)
    hard, mixed = Accuracy(), Accuracy()
    hard.update(logits, labels)
    mixed.update(logits, soft)
    assert hard.compute() == mixed.compute()


@pytest.mark.parametrize("value", [0.0, 0.3, -7.5, float("inf"), float("-inf")])
@pytest.mark.parametrize("labels", [[0] * 10, [9] * 10, list(range(10)), [3, 3, 3, 0, 1, -1]], ids=str)
def test_constant_logits_get_chance_level(value, labels):
    """The score does not depend on the labels: with nine of ten records in class 0, it is not 90%."""
    accuracy, by_class = Accuracy(topk=(1, 5)), ClassAccuracy(10)
    for metric in (accuracy, by_class):
        metric.update(torch.full((len(labels), 10), value), torch.tensor(labels))
    assert accuracy.compute() == {"top1": 10.0, "top5": 50.0}
    assert by_class.compute() == pytest.approx([10.0 if k in labels else float("nan") for k in range(10)], nan_ok=True)


def test_constant_logits_of_1000_classes_get_chance_level():
    accuracy = Accuracy(topk=(1, 5))
    accuracy.update(torch.zeros(300, 1000), torch.zeros(300, dtype=torch.int64))
    assert accuracy.compute() == pytest.approx({"top1": 0.1, "top5": 0.5}, rel=1e-6)


def test_tied_logits_share_credit():
    accuracy = Accuracy(topk=(1, 2, 3))
    accuracy.update(torch.tensor([[2.0, 5.0, 2.0, 2.0], [1.0, 1.0, 0.0, 0.0]]), torch.tensor([3, 0]))
    assert accuracy.compute() == pytest.approx({"top1": 25.0, "top2": 200 / 3, "top3": 250 / 3})


def test_nan_logits_count_as_wrong():
    logits = torch.eye(3)
    logits[1] = float("nan")
    logits[2, 0] = float("nan")
    accuracy = Accuracy(topk=(1, 5))
    accuracy.update(logits, torch.arange(3))
    assert accuracy.compute() == pytest.approx({"top1": 100 / 3, "top5": 100 / 3})


def test_ignored_labels_do_not_count():
    logits, labels = data()
    ignored = labels.clone()
    ignored[::2] = -1
    some, kept = Accuracy(), Accuracy()
    some.update(logits, ignored)
    kept.update(logits[1::2], labels[1::2])
    assert torch.equal(some.state(), kept.state())


def test_top5_of_two_classes_is_100():
    accuracy = Accuracy()
    accuracy.update(torch.eye(2), torch.tensor([1, 0]))
    assert accuracy.compute() == {"top1": 0.0, "top5": 100.0}


def test_counters_follow_device_of_logits():
    accuracy = Accuracy()
    accuracy.update(torch.empty(4, 7, device="meta"), torch.empty(4, dtype=torch.int64, device="meta"))
    assert accuracy.state().is_meta


def test_counters_stay_on_given_device():
    accuracy = Accuracy(device="meta")
    accuracy.update(*data())
    assert accuracy.state().is_meta


def test_compute_after_reset_raises():
    accuracy = Accuracy()
    accuracy.update(*data())
    accuracy.reset()
    with pytest.raises(ValueError, match="no samples"):
        accuracy.compute()


def test_invalid_topk_or_shapes_are_refused():
    with pytest.raises(ValueError, match="topk"):
        Accuracy(topk=(0, 5))
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(5,\)"):
        Accuracy().update(torch.zeros(4, 3), torch.zeros(5, dtype=torch.int64))


def test_class_accuracy_in_batches_equals_loop():
    random = torch.Generator().manual_seed(2)
    logits = torch.randint(0, 3, (50, 4), generator=random).float()  # many ties
    targets = torch.randint(-1, 3, (50,), generator=random)  # class 3 never occurs
    logits[7], targets[7] = torch.tensor([3.0, math.nan, 0, 0]), 0  # correct if the NaN were ignored
    counter, whole = ClassAccuracy(4), Accuracy((1,))
    for part in (slice(0, 20), slice(20, 50)):
        counter.update(logits[part], targets[part])
        whole.update(logits[part], targets[part])
    right, counts = [0] * 4, [0] * 4
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        if target >= 0:
            counts[target] += 1
            right[target] += (row[target] == max(row)) / row.count(max(row)) if not any(map(math.isnan, row)) else 0
    assert counter.state()[1].tolist() == counts
    accuracy = counter.compute()
    assert accuracy[:3] == pytest.approx(
        [100 * hits / count for hits, count in zip(right, counts, strict=True) if count]
    )
    assert math.isnan(accuracy[3])
    assert whole.compute()["top1"] == pytest.approx(100 * sum(right) / sum(counts))


def test_class_accuracy_uses_largest_entry_of_soft_targets():
    counter = ClassAccuracy(3)
    counter.update(torch.tensor([[0.0, 1.0, 0.5], [2.0, 1.0, 0.0]]), torch.tensor([[0.1, 0.8, 0.1], [0.0, 0.3, 0.7]]))
    assert counter.compute() == pytest.approx([math.nan, 100, 0], nan_ok=True)
