"""Finiteness: the numbers of a run that must never be NaN or infinite, and how one that is gets found and named.

A single NaN spreads to every weight within a step. So a step is measured before it is taken (loss, norm of the
gradient, norm of the model's statistics), and whatever is about to be saved is checked once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class NonFinite(ValueError):
    """A number that must be finite is NaN or infinite."""


class NonFiniteLoss(NonFinite):
    """A step's loss, gradient or statistics are NaN or infinite; no weight was changed by that step."""


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the L2 norm () of all tensors together, float32 at least; it is finite only if they are.

    One fused pass on the tensors' device, without waiting for it. 16-bit tensors are converted first: the norm of
    finite ones may exceed their range.
    """
    given = [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors]
    return torch.nn.utils.get_total_norm(given)


def statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return the floating buffers of `model` that must stay finite, by name.

    These are the statistics of its normalization layers, and other buffers that are finite now: a mask of -inf is not.
    """
    of_norms = {
        f"{name}.{own}" if name else own
        for name, module in model.named_modules()
        if isinstance(module, _NormBase)
        for own, _ in module.named_buffers(recurse=False)
    }
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point() and (name in of_norms or bool(buffer.isfinite().all()))
    }


def first_non_finite(tensors: Mapping[str, Any]) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity, or None; waits for the device."""
    floating = {name: t for name, t in tensors.items() if isinstance(t, Tensor) and t.is_floating_point()}
    if not floating or total_norm(floating.values()).isfinite():
        return None
    return next((name for name, tensor in floating.items() if not tensor.isfinite().all()), None)


def diagnosis(model: nn.Module, statistic: str | None, step: int, loss: float) -> tuple[int, str]:
    """Return the step that made a number not finite, and a sentence that names the number.

    Args:
        model: whose weights, and gradients if they are still there, are searched.
        statistic: the name of one of its `statistics` that is not finite, on any rank, or None.
        step: the first step that was measured as not finite.
        loss: of that step.
    """
    stopped = f"at step {step}{{}}; stopped before that optimizer step"
    if name := first_non_finite(dict(model.named_parameters())):
        return step - 1, f"{name} became NaN or infinite in the update of step {step - 1}; that was not saved"
    if not math.isfinite(loss):
        return step, f"the loss is {loss} {stopped.format('')}"
    if statistic is not None:
        return step, f"{statistic} is NaN or infinite {stopped.format(f' (loss {loss:.4g})')}"
    name = first_non_finite({name: parameter.grad for name, parameter in model.named_parameters()})
    where = f" (first in {name})" if name else ""
    return step, f"the gradient is NaN or infinite {stopped.format(f'{where}, though the loss is {loss:.4g}')}"


def check_state(state: Mapping[str, Any], watched: Iterable[str], where: str) -> None:
    """Raise NonFinite if the model, its average or the optimizer's state in `state` is not finite.

    Args:
        state: "model" and, where there are any, "ema" and "optimizer", as `engine.train.state.capture` gives them.
        watched: the entries of the model that must be finite.
        where: what the message begins with.
    """
    optimizer = state.get("optimizer") or {"state": {}}
    found = [{name: state["model"][name] for name in watched if name in state["model"]}]
    if average := state.get("ema"):
        found.append({f"ema {name}": average["model"][name] for name in watched if name in average["model"]})
    found += [
        {f"{key} of the optimizer, parameter {number}": value for key, value in moments.items()}
        for number, moments in optimizer["state"].items()
    ]
    name = first_non_finite({name: value for part in found for name, value in part.items()})
    if name is not None:
        raise NonFinite(
            f"{where}: {name} holds NaN or infinity, so nothing was saved. Go on from an earlier checkpoint with "
            f"--resume and a lower rate, clip_grad_norm or amp='off'"
        )
