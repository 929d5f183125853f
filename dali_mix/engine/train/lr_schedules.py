"""Learning-rate schedules as pure functions of the step, without state to save or restore.

A schedule is a function from the step to a factor. A parameter group's rate is its base rate (the optimizer's `lr`
times the group's `lr_mult`) times that factor. Warm-up is linear in the step, from `warmup_factor` · f to f, where f is
the schedule's first factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dali_mix.options import check_keys, choice, number

Factor = Callable[[int], float]


def _cosine(progress: float, start: float, end: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def cosine(total: int, *, lr: float, min_lr: float = 0.0) -> Factor:
    """Return a schedule that falls from 1 at step 0 to `min_lr` / `lr` at step `total` along half a cosine.

    This is the schedule of arXiv 1608.03983 without restarts.
    """
    return lambda step: _cosine(step / max(total, 1), 1.0, min_lr / lr)


def step_decay(milestones: Sequence[int], gamma: float = 0.1) -> Factor:
    """Return a schedule with factor `gamma` ** n, where n is the number of `milestones` at or before the step."""
    return lambda step: gamma ** sum(step >= milestone for milestone in milestones)


def one_cycle(total: int, *, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4) -> Factor:
    """Return a schedule that rises from 1/`div_factor` to 1, then falls to 1/(`div_factor`·`final_div_factor`).

    The run has `total` steps. The rise takes the share `pct_start` of them. Both phases follow half a cosine.

    The factors equal the rates of torch's OneCycleLR (two phases, cosine) divided by its `max_lr`, to which the
    optimizer's `lr` corresponds.
    """
    top = pct_start * total - 1.0
    low, final = 1.0 / div_factor, 1.0 / (div_factor * final_div_factor)

    def factor(step: int) -> float:
        if step <= top:
            return _cosine(step / top, low, 1.0) if top > 0 else 1.0
        return _cosine((step - top) / max(total - 1 - top, 1e-12), 1.0, final)

    return factor


def constant() -> Factor:
    """Return a schedule whose factor is 1 at every step."""
    return lambda step: 1.0


def with_warmup(factor: Factor, steps: int, start: float = 0.0) -> Factor:
    """Return the schedule `factor` preceded by a linear warm-up from `start` · `factor(0)` to `factor(0)`.

    The warm-up takes `steps` steps, after which `factor` starts at its step 0. Step i of the warm-up uses the value of
    the line at i + 1, so the first step never has a rate of 0. If `steps` is 0 or less, return `factor` itself.
    """
    if steps <= 0:
        return factor
    return lambda step: factor(0) * (start + (1 - start) * (step + 1) / steps) if step < steps else factor(step - steps)


# kind → the function that builds it, and the range of each option (None: see `check_schedule`).
SCHEDULES: dict[str, tuple[Callable[..., Factor], dict[str, tuple[float, float] | None]]] = {
    "cosine": (cosine, {"min_lr": (0, math.inf)}),
    "step": (step_decay, {"milestones": None, "gamma": (0, math.inf)}),
    "onecycle": (
        one_cycle,
        {"pct_start": (1e-9, 1), "div_factor": (1e-9, math.inf), "final_div_factor": (1e-9, math.inf)},
    ),
    "constant": (constant, {}),
}
_WARMUP = {"warmup_epochs": (0, math.inf), "warmup_factor": (0, 1)}


def check_schedule(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for an invalid type, option or value of a recipe's `schedule`."""
    kind = choice("schedule.type", settings["type"], SCHEDULES)
    ranges = {**_WARMUP, **SCHEDULES[kind][1]}
    given = {key: value for key, value in settings.items() if key != "type"}
    check_keys(f"schedule ({kind})", given, ranges)
    for key, value in given.items():
        if bounds := ranges[key]:
            number(f"schedule.{key}", value, *bounds)
    if "milestones" in ranges:
        milestones = settings.get("milestones")
        if not isinstance(milestones, (list, tuple)):
            raise ValueError("schedule (step): needs milestones, the epochs at which the learning rate drops")
        for milestone in milestones:
            number("schedule.milestones", milestone, 0)


def build_schedule(settings: Mapping[str, Any], *, lr: float, steps_per_epoch: int, total_steps: int) -> Factor:
    """Return the learning-rate schedule of a run.

    Args:
        settings: a recipe's `schedule` that has passed `check_schedule`. Its keys are `type`, a key of `SCHEDULES`;
            `warmup_epochs` (may be a fraction) and `warmup_factor`; and the options of the type. `milestones` are
            epochs of the run, warm-up included.
        lr: the optimizer's base rate. `min_lr` is an absolute rate and is divided by `lr`.
        steps_per_epoch: optimizer steps in an epoch.
        total_steps: optimizer steps in the run.
    """
    options = dict(settings)
    kind = options.pop("type")
    warmup = round(options.pop("warmup_epochs", 0) * steps_per_epoch)
    start = options.pop("warmup_factor", 0.0)
    after = max(total_steps - warmup, 1)
    if kind == "step":
        options["milestones"] = [round(epoch * steps_per_epoch) - warmup for epoch in options["milestones"]]
    elif kind != "constant":
        options["total"] = after
    if kind == "cosine":
        options["lr"] = lr
    return with_warmup(SCHEDULES[kind][0](**options), warmup, start)
