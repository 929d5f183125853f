"""Average precision of boxes compared with a simple, slow implementation and with pycocotools."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_mix.metrics.detection import DetectionMetrics, area_under, eleven_points


def scene(random, classes=3, most=6, spread=0.0, grid=None):
    """Return predictions and ground truth of one image; predictions are shifted true boxes and random boxes."""

    def boxes(count):
        low = random.uniform(0, 80, (count, 2))
        made = np.concatenate([low, low + random.uniform(5, 40, (count, 2))], axis=1)
        return np.round(made / grid) * grid + np.array([0, 0, grid, grid]) if grid else made

    true = boxes(random.integers(0, most))
    kinds = random.integers(0, classes, len(true))
    moved = true[random.uniform(size=len(true)) < 0.7]
    found = np.concatenate([moved + random.normal(0, 3, moved.shape) * (grid is None), boxes(random.integers(0, most))])
    guesses = random.integers(0, classes, len(found))
    copied = min(len(moved), len(kinds))
    guesses[:copied] = kinds[:copied]
    scores = random.uniform(size=len(found))
    if spread:
        scores = np.round(scores / spread) * spread
    target = {
        "boxes": torch.from_numpy(true),
        "labels": torch.from_numpy(kinds),
        "difficult": torch.from_numpy(random.uniform(size=len(true)) < 0.2),
    }
    low, high = np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])
    prediction = {
        "boxes": torch.from_numpy(np.concatenate([low, high], axis=1)),
        "scores": torch.from_numpy(scores),
        "labels": torch.from_numpy(guesses),
    }
    return prediction, target


def scenes(seed, count=12, **options):
    random = np.random.default_rng(seed)
    made = [scene(random, **options) for _ in range(count)]
    return [one for one, _ in made], [two for _, two in made]


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def rank_by_voc_rules(predictions, targets, label):
    """Rank the predictions of a class by the rules of VOC's development kit.

    Return a list of (score, correct) and the number of objects that are not difficult.
    """
    listed = []
    for image, prediction in enumerate(predictions):
        for box, score, kind in zip(*(prediction[key].tolist() for key in ("boxes", "scores", "labels")), strict=True):
            if kind == label:
                listed.append((score, image, box))
    listed.sort(key=lambda one: (-one[0], one[1]))
    taken, ranked = set(), []
    for score, image, box in listed:
        best, which = -1.0, None
        truth = zip(*(targets[image][key].tolist() for key in ("boxes", "labels", "difficult")), strict=True)
        for index, (other, kind, hard) in enumerate(truth):
            if kind == label and overlap(box, other) > best:
                best, which, difficult = overlap(box, other), (image, index), hard
        if best >= 0.5:
            if difficult:
                continue
            ranked.append((score, which not in taken))
            taken.add(which)
        else:
            ranked.append((score, False))
    count = sum(
        kind == label and not hard
        for target in targets
        for kind, hard in zip(target["labels"].tolist(), target["difficult"].tolist(), strict=True)
    )
    return ranked, count


def ap_by_loop(ranked, count):
    """Compute the area under the precision-recall curve and the eleven-point mean with loops."""
    if not count:
        return float("nan"), float("nan")
    points, right = [], 0
    for index, (_, hit) in enumerate(ranked, 1):
        right += hit
        points.append((right / count, right / index))
    area, before = 0.0, 0.0
    for index, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[index:])
        before = recall
    eleven = [max([p for r, p in points if r >= t / 10], default=0.0) for t in range(11)]
    return area, sum(eleven) / 11


def measure(predictions, targets, protocol="voc", classes=3, order=None):
    metrics = DetectionMetrics(classes, protocol)
    order = range(len(predictions)) if order is None else order
    for index in order:
        metrics.update([predictions[index]], [targets[index]], torch.tensor([index]))
    return metrics


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.25]), st.sampled_from([None, 20.0]))
@settings(max_examples=150, deadline=None)
def test_voc_ap_equals_loop(seed, spread, grid):
    predictions, targets = scenes(seed, spread=spread, grid=grid)
    found = measure(predictions, targets).compute()
    wanted = [ap_by_loop(*rank_by_voc_rules(predictions, targets, label)) for label in range(3)]
    np.testing.assert_allclose(found["AP50 by class"], [area for area, _ in wanted], atol=1e-12)
    for name, column in (("AP50", 0), ("AP50_11", 1)):
        values = [one[column] for one in wanted if not np.isnan(one[column])]
        np.testing.assert_allclose(found[name], np.mean(values) if values else np.nan, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_coco_equals_pycocotools(seed, tmp_path, capsys):
    import json

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    predictions, targets = scenes(seed, count=20)
    dataset = {"images": [{"id": i} for i in range(20)], "categories": [{"id": i} for i in range(3)], "annotations": []}
    results = []
    for image, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        for box, kind, crowd in zip(*(target[k].tolist() for k in ("boxes", "labels", "difficult")), strict=True):
            box = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            entry = {"id": len(dataset["annotations"]) + 1, "image_id": image, "category_id": kind, "bbox": box}
            dataset["annotations"].append(entry | {"area": box[2] * box[3], "iscrowd": int(crowd)})
        for box, kind, score in zip(*(prediction[k].tolist() for k in ("boxes", "labels", "scores")), strict=True):
            box = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": image, "category_id": kind, "bbox": box, "score": score})
    (tmp_path / "truth.json").write_text(json.dumps(dataset))
    truth = COCO(str(tmp_path / "truth.json"))
    run = COCOeval(truth, truth.loadRes(results), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    capsys.readouterr()
    found = measure(predictions, targets, "coco").compute()
    assert not capsys.readouterr().out
    names = {"AP": 0, "AP50": 1, "AP75": 2, "AR1": 6, "AR10": 7, "AR100": 8}
    for name, at in names.items():
        assert found[name] == pytest.approx(run.stats[at], abs=1e-12)
    assert np.nanmean(found["AP by class"]) == pytest.approx(found["AP"], abs=1e-9)


@pytest.mark.parametrize("protocol", ["voc", "coco"])
def test_image_order_does_not_change_results(protocol):
    predictions, targets = scenes(3, spread=0.5)
    one = measure(predictions, targets, protocol).compute()
    other = measure(predictions, targets, protocol, order=np.random.default_rng(0).permutation(12).tolist()).compute()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


def test_per_class_reports_equal_loop():
    predictions, targets = scenes(5, count=30)
    metrics = measure(predictions, targets)
    reports, found = metrics.per_class(), metrics.compute()
    for label, report in enumerate(reports):
        ranked, count = rank_by_voc_rules(predictions, targets, label)
        above = [hit for score, hit in ranked if score > 0.5]
        assert report.positives == count
        assert report.ap == found["AP50 by class"][label]
        assert report.precision == pytest.approx(sum(above) / len(above))
        assert report.recall == pytest.approx(sum(above) / count)
        assert report.f1 == pytest.approx(2 * sum(above) / (len(above) + count))
        assert report.curve.shape == (2, sum(hit for _, hit in ranked))
        assert report.curve[0, -1] == pytest.approx(sum(hit for _, hit in ranked) / count)


def test_score_equal_to_threshold_does_not_count():
    box = torch.tensor([[0.0, 0, 9, 9]])
    true = {"boxes": box, "labels": torch.tensor([0]), "difficult": torch.tensor([False])}
    for score, recall in ((0.5, 0.0), (0.51, 1.0)):
        metrics = DetectionMetrics(1)
        found = {"boxes": box, "scores": torch.tensor([score]), "labels": torch.tensor([0])}
        metrics.update([found], [true], torch.tensor([0]))
        assert metrics.per_class()[0].recall == recall and len(metrics.matched(0)[0]) == recall


@pytest.mark.parametrize("protocol", ["voc", "coco"])
def test_gathered_ranks_equal_one_process(monkeypatch, protocol):
    """Rank 0 has two of every three images, in another order, and rank 2 has none."""
    predictions, targets = scenes(3, spread=0.5)
    ranks = [DetectionMetrics(3, protocol) for _ in range(3)]
    for index in reversed(range(12)):
        ranks[index % 3 == 1].update([predictions[index]], [targets[index]], torch.tensor([index]))
    sent = [(rank._images, *rank._tables()) for rank in ranks]
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda group: 3)
    monkeypatch.setattr(
        "torch.distributed.all_gather_object", lambda parts, own, group: parts.__setitem__(slice(3), sent)
    )
    one = measure(predictions, targets, protocol).compute()
    for rank in ranks:
        rank.gather()
        for name, value in rank.compute().items():
            np.testing.assert_array_equal(value, one[name])


def empty(count=0):
    return {"boxes": torch.zeros(count, 4), "labels": torch.zeros(count, dtype=torch.int64)}


@pytest.mark.parametrize("protocol", ["voc", "coco"])
def test_ap_without_predictions_or_objects(protocol):
    nothing = empty() | {"scores": torch.zeros(0)}
    name = "AP50" if protocol == "voc" else "AP"
    objects = {"boxes": torch.tensor([[0.0, 0, 9, 9]]), "labels": torch.tensor([1]), "difficult": torch.tensor([False])}
    for target, wanted in ((empty() | {"difficult": torch.zeros(0, dtype=torch.bool)}, np.nan), (objects, 0.0)):
        metrics = DetectionMetrics(2, protocol)
        metrics.update([nothing], [target], torch.tensor([4]))
        np.testing.assert_equal(metrics.compute()[name], wanted)
    assert [report.positives for report in DetectionMetrics(2).per_class()] == [0, 0]


def test_curve_areas_equal_pinned_values():
    recall, precision = np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])
    assert area_under(recall, precision) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert eleven_points(recall, precision) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DetectionMetrics(0), "num_classes=0"),
        (lambda: DetectionMetrics(2, "voc07"), "protocol='voc07': must be one of voc, coco"),
        (lambda: DetectionMetrics(2).update([], [{}], torch.tensor([0])), "0 predictions, 1 targets and 1 ids"),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_duplicate_images_are_refused():
    predictions, targets = scenes(0, count=1)
    metrics = DetectionMetrics(3)
    for _ in range(2):
        metrics.update(predictions, targets, torch.tensor([7]))
    with pytest.raises(ValueError, match="1 images are duplicates"):
        metrics.compute()


def test_nan_box_is_refused():
    prediction = {"boxes": torch.full((1, 4), torch.nan), "scores": torch.ones(1), "labels": torch.zeros(1)}
    target = empty() | {"difficult": torch.zeros(0, dtype=torch.bool)}
    metrics = DetectionMetrics(1)
    metrics.update([prediction], [target], torch.tensor([3]))
    with pytest.raises(ValueError, match="image 3: a box or a score is NaN"):
        metrics.compute()
