"""The late loss monitor of GPU runs, on a CPU: losses are read a step late, and a device flag blocks the optimizer."""

import pytest
import torch
from torch import nn

from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.train.loss_monitor import LossMonitor


def watched():
    """Return a model, its fused optimizer, and a late monitor whose flag blocks that optimizer."""
    model, monitor = nn.Linear(4, 2), LossMonitor(Ranks(0, 1, torch.device("cpu")), late=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    optimizer.found_inf = monitor.bad
    return model, optimizer, monitor


def take_step(model, optimizer, monitor, step, scale, measured=()):
    """Take a step; return what the monitor reports and whether any weight changed."""
    before = [p.detach().clone() for p in model.parameters()]
    loss = model(torch.ones(3, 4)).square().mean() * scale
    loss.backward()
    numbers = monitor.exchange(step, loss, False, measured)
    optimizer.step()
    optimizer.zero_grad()
    return numbers, any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_weights_are_unchanged_from_bad_step_on():
    model, optimizer, monitor = watched()
    numbers = []
    for step in range(1, 5):
        found, changed = take_step(model, optimizer, monitor, step, float("nan") if step == 3 else 1.0)
        numbers.append(found)
        assert changed == (step < 3)
    assert numbers[0] is None
    assert [b.step for b in numbers[1:]] == [1, 2, 3]
    assert [b.finite for b in numbers[1:]] == [True, True, False]
    assert monitor.flush().step == 4
    assert monitor.flush() is None


@pytest.mark.parametrize("bad", [0, 1])
def test_nan_norm_or_statistics_block_optimizer(bad):
    """NaN in the gradient's norm or in the statistics blocks the optimizer as NaN in the loss does."""
    model, optimizer, monitor = watched()
    for step in range(1, 4):
        measured = [torch.tensor(1.0), torch.tensor(2.0)]
        if step == 2:
            measured[bad] = torch.tensor(float("nan"))
        numbers, changed = take_step(model, optimizer, monitor, step, 1.0, measured)
        assert changed == (step < 2)
    assert numbers.step == 2 and not numbers.finite
