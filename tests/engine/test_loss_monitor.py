"""What happens on a GPU, on a CPU: a step's numbers are read late, and a flag on the device holds the optimizer."""

import pytest
import torch
from torch import nn

from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.train.loss_monitor import LossMonitor


def watched():
    """A model, its fused optimizer, and the late monitor whose flag holds it."""
    model, monitor = nn.Linear(4, 2), LossMonitor(Ranks(0, 1, torch.device("cpu")), late=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    optimizer.found_inf = monitor.bad
    return model, optimizer, monitor


def take_step(model, optimizer, monitor, step, scale, measured=()):
    """What the monitor gives at a step, and whether a weight has changed."""
    before = [p.detach().clone() for p in model.parameters()]
    loss = model(torch.ones(3, 4)).square().mean() * scale
    loss.backward()
    numbers = monitor.exchange(step, loss, False, measured)
    optimizer.step()
    optimizer.zero_grad()
    return numbers, any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_weights_stay_from_the_bad_step_on_though_the_loss_is_read_late():
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
def test_the_flag_on_the_device_holds_the_optimizer_for_any_number(bad):
    """The gradient's norm and the statistics count as the loss does."""
    model, optimizer, monitor = watched()
    for step in range(1, 4):
        measured = [torch.tensor(1.0), torch.tensor(2.0)]
        if step == 2:
            measured[bad] = torch.tensor(float("nan"))
        numbers, changed = take_step(model, optimizer, monitor, step, 1.0, measured)
        assert changed == (step < 2)
    assert numbers.step == 2 and not numbers.finite
