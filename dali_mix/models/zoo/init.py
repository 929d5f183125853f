"""Weight initialization of the bundled backbones."""

from __future__ import annotations

from torch import nn


def he_init(model: nn.Module, zeros: tuple[str, ...] = ()) -> None:
    """Apply He initialization to the model's parameters, in place (arXiv 1502.01852).

    Weights of convolutions are normal with a variance of 2 / fan-out, BatchNorm scales are 1, and all biases are 0.
    Weights of linear layers are left unchanged. Parameters whose names end in one of `zeros` are set to 0. Pass the
    name of the last weight of the residual branches, such as "conv2.weight", to initialize blocks as the identity.
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
