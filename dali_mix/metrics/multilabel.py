"""Multi-label metrics: average precision, and precision, recall and F1 at a threshold and for the top three."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from dali_mix.options import choice, whole

TOP = 3
_Floats = npt.NDArray[np.floating[Any]]
_Flags = npt.NDArray[np.bool_]


class MultiLabelMetrics:
    """Multi-label metrics: mAP, AP per class, and precision, recall and F1 at a threshold and for the top three.

    CP and CR are means over classes, and CF1 is their harmonic mean. OP, OR and OF1 are over all entries.

    Scores and targets are kept on `device` until `compute`, which works on the CPU in float64. With several ranks, call
    `gather` on every rank (or `merge` the `state()` of the other ranks), then `compute`. With `ids`, the result does
    not depend on the order of the samples or their split among ranks.

    Ignored entries (-1) are excluded from AP and, unless the protocol is "wider", from all other metrics. NaN scores of
    entries that are not ignored are an error.

    A class without positives has AP NaN and is excluded from mAP; it counts as 0 in CP and CR. A class that is never
    predicted counts as 0 in CP. The published evaluators do the same.

    Args:
        num_classes: K.
        protocol: "plain": AP is the mean of the precision at each positive. "voc07": the same, under the name used in
            the CSRA and SGRE evaluators (not the eleven-point AP). "voc12": as "plain", but each precision is replaced
            by the highest at this or a later positive. "wider": as "plain", but ignored entries count as negatives in
            precision, recall and F1, as in CSRA's WIDER-Attribute evaluator.
        ties: handling of equal scores. "random": the expectation over random orders (McSherry and Najork, ECIR 2008),
            so a model with constant scores gets the result of guessing. "order": samples rank by id (without ids, by
            arrival, rank after rank), and classes within a sample by index, as in the published evaluators, which sort.
            "sklearn": all equal scores of a class form one threshold, as in scikit-learn's `average_precision_score`;
            within a sample, as "random".
        threshold: scores above it count as predictions: 0.5 for probabilities, 0 for logits.
        device: device of the stored rows; by default that of the first scores.

    Raises:
        ValueError: num_classes below 1, or an unknown protocol or `ties`.
    """

    def __init__(
        self,
        num_classes: int,
        protocol: str = "plain",
        threshold: float = 0.5,
        device: torch.device | str | None = None,
        ties: str = "random",
    ) -> None:
        self.num_classes = whole("num_classes", num_classes, 1)
        self.protocol = choice("protocol", protocol, ("plain", "voc07", "voc12", "wider"))
        self.ties = choice("ties", ties, ("random", "order", "sklearn"))
        self.threshold = threshold
        self._device = torch.device(device or "cpu")
        self._placed = device is not None
        self._rows: list[Tensor] = []

    def update(self, scores: Tensor, targets: Tensor, ids: Tensor | None = None) -> None:
        """Add a batch. Synchronizes only if a tensor is on a GPU and `device` is the CPU.

        Args:
            scores: (B,K) of any float dtype, higher for classes that are more likely.
            targets: (B,K) of any dtype: 1, 0, or -1 = ignored.
            ids: (B,) integers, the record numbers of the samples, on any device. Pass them for all batches or for none.

        Raises:
            ValueError: wrong shapes or dtypes.
        """
        if scores.ndim != 2 or scores.shape[1] != self.num_classes or targets.shape != scores.shape:
            raise ValueError(
                f"scores {tuple(scores.shape)} and targets {tuple(targets.shape)}: need (B, {self.num_classes}) of both"
            )
        if not scores.is_floating_point():
            raise ValueError(f"scores are {scores.dtype}: need a floating-point dtype; pass scores, not predictions")
        if ids is not None and (ids.shape != scores.shape[:1] or ids.is_floating_point()):
            raise ValueError(f"ids {tuple(ids.shape)} {ids.dtype}: need ({len(scores)},) of an integer dtype")
        if not self._placed:
            self._device, self._placed = scores.device, True
        # float64 represents every float32 and record number exactly, so one tensor can hold a row.
        numbers = scores.new_full(scores.shape[:1], -1) if ids is None else ids
        parts = (numbers[:, None], scores.detach(), targets)
        # A loader's ids are on the CPU. Copies to a GPU need not wait for the GPU; copies from a GPU must.
        rows = [part.to(self._device, torch.float64, non_blocking=self._device.type == "cuda") for part in parts]
        self._rows.append(torch.cat(rows, 1))

    def state(self) -> Tensor:
        """Return the state, (n, 1 + 2K) float64: each row holds a sample's id (-1 = none), scores and targets."""
        width = 1 + 2 * self.num_classes
        rows = self._rows or [torch.zeros(0, width, dtype=torch.float64, device=self._device)]
        self._rows = [torch.cat(rows)]
        return self._rows[0]

    def merge(self, state: Tensor) -> None:
        """Add the `state()` of another rank or shard. Raise ValueError if its number of classes differs."""
        if state.ndim != 2 or state.shape[1] != 1 + 2 * self.num_classes:
            raise ValueError(f"state {tuple(state.shape)}: need (n, {1 + 2 * self.num_classes}), as from `state()`")
        self._rows.append(state.to(self._device, torch.float64))

    def gather(self, group: dist.ProcessGroup | None = None) -> None:
        """Gather the samples of all ranks on every rank, in rank order.

        Call it once on each rank, just before `compute`. Ranks may have different numbers of samples, or none. It does
        nothing if torch.distributed is not initialized.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return
        parts: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(parts, self.state().cpu(), group)
        self._rows = [part.to(self._device) for part in parts]

    def reset(self) -> None:
        """Remove all samples."""
        self._rows = []

    def compute(self) -> dict[str, Any]:
        """Return the metrics, each 0 … 1. Synchronizes with the device.

        Returns:
            a dict of "mAP" (NaN without any positive), "AP" (a list of K, NaN for classes without positives), "CP",
            "CR", "CF1", "OP", "OR" and "OF1". The last six appear again with the suffix "_top3". For these, only the
            three highest scores of each sample count as predictions, if they are above the threshold.

        Raises:
            ValueError: see `samples`.
        """
        scores, targets = self.samples()
        known, positive = targets >= 0, targets > 0
        columns = (np.ascontiguousarray(part.T) for part in (scores, positive, known))
        precisions = [
            average_precision(precision_at_positives(score[keep], truth[keep], self.ties), self.protocol == "voc12")
            for score, truth, keep in zip(*columns, strict=True)
        ]
        present = [value for value in precisions if not np.isnan(value)]
        counted = self.counted(targets)
        predicted = (scores > self.threshold) & counted
        highest = predicted * _top(np.where(counted, scores, -np.inf), TOP, self.ties)
        return {
            "mAP": float(np.mean(present)) if present else float("nan"),
            "AP": precisions,
            **_rates(predicted, positive),
            **{f"{name}_top{TOP}": value for name, value in _rates(highest, positive).items()},
        }

    def counted(self, targets: _Floats) -> _Flags:
        """Return (n,K) bool, True for the entries that count in precision, recall and F1."""
        return np.ones_like(targets, bool) if self.protocol == "wider" else targets >= 0

    def samples(self) -> tuple[_Floats, _Floats]:
        """Return scores and targets, (n,K) float64 each.

        Rows are ordered by id, or by arrival without ids. A NaN score of an ignored entry becomes -inf. Synchronizes
        with the device.

        Raises:
            ValueError: no samples; a target that is not 1, 0 or -1; a duplicate id, or ids for some samples only; a NaN
                score of an entry that is not ignored; scores outside 0 … 1 with a threshold between 0 and 1.
        """
        rows = self._ordered(self.state().cpu().numpy())
        scores, targets = np.split(rows[:, 1:], 2, axis=1)
        if (wrong := ~np.isin(targets, (-1, 0, 1))).any():
            raise ValueError(f"targets contain {targets[wrong][0]:g}: they must be 1, 0, or -1 to ignore an entry")
        if (lost := (np.isnan(scores) & (targets >= 0)).any(1)).any():
            numbers = np.where(rows[:, 0] < 0, np.arange(len(rows)), rows[:, 0])[lost].astype(int)
            raise ValueError(
                f"the scores of {len(numbers)} of {len(rows)} samples are NaN, first "
                f"{numbers[:5].tolist()}: this model cannot be scored"
            )
        if 0 < self.threshold < 1 and ((scores < 0) | (scores > 1)).any():
            raise ValueError(
                f"scores reach from {np.nanmin(scores):g} to {np.nanmax(scores):g}, and threshold={self.threshold} is "
                "for probabilities: pass sigmoids, or threshold=0 for logits"
            )
        return np.where(np.isnan(scores), -np.inf, scores), targets

    def _ordered(self, rows: _Floats) -> _Floats:
        """Return `rows`, in the format of `state`, in ascending order of their ids, or unchanged if no row has an id.

        Raise ValueError if there are no rows, if an id occurs twice, or if only some rows have an id.
        """
        if not len(rows):
            raise ValueError("no samples were counted: the evaluation set is empty")
        ids = rows[:, 0]
        if (ids < 0).all():
            return rows
        if (ids < 0).any():
            raise ValueError(f"{(ids < 0).sum()} of {len(ids)} samples have no ids: pass ids for all or for none")
        order = np.argsort(ids, kind="stable")
        if (twice := np.diff(ids[order]) == 0).any():
            raise ValueError(
                f"{twice.sum()} samples are duplicates, e.g. id {ids[order][1:][twice][0]:.0f}: an evaluation "
                "must see each sample once over all ranks"
            )
        return rows[order]


def precision_at_positives(scores: _Floats, positive: _Flags, ties: str) -> _Floats:
    """Return (p,), the precision at the rank of each of the p positives, in order of descending score.

    Args:
        scores: (n,).
        positive: (n,) bool.
        ties: as in `MultiLabelMetrics`. With "random", the precision at a positive is the mean over all orders of
            samples with equal scores.
    """
    order = np.argsort(-scores, kind="stable")
    falling, hit = scores[order], positive[order]
    ranks = np.flatnonzero(hit) + 1
    first = np.flatnonzero(np.concatenate([[True], falling[1:] != falling[:-1]])[: len(falling)])
    if ties == "order" or len(first) == len(falling):
        return np.arange(1, len(ranks) + 1) / ranks
    # A group of equal scores has `size` samples (`hits` positives) and follows `first` samples (`before` positives).
    size = np.diff(first, append=len(falling))
    hits = np.add.reduceat(hit.astype(np.int64), first)
    before = np.cumsum(hits) - hits
    if ties == "sklearn":
        value = (before + hits) / (first + size)
    else:
        # On average, a positive at position j of its group follows (j - 1) · share others of the group. Take the mean
        # over j = 1 … size of (before + 1 + (j - 1) · share) / (first + j), with harmonic numbers.
        share = (hits - 1) / np.maximum(size - 1, 1)
        harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, len(falling) + 1))])
        reciprocals = harmonic[first + size] - harmonic[first]
        several = share + (before + 1 - share * (first + 1)) * reciprocals / size
        value = np.where(size == 1, (before + 1) / (first + 1), several)
    return np.repeat(value, size)[hit]


def average_precision(precision: _Floats, interpolated: bool) -> float:
    """Return the mean of the result of `precision_at_positives`: 0 … 1, or NaN without positives.

    interpolated: True to first replace each precision by the highest at this or any later positive.
    """
    if not len(precision):
        return float("nan")
    if interpolated:
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(precision.mean())


def _top(scores: _Floats, count: int, ties: str) -> _Floats:
    """Return (n,K), 1 for the `count` highest scores of each row (n,K) and 0 for the others.

    Several classes may have the score of rank `count`. If `ties` is "order", those with the lowest indices get 1 until
    the row has `count` ones. Otherwise, each of them gets its probability, over random orders, of being among the
    `count` highest.
    """
    if scores.shape[1] <= count:
        return np.ones(scores.shape)
    last = -np.partition(-scores, count - 1, axis=1)[:, count - 1 : count]
    above, equal = scores > last, scores == last
    left = count - above.sum(1, keepdims=True)
    chosen = equal.cumsum(1) <= left if ties == "order" else left / equal.sum(1, keepdims=True)
    return above + equal * chosen


def _rates(predicted: _Flags | _Floats, positive: _Flags) -> dict[str, float]:
    """Return "CP", "CR", "CF1", "OP", "OR" and "OF1" as defined in `MultiLabelMetrics`, each 0 if its divisor is 0.

    Args:
        predicted: (n,K) bool, or the probability 0 … 1 that an entry is predicted.
        positive: (n,K) bool.
    """
    hits, guesses, truths = (predicted * positive).sum(0), predicted.sum(0), positive.sum(0)
    rates = {
        "CP": float(np.mean(hits / np.where(guesses > 0, guesses, 1))),
        "CR": float(np.mean(hits / np.maximum(truths, 1))),
        "OP": float(hits.sum() / (guesses.sum() or 1)),
        "OR": float(hits.sum() / max(truths.sum(), 1)),
    }
    for kind in "CO":
        precision, recall = rates[f"{kind}P"], rates[f"{kind}R"]
        rates[f"{kind}F1"] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {name: rates[name] for name in ("CP", "CR", "CF1", "OP", "OR", "OF1")}
