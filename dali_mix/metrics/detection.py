"""Detection metrics: average precision by the rules of PASCAL VOC and COCO.

More than 300 lines: VOC's matching and curves, and the conversion to pycocotools, work on the same tables of rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from dali_mix.metrics.per_class import ClassReport
from dali_mix.options import choice, whole

PROTOCOLS = ("voc", "coco")
VOC_IOU = 0.5
# Indices into pycocotools' `stats`. Metrics by object size are omitted: they need the area of the segmented object,
# which records do not store.
COCO_STATS = {"AP": 0, "AP50": 1, "AP75": 2, "AR1": 6, "AR10": 7, "AR100": 8}


class DetectionMetrics:
    """Average precision of predicted boxes, by class and averaged over classes.

    Predicted and ground-truth boxes must be in the same pixel coordinates. Predictions are kept on the CPU until
    `compute`. With several ranks, call `gather` on every rank, then `compute`. The result does not depend on the order
    of the images or their split among ranks: equal scores are ordered by image and then by index.

    Args:
        num_classes: K.
        protocol: "voc": a prediction is correct if its best overlap with a true box of its class has an IoU of at least
            0.5 and no prediction of higher score matched that box. Difficult objects are ignored. "coco": computed by
            pycocotools (the extra `dali_mix[detection]`), where `difficult` marks COCO's crowds.
        threshold: score above which predictions count in the precision and recall of `per_class`, and in `matched`.

    Raises:
        ValueError: num_classes below 1, an unknown protocol, or "coco" without pycocotools.
    """

    def __init__(self, num_classes: int, protocol: str = "voc", threshold: float = 0.5) -> None:
        self.num_classes = whole("num_classes", num_classes, 1)
        self.protocol = choice("protocol", protocol, PROTOCOLS)
        if protocol == "coco":
            _pycocotools()
        self.threshold = threshold
        self.reset()

    def reset(self) -> None:
        """Remove all predictions and targets."""
        self._images: list[Tensor] = []  # (B,) image ids, in float64 like the rows below
        self._found: list[Tensor] = []  # (n, 7): image, x1, y1, x2, y2, score, label
        self._true: list[Tensor] = []  # (m, 7): image, x1, y1, x2, y2, difficult, label

    def update(
        self, predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]], ids: Tensor
    ) -> None:
        """Add a batch.

        Args:
            predictions: for each image `boxes` (n, 4) x1, y1, x2, y2, `scores` (n,) and `labels` (n,), 0 to K - 1.
            targets: for each image `boxes` (m, 4), `labels` (m,) and `difficult` (m,) bool.
            ids: (B,) image ids, each used once over all ranks.

        Raises:
            ValueError: predictions, targets and ids differ in length.
        """
        if not len(predictions) == len(targets) == len(ids):
            raise ValueError(f"{len(predictions)} predictions, {len(targets)} targets and {len(ids)} ids")
        self._images.append(ids.double().cpu())
        for number, found, true in zip(ids.tolist(), predictions, targets, strict=True):
            self._found.append(_rows(number, found["boxes"], found["scores"], found["labels"]))
            self._true.append(_rows(number, true["boxes"], true["difficult"], true["labels"]))

    def gather(self, group: dist.ProcessGroup | None = None) -> None:
        """Gather the predictions and targets of all ranks on every rank.

        Call it once on each rank, just before `compute`. It does nothing if torch.distributed is not initialized.
        """
        if dist.is_available() and dist.is_initialized():
            parts: list[Any] = [None] * dist.get_world_size(group)
            dist.all_gather_object(parts, (self._images, *self._tables()), group)
            self._images = [own for images, _, _ in parts for own in images]
            self._found = [found for _, found, _ in parts]
            self._true = [true for _, _, true in parts]

    def compute(self) -> dict[str, Any]:
        """Return the metrics as a dict. Values are between 0 and 1, or NaN if there are no objects.

        With protocol "voc", the keys are "AP50", the mean over classes of the area under the curve (VOC 2010 to 2012);
        "AP50_11", the same mean with eleven points (VOC 2007); and "AP50 by class", a list of the areas of all classes.
        A class that has no objects, or only difficult ones, is NaN in the list and is excluded from the means.

        With protocol "coco", the keys are "AP" (the mean over IoU 0.5 to 0.95), "AP50", "AP75", the average recalls
        "AR1", "AR10" and "AR100" with at most 1, 10 and 100 predictions per image, and "AP by class", a list.

        Raises:
            ValueError: an image that was added twice, or a NaN in a box or score.
        """
        images = torch.cat([torch.empty(0, dtype=torch.float64), *self._images])
        for table in self._tables():
            if (nan := table.isnan().any(1)).any():
                raise ValueError(f"image {int(table[nan][0, 0])}: a box or a score is NaN")
        if len(images.unique()) < len(images):
            raise ValueError(f"{len(images) - len(images.unique())} images are duplicates: add each only once")
        if self.protocol == "coco":
            return self._coco(images.long().tolist())
        ranked = self._ranked()
        areas, eleven = ([one.average(rule) for one in ranked] for rule in (area_under, eleven_points))
        return {"AP50": _mean(areas), "AP50_11": _mean(eleven), "AP50 by class": areas}

    def per_class(self) -> list[ClassReport]:
        """Return a report for each class, by VOC's rules at IoU 0.5, even with protocol "coco"."""
        reports = []
        for one in self._ranked():
            recall, precision = one.curve()
            count = int(np.count_nonzero(one.scores > self.threshold))
            right, counted = (int(part[:count].sum()) for part in (one.right, one.counted))
            rises = np.flatnonzero(one.right)
            reports.append(
                ClassReport(
                    one.average(area_under),
                    right / max(counted, 1),
                    right / max(one.positives, 1),
                    2 * right / max(counted + one.positives, 1),
                    one.positives,
                    np.stack([recall[rises], precision[rises]]),
                )
            )
        return reports

    def images(self) -> list[int]:
        """Return the ids of all images added, sorted."""
        return sorted(int(number) for part in self._images for number in part.tolist())

    def matched(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the predictions above the threshold and the true boxes of an image, matched by VOC's rules.

        Args:
            number: the image id.

        Returns:
            a tuple of predictions, true boxes, states and matched. Predictions are (n, 6): x1, y1, x2, y2, score,
            label, by descending score. True boxes are (m, 6): x1, y1, x2, y2, difficult, label. States are (n,), RIGHT,
            WRONG or IGNORED for each prediction. Matched is (m,) bool, True for true boxes that are not difficult and
            were matched by a prediction.
        """
        found, true = (table[table[:, 0] == number, 1:].numpy() for table in self._tables())
        found = found[found[:, 4] > self.threshold]
        found = found[np.argsort(-found[:, 4], kind="stable")]
        states, taken = np.full(len(found), WRONG), np.zeros(len(true), bool)
        for label in np.unique(found[:, 5]).tolist():
            mine, own = np.flatnonzero(found[:, 5] == label), np.flatnonzero(true[:, 5] == label)
            states[mine], hit = match(found[mine, :4], true[own, :5])
            taken[own[hit]] = True
        return found, true, states, taken

    def _tables(self) -> tuple[Tensor, Tensor]:
        if len(self._found) != 1:  # join once, not at every call; both lists have the same length
            empty = torch.empty(0, 7, dtype=torch.float64)
            self._found, self._true = [torch.cat([empty, *self._found])], [torch.cat([empty, *self._true])]
        return self._found[0], self._true[0]

    def _ranked(self) -> list[_Ranked]:
        found, true = (table.numpy() for table in self._tables())
        # Order by descending score, then by image, then by index.
        found = found[np.lexsort((np.arange(len(found)), found[:, 0], -found[:, 5]))]
        states = np.empty(len(found), np.int64)
        truth = dict(_by_image_and_class(true, self.num_classes))
        for key, at in _by_image_and_class(found, self.num_classes):
            states[at], _ = match(found[at, 1:5], true[truth.get(key, []), 1:6])
        counts = np.bincount(true[true[:, 5] == 0, 6].astype(np.int64), minlength=self.num_classes)
        ranked = []
        for label, positives in enumerate(counts.tolist()):
            own = found[:, 6] == label
            ranked.append(_Ranked(found[own, 5], states[own] == RIGHT, states[own] != IGNORED, positives))
        return ranked

    def _coco(self, images: list[int]) -> dict[str, Any]:
        coco, evaluation = _pycocotools()
        found, true = (table.numpy() for table in self._tables())
        if not len(true):
            return {**dict.fromkeys(COCO_STATS, float("nan")), "AP by class": [float("nan")] * self.num_classes}
        truth, results = coco(), coco()
        truth.dataset = results.dataset = {
            "images": [{"id": number} for number in sorted(images)],
            "categories": [{"id": label} for label in range(self.num_classes)],
        }
        truth.dataset = {**truth.dataset, "annotations": [_annotation(at, row) for at, row in enumerate(true, 1)]}
        scored = [{**_annotation(at, row), "iscrowd": 0, "score": row[5]} for at, row in enumerate(found, 1)]
        results.dataset = {**results.dataset, "annotations": scored}
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every stage
            truth.createIndex()
            results.createIndex()
            run = evaluation(truth, results, "bbox")
            run.evaluate()
            run.accumulate()
            run.summarize()
        precision = run.eval["precision"][:, :, :, 0, 2]  # IoU, recall, class; any area, 100 predictions per image
        by_class = [float(own.mean()) if (own > -1).all() else float("nan") for own in np.moveaxis(precision, 2, 0)]
        values = {name: float(run.stats[at]) for name, at in COCO_STATS.items()}
        return {
            **{name: float("nan") if value < 0 else value for name, value in values.items()},
            "AP by class": by_class,
        }


RIGHT, WRONG, IGNORED = 1, 0, -1


@dataclasses.dataclass(frozen=True)
class _Ranked:
    """The predictions of one class, by descending score.

    Attributes:
        scores: (n,).
        right: (n,) bool, True for correct predictions.
        counted: (n,) bool, False for predictions that match a difficult object.
        positives: number of true boxes that are not difficult.
    """

    scores: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    positives: int

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return recall and precision after each prediction, (n,) each."""
        hits = np.cumsum(self.right)
        return hits / max(self.positives, 1), hits / np.maximum(np.cumsum(self.counted), 1)

    def average(self, rule: Callable[[np.ndarray, np.ndarray], float]) -> float:
        """Return the average precision by `rule`, `area_under` or `eleven_points`; NaN if `positives` is 0."""
        return rule(*self.curve()) if self.positives else float("nan")


def match(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Match the predictions of one image and class to the true boxes of that image and class by VOC's rules.

    Args:
        found: (n, 4) x1, y1, x2, y2, in order of descending score.
        true: (m, 5) x1, y1, x2, y2, difficult.

    Returns:
        a tuple of states and indices. States are (n,), RIGHT, WRONG or IGNORED for each prediction. The indices are
        those of the true boxes that are not difficult and were matched, in the order of matching.
    """
    states = np.full(len(found), WRONG)
    if not len(true):
        return states, []
    low = np.maximum(found[:, None, :2], true[:, :2])
    high = np.minimum(found[:, None, 2:], true[:, 2:4])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = (found[:, 2:] - found[:, :2]).prod(axis=1)[:, None] + (true[:, 2:4] - true[:, :2]).prod(axis=1)
    iou = shared / np.maximum(areas - shared, 1e-12)
    taken: list[int] = []
    for index, other in enumerate(iou.argmax(axis=1).tolist()):
        if iou[index, other] >= VOC_IOU:
            if true[other, 4]:
                states[index] = IGNORED
            elif other not in taken:
                taken.append(other)
                states[index] = RIGHT
    return states, taken


def area_under(recall: np.ndarray, precision: np.ndarray) -> float:
    """Return the area under the precision-recall curve (VOC 2010 to 2012).

    Each precision is first replaced by the highest at the same or a higher recall.

    Args:
        recall, precision: (n,), the values after each prediction.
    """
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * highest).sum())


def eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    """Return the mean, over r = 0, 0.1, …, 1, of the highest precision at a recall of at least r (VOC 2007)."""
    points = [precision[recall >= tenth / 10].max(initial=0.0) for tenth in range(11)]
    return float(np.mean(points))


def _rows(number: int, boxes: Tensor, extra: Tensor, labels: Tensor) -> Tensor:
    columns = [torch.full_like(extra, number, dtype=torch.float64), *boxes.double().T, extra.double(), labels.double()]
    return torch.stack(columns, 1).cpu()


def _by_image_and_class(table: np.ndarray, num_classes: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (key, indices) for each pair of image and class that occurs in `table`, (n, 7), in order of the keys.

    Column 0 of `table` is the image id and column 6 the class. The key is image · num_classes + class. The indices are
    those of the pair's rows, ascending.
    """
    keys = table[:, 0].astype(np.int64) * num_classes + table[:, 6].astype(np.int64)
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    return zip(keys[order][starts].tolist(), np.split(order, starts[1:]), strict=False)


def _mean(values: Sequence[float]) -> float:
    present = [value for value in values if not np.isnan(value)]
    return float(np.mean(present)) if present else float("nan")


def _annotation(number: int, row: np.ndarray) -> dict[str, Any]:
    _, x1, y1, x2, y2, crowd, label = row.tolist()
    box = [x1, y1, x2 - x1, y2 - y1]
    area = box[2] * box[3]
    return {
        "id": number,
        "image_id": int(row[0]),
        "category_id": int(label),
        "bbox": box,
        "area": area,
        "iscrowd": int(crowd),
    }


def _pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ValueError(
            f"protocol 'coco' needs pycocotools ({error}): pip install 'dali_mix[detection]', or use protocol 'voc'"
        ) from error
    return COCO, COCOeval
