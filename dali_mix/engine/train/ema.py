"""The exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ModelEma:
    """An exponential moving average of a model's weights, kept in the copy `module` of the model.

    Update t (counted from 1) computes average = d · average + (1 - d) · weights, with
    d = min(decay, (1 + t) / (10 + t)). With a fixed decay, the random initial weights would still dominate the average
    after thousands of steps. Floating-point buffers (BatchNorm's statistics) are averaged like weights; all other
    buffers are copied.

    Args:
        model: the model, not wrapped in DDP.
        decay: the largest decay, in [0, 1).

    Attributes:
        module: the averaged model, in evaluation mode and without gradients.
        updates: number of updates.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.module = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update `module` with the weights and buffers of `model`, a model of the same structure.

        Host and device are not synchronized.
        """
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine, theirs = _tensors(self.module), _tensors(model)
        floating = [index for index, tensor in enumerate(mine) if tensor.is_floating_point()]
        torch._foreach_lerp_([mine[i] for i in floating], [theirs[i] for i in floating], 1 - decay)
        for index, tensor in enumerate(mine):
            if not tensor.is_floating_point():
                tensor.copy_(theirs[index])

    def state_dict(self) -> dict:
        """Return a dict of "updates" and "model", the averaged weights under the model's own keys."""
        return {"updates": self.updates, "model": self.module.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Load the result of `state_dict`."""
        self.module.load_state_dict(state["model"])
        self.updates = int(state["updates"])


def _tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
