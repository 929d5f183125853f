"""Which numbers the model computes in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch


class Precision:
    """Autocast and, for fp16, loss scaling.

    Args:
        amp: "auto" (bf16 on a GPU that has it, else off), "bf16", "fp16" or "off".
        device: where the model runs.
    """

    def __init__(self, amp: str, device: torch.device) -> None:
        if amp == "auto":
            native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            amp = "bf16" if native else "off"
        self.name = amp
        self.scaler = torch.amp.GradScaler(device.type) if amp == "fp16" else None
        self.autocast: Callable[[], AbstractContextManager] = nullcontext
        if amp != "off":
            dtype = torch.bfloat16 if amp == "bf16" else torch.float16
            self.autocast = lambda: torch.autocast(device.type, dtype=dtype)
