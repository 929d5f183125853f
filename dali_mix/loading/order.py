"""The order of records and their split among ranks, as pure functions.

An epoch's order is a permutation of the record numbers. Each step takes the next slice of this order, and the slice is
divided among the ranks. The division into steps (see `plan`) depends only on the number of records left, batch size,
number of ranks, train and drop_last. A run may therefore stop after any step and continue on a different number of
ranks: the remaining records are divided again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np


def epoch_order(count: int, seed: int, epoch: int, train: bool) -> np.ndarray:
    """Return (count,) int64: in training, a permutation that depends on (seed, epoch); in evaluation, 0, 1, 2, …"""
    if not train:
        return np.arange(count)
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(count)


def grouped_order(order: np.ndarray, groups: np.ndarray, step: int, key: tuple[int, int]) -> np.ndarray:
    """Return the records of `order` (count,), rearranged into blocks of `step` records of one group.

    The last count % step records of `order` stay at the end. They may be dropped as an incomplete step, so they must
    not always be the leftovers of a small group. The other records of each group are cut into blocks in the sequence of
    `order`. The result begins with the blocks of all groups, shuffled. The records that fill no block come next, in the
    sequence of `order`.

    Args:
        groups: (count,) int64, the group of each record, indexed by record number.
        key: key of the shuffle; `Schedule` uses (seed, epoch).
    """
    blocks, rest = [], []
    order, end = np.split(order, [len(order) // step * step])
    of_order = groups[order]
    for group in np.unique(groups):
        own = np.flatnonzero(of_order == group)
        full = len(own) // step * step
        blocks += list(own[:full].reshape(-1, step))
        rest.append(own[full:])
    shuffled = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)).jumped()).permutation(len(blocks))
    chosen = [*(blocks[block] for block in shuffled), np.sort(np.concatenate([np.empty(0, np.int64), *rest]))]
    return np.concatenate([order[np.concatenate(chosen)], end])


@dataclasses.dataclass(frozen=True)
class Plan:
    """The division of an epoch's remaining records into steps.

    Attributes:
        steps: number of full steps.
        step_size: records per full step, over all ranks.
        tail: sizes of the steps after the full ones, at most two, over all ranks.
    """

    steps: int
    step_size: int
    tail: tuple[int, ...]

    def __len__(self) -> int:
        return self.steps + len(self.tail)

    def size(self, step: int) -> int:
        """Return the number of records in step `step`, over all ranks."""
        return self.step_size if step < self.steps else self.tail[step - self.steps]


def plan(remaining: int, batch_size: int, world_size: int, *, train: bool, drop_last: bool = False) -> Plan:
    """Divide `remaining` records among `world_size` ranks, with at most `batch_size` per rank and step.

    All steps are full except at the end. A remainder with at least one record per rank becomes a last, smaller step. A
    smaller remainder is combined with the previous step, and both are divided into two steps whose sizes differ by at
    most one.

    If that still leaves a rank without a record (batch_size 1, or fewer records left than ranks), training drops the
    remainder. Evaluation keeps it, and ranks without a record take one step fewer. `drop_last` drops any incomplete
    step.
    """
    full = batch_size * world_size
    steps, rest = divmod(remaining, full)
    if rest == 0 or drop_last:
        return Plan(steps, full, ())
    if rest >= world_size:
        return Plan(steps, full, (rest,))
    if steps and full + rest >= 2 * world_size:
        pooled = full + rest
        return Plan(steps - 1, full, (pooled - pooled // 2, pooled // 2))
    return Plan(steps, full, () if train else (rest,))


def share(size: int, rank: int, world_size: int) -> slice:
    """Return the slice of a step's `size` records for `rank`.

    The slices of the ranks are consecutive, and their sizes differ by at most one, with larger ones first.
    """
    base, extra = divmod(size, world_size)
    start = rank * base + min(rank, extra)
    return slice(start, start + base + (rank < extra))


def steps_of_rank(plan: Plan, rank: int) -> int:
    """Return the number of steps of `plan` in which `rank` has a record."""
    return sum(1 for size in plan.tail if rank < size) + plan.steps


@dataclasses.dataclass(frozen=True)
class Step:
    """One rank's part of a step.

    Attributes:
        start, end: range of the step, over all ranks, in the epoch's order.
        first: position of this rank's first record in the order.
        rows: this rank's records, int64.
    """

    epoch: int
    start: int
    end: int
    first: int
    rows: np.ndarray


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The steps of one rank over all epochs.

    Its fields are the arguments of `plan`, `share`, `epoch_order` and `grouped_order`. `group_step` is the `step` of
    `grouped_order`. If `groups` is None, records are not grouped.
    """

    count: int
    seed: int
    train: bool
    batch_size: int
    rank: int
    world_size: int
    drop_last: bool = False
    groups: np.ndarray | None = None
    group_step: int = 0

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch's records, (count,) int64."""
        order = epoch_order(self.count, self.seed, epoch, self.train)
        return order if self.groups is None else grouped_order(order, self.groups, self.group_step, (self.seed, epoch))

    def plan(self, position: int) -> Plan:
        """Return the plan for the rest of an epoch, from global `position` on."""
        left = self.count - position
        return plan(left, self.batch_size, self.world_size, train=self.train, drop_last=self.drop_last)

    def steps_left(self, position: int) -> int:
        """Return the number of steps of this rank from global `position` to the end of an epoch."""
        return steps_of_rank(self.plan(position), self.rank)

    def step(self, order: np.ndarray, epoch: int, position: int) -> Step:
        """Return this rank's part of the step that begins at global `position` of `epoch`.

        `order` (count,) contains the epoch's record numbers. The plan from `position` on must have a step. `rows` is
        empty if the step has no record for this rank.
        """
        size = self.plan(position).size(0)
        own = share(size, self.rank, self.world_size)
        rows = order[position : position + size][own]
        return Step(epoch, position, position + size, position + own.start, rows)

    def steps_from(self, epoch: int, position: int) -> Iterator[Step]:
        """Yield this rank's steps from global `position` of `epoch` on, through all following epochs.

        The iteration ends only if a full epoch has no step for this rank.
        """
        while True:
            begun, order = position, self.order(epoch)
            while self.steps_left(position):
                step = self.step(order, epoch, position)
                yield step
                position = step.end
            if position == begun == 0:
                return
            epoch, position = epoch + 1, 0
