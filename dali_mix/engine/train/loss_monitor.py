"""Exchange the loss, other numbers that must be finite, and stop requests between ranks at every step.

On a CPU, a step's numbers are read before its optimizer step. On a GPU, this would synchronize host and device at every
step. With a fused optimizer and no loss scaling, the numbers are therefore copied to pinned memory in the background
and read one step later:

    step t    GPU: loss, gradients, sum over ranks, `bad` |= not finite, optimizer step unless `bad`
              CPU: starts the copy of step t, reads the copy of step t - 1, which is usually complete by then

`bad` is a flag on the device. From the first non-finite number on, it keeps torch's fused optimizers from changing any
weight, so reading late is safe. All ranks read the same numbers at the same step, so they stop together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dali_mix.engine.distributed.process_group import Ranks


class StepNumbers(NamedTuple):
    """The numbers of one step, equal on all ranks.

    Attributes:
        step: the step's number.
        loss: mean loss over the global batch.
        stop: whether any rank must stop.
        measured: the means over ranks of the scalars passed to `exchange` as `measured`.
        finite: True if loss and measured numbers are finite.
    """

    step: int
    loss: float
    stop: bool
    measured: tuple[float, ...] = ()

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, (self.loss, *self.measured)))


class LossMonitor:
    """The exchange of each step's `StepNumbers` between ranks.

    Args:
        ranks: the ranks that take part.
        late: read each step's numbers one step later (see the module's docstring). The optimizer must then skip
            its steps while `bad` is 1.

    Attributes:
        bad: () float32 on the device, 1 from the first non-finite number on; updated only with `late`.
    """

    def __init__(self, ranks: Ranks, *, late: bool) -> None:
        self.ranks = ranks
        self.late = late
        self.bad = torch.zeros((), dtype=torch.float32, device=ranks.device)
        self._waiting: tuple[int, Tensor, torch.cuda.Event | None] | None = None

    def exchange(self, step: int, loss: Tensor, stop: bool, measured: Sequence[Tensor] = ()) -> StepNumbers | None:
        """Sum this step's numbers over all ranks, which must all call it, and return them as `StepNumbers`.

        With `late`, update `bad`, start the copy of this step's numbers, and return those of the previous step instead.
        Return None if these do not exist (in the first step) or were already returned by `flush`.

        Args:
            step: number of the current step.
            loss: () on the device, this rank's share of the mean loss over the global batch. The sum over ranks is the
                mean.
            stop: whether this rank has received a stop signal.
            measured: other scalars on the device that must be finite on every rank. `StepNumbers` has their means.
        """
        flag = loss.new_full((), float(stop), dtype=torch.float64)
        packet = torch.stack([loss.detach().double(), flag, *(number.double() for number in measured)])
        self.ranks.sum_(packet)
        if not self.late:
            return self._read(step, packet)
        self.bad.logical_or_(~torch.isfinite(packet).all())
        before = self.flush()
        event = None
        if packet.is_cuda:
            packet = torch.empty_like(packet, device="cpu", pin_memory=True).copy_(packet, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._waiting = (step, packet, event)
        return before

    def flush(self) -> StepNumbers | None:
        """Wait for the numbers of the last step, if `late`, and return them; None if they were already returned.

        Without `late`, always return None.
        """
        if self._waiting is None:
            return None
        step, packet, event = self._waiting
        self._waiting = None
        if event is not None:
            event.synchronize()
        return self._read(step, packet)

    def _read(self, step: int, packet: Tensor) -> StepNumbers:
        loss, stop, *measured = packet.tolist()
        return StepNumbers(step, loss, stop > 0, tuple(number / self.ranks.world_size for number in measured))
