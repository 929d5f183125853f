"""Mixed precision: autocast and loss scaling."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from dali_mix.engine.train.finite import NonFinite


class Precision:
    """Autocast and, for fp16, loss scaling.

    Args:
        amp: "auto" (bf16 on a GPU that supports it, else off), "bf16", "fp16" or "off".
        device: device of the model.

    Attributes:
        name: `amp`, with "auto" resolved.
        scaler: torch's GradScaler; disabled without fp16.
        autocast: returns the context manager in which the model runs.
    """

    def __init__(self, amp: str, device: torch.device) -> None:
        if amp == "auto":
            native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            amp = "bf16" if native else "off"
        self.name = amp
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        self.autocast: Callable[[], AbstractContextManager] = nullcontext
        if amp != "off":
            dtype = torch.bfloat16 if amp == "bf16" else torch.float16
            self.autocast = lambda: torch.autocast(device.type, dtype=dtype)
        self._start: float | None = None  # the scale before the first step of this process
        self._steps = 0

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step the optimizer.

        With loss scaling, a step with infinite gradients changes no weights and lowers the loss scale instead.
        """
        self.scaler.step(optimizer)
        self.scaler.update()
        self._steps += 1

    def check_scale(self, scale: float) -> None:
        """Raise NonFinite if a step's loss scale is below 1, which means that recent steps were skipped.

        The first scale is kept for `check_any_step`.
        """
        if self._start is None:
            self._start = scale
        if scale < 1:
            raise NonFinite(
                f"amp='fp16': the gradient is infinite even at a loss scale of {scale:g}, so no step can be taken. "
                f"Use amp='bf16' or amp='off', a lower rate or clip_grad_norm"
            )

    def check_any_step(self) -> None:
        """Raise NonFinite if loss scaling skipped every step of this process, according to the current loss scale.

        Do nothing without loss scaling, or before the first step. Reading the loss scale synchronizes with the device.
        """
        if self._start is None or not self._steps:
            return
        if self.scaler.get_scale() <= self._start * self.scaler.get_backoff_factor() ** self._steps:
            raise NonFinite(
                f"amp='fp16': all {self._steps} steps were skipped, since their gradients were infinite. "
                f"Use amp='bf16' or amp='off', or more steps: each one halves the loss scale"
            )
