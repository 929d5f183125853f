"""Weight initialization of the bundled backbones."""

from __future__ import annotations

from torch import nn


def he_init(model: nn.Module, zeros: tuple[str, ...] = ()) -> None:
    """Apply He initialization in place (arXiv 1502.01852).

    Convolutions are initialized by fan-out, BatchNorm scales to 1, and all biases to 0. Linear layers keep torch's
    uniform weights. Parameters whose names end in one of `zeros` are set to 0: pass the last layer of each residual
    branch to initialize blocks as the identity.
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
    for name, parameter in model.named_parameters():
        if name.endswith(zeros):
            nn.init.zeros_(parameter)
