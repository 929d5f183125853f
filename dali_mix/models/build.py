"""Models by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import nn

from dali_mix.models.cifar_resnet import CifarResNet
from dali_mix.models.shakeshake import ShakeShake
from dali_mix.models.wide_resnet import WideResNet
from dali_mix.options import did_you_mean

# What may stand after a name's numbers is in the pattern; the numbers go to the class, in order.
_OWN: dict[str, tuple[str, Callable[..., nn.Module]]] = {
    "wrn-DEPTH-WIDEN": (r"wrn-(\d+)-(\d+)", WideResNet),
    "cifar_resnetDEPTH": (r"cifar_resnet(\d+)", CifarResNet),
    "shakeshake26_2xWIDTHd": (r"shakeshake26_2x(\d+)d", ShakeShake),
}
_EXAMPLES = (
    *("wrn-16-2", "wrn-28-10", "wrn-40-2", "cifar_resnet50", "cifar_resnet101"),
    *(f"shakeshake26_2x{width}d" for width in (32, 64, 96, 112)),
)


def build_model(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Makes a classification model, images (B,3,H,W) → logits (B, num_classes), with fresh weights.

    Nothing is ever downloaded: published weights come from a file, by `load_weights`.

    Args:
        name: `timm/NAME`, `torchvision/NAME`, or one of ours for small images: `wrn-28-10` (any depth 6n + 4 and any
            width), `cifar_resnet50`, `cifar_resnet101`, `shakeshake26_2x96d` (any even width).
        num_classes: at least 1.
        options: the model's own, e.g. `dropout=0.3`, `zero_init_residual=True`, timm's `drop_path_rate`.

    Raises:
        ValueError: unknown name (close ones are named), unknown option, option out of range, or a request to download.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: must be at least 1")
    if options.pop("pretrained", False) or options.pop("weights", None) is not None:
        raise ValueError(
            f"model {name!r}: weights are not downloaded. Leave pretrained and weights out, and load a file: "
            "dali_mix.models.load_weights(model, PATH), or `weights = PATH` in a recipe"
        )
    try:
        model = _make(name, num_classes, options)
    except TypeError as error:
        if not options:
            raise
        raise ValueError(f"model {name!r} does not take these options ({', '.join(options)}): {error}") from error
    if model is None:
        hint = did_you_mean(name, _known(), most=5, cutoff=0.5)
        raise ValueError(f"no model is called {name!r}{hint}; names are timm/NAME, torchvision/NAME, {', '.join(_OWN)}")
    return model


def _make(name: str, num_classes: int, options: dict[str, Any]) -> nn.Module | None:
    library, _, inner = name.partition("/")
    if library == "timm":
        import timm

        return timm.create_model(inner, num_classes=num_classes, **options) if timm.is_model(inner) else None
    if library == "torchvision":
        from torchvision import models

        if inner not in models.list_models(module=models):
            return None
        return models.get_model(inner, weights=None, num_classes=num_classes, **options)
    for pattern, model_class in _OWN.values():
        if match := re.fullmatch(pattern, name):
            return model_class(*map(int, match.groups()), num_classes=num_classes, **options)
    return None


def _known() -> list[str]:
    import timm
    from torchvision import models

    timms = [f"timm/{name}" for name in timm.list_models()]
    return [*_EXAMPLES, *timms, *(f"torchvision/{name}" for name in models.list_models(module=models))]
