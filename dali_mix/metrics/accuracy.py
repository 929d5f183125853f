"""Top-k accuracy, counted in integers on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# The count of one correct prediction: the least common multiple of 1 … 24. With tied logits, a sample counts as a
# fraction of UNIT. This is an integer for ties of up to 24 logits, and exact within 2e-10 of UNIT for more. An int64
# can hold the counts of 1.7e9 samples.
UNIT = 5354228880


class Accuracy:
    """Share of samples whose class is among the k highest logits.

    Counters are integers on the device, so sums over batches and ranks are exact. To combine ranks, all-reduce (SUM)
    `state()` in place, or `merge` the states of the other ranks; then call `compute`.

    Ties are counted in expectation over random orders, so a model that outputs the same logit for all classes scores
    k / K. A row with a NaN counts as wrong. With fewer than k classes, every row without a NaN is correct at k.

    Args:
        topk: values of k, each ≥ 1.
        device: device of the counters; by default that of the first logits.

    Raises:
        ValueError: no k, or a k below 1.
    """

    def __init__(self, topk: Sequence[int] = (1, 5), device: torch.device | str | None = None) -> None:
        if not topk or min(topk) < 1:
            raise ValueError(f"topk={tuple(topk)}: needs at least one k, each at least 1")
        self.topk = tuple(topk)
        self._counts = torch.zeros(len(self.topk) + 1, dtype=torch.int64, device=device or "cpu")
        self._placed = device is not None

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch. Synchronizes only if the logits are on a GPU and `device` is the CPU.

        Args:
            logits: (B,K) of any float dtype.
            targets: (B,) int64 (-1 = ignored), or (B,K) soft targets, whose largest entry marks the class.

        Raises:
            ValueError: shapes that do not match.
        """
        if logits.ndim != 2 or targets.shape not in (logits.shape, logits.shape[:1]):
            raise ValueError(
                f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}: need (B,K) and (B,) or (B,K)"
            )
        classes = targets.argmax(1) if targets.ndim == 2 else targets
        shares, counted = _shares(logits.detach(), classes, self.topk)
        if not self._placed:
            self._counts, self._placed = self._counts.to(logits.device), True
        self._counts += torch.stack([*(share.sum() for share in shares), counted.sum()]).to(self._counts.device)

    def state(self) -> Tensor:
        """Return the counters themselves, not a copy, (len(topk) + 1,) int64.

        There is one counter for each k, the number of correct predictions in units of 1 / `UNIT`. The last counter is
        the number of samples that are not ignored.
        """
        return self._counts

    def merge(self, state: Tensor) -> None:
        """Add the counters (`state()`) of another rank or shard."""
        self._counts += state.to(self._counts.device)

    def reset(self) -> None:
        """Set all counters to 0."""
        self._counts.zero_()

    def compute(self) -> dict[str, float]:
        """Return {"top1": accuracy in percent, …}, with a key for each k.

        Synchronizes with the device. Raise ValueError if nothing was counted.
        """
        *right, count = self._counts.tolist()
        if not count:
            raise ValueError("no samples were counted: the evaluation set is empty, or all its labels are ignored")
        return {f"top{k}": 100.0 * (hits / UNIT) / count for k, hits in zip(self.topk, right, strict=True)}


class ClassAccuracy:
    """Top-1 accuracy of each of K classes, counted as in `Accuracy`. `device` must be the device of the logits."""

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self._counts = torch.zeros(2, num_classes, dtype=torch.int64, device=device)

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch like `Accuracy.update`, without synchronizing."""
        classes = targets.argmax(1) if targets.ndim == 2 else targets
        shares, counted = _shares(logits.detach(), classes, (1,))
        own = classes.clamp_min(0)
        self._counts[0].index_add_(0, own, shares[0])
        self._counts[1].index_add_(0, own, counted.long())

    def state(self) -> Tensor:
        """Return the counters themselves, not a copy, (2,K) int64.

        The first row has the number of correct predictions of each class, in units of 1 / `UNIT`. The second row has
        the number of samples of each class.
        """
        return self._counts

    def compute(self) -> list[float]:
        """Return the accuracy of each class in percent, NaN without samples. Synchronizes with the device."""
        right, counts = self._counts.tolist()
        pairs = zip(right, counts, strict=True)
        return [100.0 * (hits / UNIT) / count if count else float("nan") for hits, count in pairs]


def _shares(logits: Tensor, classes: Tensor, topk: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """Return the probability that each sample is correct at each k, and which samples count.

    Args:
        classes: (B,) int64, -1 = ignored.

    Returns:
        a list with a tensor (B,) int64 for each k, and a mask (B,) bool that is False for ignored samples. A tensor
        contains probabilities over random orders of equal logits, in units of 1 / `UNIT`. They are 0 for ignored
        samples and for rows with a NaN.
    """
    score = logits.gather(1, classes.clamp_min(0)[:, None])
    higher, equal = (logits > score).sum(1), (logits == score).sum(1).clamp_min(1)
    counted = classes >= 0
    usable = counted & ~logits.isnan().any(1)
    return [(k - higher).clamp_min(0).minimum(equal) * UNIT // equal * usable for k in topk], counted
