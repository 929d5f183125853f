"""Initial weights of our own backbones."""

from __future__ import annotations

from torch import nn


def he_init(model: nn.Module) -> None:
    """He's normal initialisation (arXiv 1502.01852), in place: convolutions by fan-out, biases 0, BatchNorm 1 and 0.

    Linear layers keep torch's uniform weights, with biases 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        elif not isinstance(module, nn.Linear):
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
