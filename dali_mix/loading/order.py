"""Which record is used when and on which rank: pure functions, no state.

An epoch's order is a permutation of the record numbers; step after step takes the next stretch of it, and the ranks
split each stretch among them. Everything follows from (records left, batch size, ranks), so a run may stop after any
step and continue on another number of ranks: the remaining records are split again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np


def epoch_order(count: int, seed: int, epoch: int, train: bool) -> np.ndarray:
    """(count,) int64: a permutation that depends on (seed, epoch) when training; 0, 1, 2, … when evaluating."""
    if not train:
        return np.arange(count)
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(count)


def grouped_order(order: np.ndarray, groups: np.ndarray, step: int, key: tuple[int, int]) -> np.ndarray:
    """Return `order` (count,) rearranged so that every block of `step` records but the last ones has one group.

    Each group's records, in their order, are cut into blocks; the blocks are shuffled by `key`; records that fill no
    block come last, in their order. The end of `order` that fills no step stays the end: it may be dropped, and must
    not always be the rest of a small group. groups: (count,) int64 of each record.
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
    """How the records left in an epoch are shared out: `steps` of `step_size`, then `tail`: the sizes of up to two last
    steps.
    """

    steps: int
    step_size: int
    tail: tuple[int, ...]

    def __len__(self) -> int:
        return self.steps + len(self.tail)

    def size(self, step: int) -> int:
        """How many records step `step` takes, over all ranks."""
        return self.step_size if step < self.steps else self.tail[step - self.steps]


def plan(remaining: int, batch_size: int, world_size: int, *, train: bool, drop_last: bool = False) -> Plan:
    """Shares `remaining` records out among `world_size` ranks with up to `batch_size` each a step.

    All steps are full but the end. A remainder that gives every rank a record is one last, smaller step. A smaller one
    is pooled with the step before, and the two are made equal. Where even that leaves a rank without a record
    (batch_size 1, or fewer records left than ranks), training drops the remainder; evaluation keeps it, and the ranks
    without a record take one step less. `drop_last` drops whatever does not fill a step.
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
    """The stretch of a step's `size` records that falls to `rank`: contiguous, sizes differ by at most one, larger ones
    first.
    """
    base, extra = divmod(size, world_size)
    start = rank * base + min(rank, extra)
    return slice(start, start + base + (rank < extra))


def steps_of_rank(plan: Plan, rank: int, world_size: int) -> int:
    """How many steps `rank` takes: all of them, but for an evaluation whose last records do not reach it."""
    return sum(1 for size in plan.tail if rank < size) + plan.steps


@dataclasses.dataclass(frozen=True)
class Step:
    """What one rank takes at one step. `start`, `end`: global positions in the epoch's order; `rows`: this rank's
    records, int64, which stand in the order from position `first` on.
    """

    epoch: int
    start: int
    end: int
    first: int
    rows: np.ndarray


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The steps of one rank, epoch after epoch. Fields as `plan`, `epoch_order` and `grouped_order` take them."""

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
        """How the records from global `position` of an epoch on are shared out."""
        left = self.count - position
        return plan(left, self.batch_size, self.world_size, train=self.train, drop_last=self.drop_last)

    def steps_left(self, position: int) -> int:
        """How many steps this rank takes from global `position` of an epoch on."""
        return steps_of_rank(self.plan(position), self.rank, self.world_size)

    def step(self, order: np.ndarray, epoch: int, position: int) -> Step:
        """Return this rank's step at global `position` of an epoch with that `order` (count,), if it takes one there.

        Which steps an epoch has follows from the position of any of them: the one after it begins at its end.
        """
        size = self.plan(position).size(0)
        own = share(size, self.rank, self.world_size)
        rows = order[position : position + size][own]
        return Step(epoch, position, position + size, position + own.start, rows)

    def steps_from(self, epoch: int, position: int) -> Iterator[Step]:
        """This rank's steps from global `position` of `epoch` on, and on into the next epochs without end.

        Ends only where a whole epoch has no step for this rank.
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
