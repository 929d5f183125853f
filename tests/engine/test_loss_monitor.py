"""What happens on a GPU, on a CPU: a step's numbers are read late, and a flag on the device holds the optimizer."""

import torch
from torch import nn

from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.train.loss_monitor import LossMonitor

CPU = torch.device("cpu")


def test_late_pulse_keeps_weights_from_the_bad_step_on():
    """What happens on a GPU, on a CPU: the loss is read one step late, the fused optimizer is held by a device flag."""
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    monitor = LossMonitor(Ranks(0, 1, CPU), late=True)
    optimizer.found_inf = monitor.bad
    numbers = []
    for step in range(1, 5):
        before = [p.detach().clone() for p in model.parameters()]
        loss = model(torch.ones(3, 4)).square().mean() * (float("nan") if step == 3 else 1.0)
        loss.backward()
        numbers.append(monitor.exchange(step, loss, False))
        optimizer.step()
        optimizer.zero_grad()
        changed = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert changed == (step < 3)
    assert numbers[0] is None
    assert [b.step for b in numbers[1:]] == [1, 2, 3]
    assert [b.finite for b in numbers[1:]] == [True, True, False]
    assert monitor.flush().step == 4
    assert monitor.flush() is None


def test_the_flag_on_the_device_holds_the_optimizer_for_any_number():
    """What happens on a GPU, on a CPU: the gradient's norm and the statistics count as the loss does."""
    for bad in (0, 1):
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
        monitor = LossMonitor(Ranks(0, 1, torch.device("cpu")), late=True)
        optimizer.found_inf = monitor.bad
        for step in range(1, 4):
            before = [p.detach().clone() for p in model.parameters()]
            loss = model(torch.ones(3, 4)).square().mean()
            loss.backward()
            measured = [torch.tensor(1.0), torch.tensor(2.0)]
            if step == 2:
                measured[bad] = torch.tensor(float("nan"))
            numbers = monitor.exchange(step, loss, False, measured)
            optimizer.step()
            optimizer.zero_grad()
            changed = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
            assert changed == (step < 2)
        assert numbers.step == 2 and not numbers.finite
