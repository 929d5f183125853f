"""Learning rates as functions of the step; some are compared with torch's own schedulers."""

import pytest
import torch
from torch import nn

from dali_mix.engine.train.lr_schedules import build_schedule


class TestSchedules:
    def build(self, total=100, per_epoch=10, lr=0.2, **settings):
        return build_schedule(settings, lr=lr, steps_per_epoch=per_epoch, total_steps=total)

    def test_cosine_with_warmup(self):
        factor = self.build(type="cosine", warmup_epochs=1, min_lr=0.002)
        assert [factor(s) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
        assert factor(10) == 1.0
        assert factor(55) == pytest.approx((1 + 0.01) / 2)
        assert factor(100) == pytest.approx(0.01)
        assert all(factor(s) >= factor(s + 1) for s in range(10, 120))

    def test_cosine_equals_torch(self):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
        theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, eta_min=1e-3)
        factor = self.build(type="cosine", min_lr=1e-3)
        for step in range(100):
            assert factor(step) * 0.2 == pytest.approx(optimizer.param_groups[0]["lr"])
            optimizer.step()
            theirs.step()

    def test_one_cycle_equals_torch(self):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2, momentum=0.9)
        theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=100, pct_start=0.2)
        factor = self.build(type="onecycle", pct_start=0.2)
        for step in range(100):
            assert factor(step) * 0.2 == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
            optimizer.step()
            if step < 99:
                theirs.step()

    def test_step_milestones_include_warmup_epochs(self):
        factor = self.build(type="step", milestones=[3, 6], gamma=0.2, warmup_epochs=2)
        assert [factor(s) for s in (20, 29, 30, 59, 60)] == pytest.approx([1, 1, 0.2, 0.2, 0.04])

    def test_constant(self):
        assert {self.build(type="constant")(s) for s in range(5)} == {1.0}
