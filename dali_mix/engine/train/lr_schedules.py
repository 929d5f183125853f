"""Learning rates as pure functions of the step: nothing to save, nothing to restore, any step can be asked for.

A schedule gives a *factor*; a parameter group's rate is its own base rate (the optimizer's `lr` times the group's
`lr_mult`) times that factor. Warm-up is linear per step, from `warmup_factor` at step 0 to 1 where it ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Factor = Callable[[int], float]


def _cosine(progress: float, start: float, end: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def cosine(total: int, *, lr: float, min_lr: float = 0.0) -> Factor:
    """From 1 at step 0 to `min_lr` / `lr` at step `total` along half a cosine (arXiv 1608.03983, without restarts)."""
    return lambda step: _cosine(step / max(total, 1), 1.0, min_lr / lr)


def step_decay(milestones: Sequence[int], gamma: float = 0.1) -> Factor:
    """`gamma` to the number of `milestones` (steps) already reached."""
    return lambda step: gamma ** sum(step >= milestone for milestone in milestones)


def one_cycle(total: int, *, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4) -> Factor:
    """Up from 1/`div_factor` over the first `pct_start` of the steps, then down to 1/(`div_factor`·`final_div_factor`).

    Both along half a cosine; the same values as torch's OneCycleLR with its defaults (`lr` is its `max_lr`).
    """
    top = pct_start * total - 1.0
    low, final = 1.0 / div_factor, 1.0 / (div_factor * final_div_factor)

    def factor(step: int) -> float:
        if step <= top:
            return _cosine(step / top, low, 1.0) if top > 0 else 1.0
        return _cosine((step - top) / max(total - 1 - top, 1e-12), 1.0, final)

    return factor


def constant() -> Factor:
    """1 at every step."""
    return lambda step: 1.0


def with_warmup(factor: Factor, steps: int, start: float = 0.0) -> Factor:
    """Linear from `start` to `factor(0)` over the first `steps` steps; `factor` is then counted from there.

    The first step is never at a rate of zero: it takes the rate the line has one step in.
    """
    if steps <= 0:
        return factor
    return lambda step: factor(0) * (start + (1 - start) * (step + 1) / steps) if step < steps else factor(step - steps)


def build_schedule(settings: dict, *, lr: float, steps_per_epoch: int, total_steps: int) -> Factor:
    """The schedule a recipe names.

    Args:
        settings: `type` ("cosine", "step", "onecycle", "constant"), `warmup_epochs` (may be a fraction) and
            `warmup_factor`, and by type: `min_lr`; `milestones` (epochs) and `gamma`; `pct_start`, `div_factor` and
            `final_div_factor`. Checked by `dali_mix.engine.config.schema`.
        lr: the optimizer's base rate; `min_lr` is an absolute rate and is divided by it.
        steps_per_epoch: optimizer steps in an epoch.
        total_steps: optimizer steps in the whole run.

    Raises:
        ValueError: an unknown type.
    """
    options = dict(settings)
    kind = options.pop("type")
    warmup = round(options.pop("warmup_epochs", 0) * steps_per_epoch)
    start = options.pop("warmup_factor", 0.0)
    after = max(total_steps - warmup, 1)
    if kind == "cosine":
        factor = cosine(after, lr=lr, min_lr=options.get("min_lr", 0.0))
    elif kind == "step":
        # Milestones are epochs of the whole run, warm-up included.
        milestones = [round(epoch * steps_per_epoch) - warmup for epoch in options["milestones"]]
        factor = step_decay(milestones, options.get("gamma", 0.1))
    elif kind == "onecycle":
        factor = one_cycle(after, **options)
    elif kind == "constant":
        factor = constant()
    else:
        raise ValueError(f"schedule type {kind!r} is unknown: use cosine, step, onecycle or constant")
    return with_warmup(factor, warmup, start)
