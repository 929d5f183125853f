"""Build models by name."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from dali_mix import _factories
from dali_mix.models.zoo.cifar_resnet import CifarResNet
from dali_mix.models.zoo.shakeshake import ShakeShake
from dali_mix.models.zoo.wide_resnet import WideResNet
from dali_mix.options import did_you_mean, whole

# Form of the name → (pattern, class); the pattern's groups are the first arguments of the class.
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
    """Build a classification model, images (B,3,H,W) → logits (B, num_classes), with random weights.

    Nothing is downloaded; use `load_weights` to load published weights from a file.

    Args:
        name: `timm/NAME`, `torchvision/NAME`, or a bundled model for small images: `wrn-28-10` (any depth 6n + 4 and
            any width), `cifar_resnet50`, `cifar_resnet101`, `shakeshake26_2x96d` (any even width).
        num_classes: at least 1.
        options: arguments of the model class, e.g. `dropout=0.3`, `zero_init_residual=True`, timm's `drop_path_rate`.
            Arguments that would make timm or torchvision load or download weights are refused.

    Raises:
        ValueError: an unknown name (similar ones are suggested), an unknown option, a value out of range, or an option
            that would load or download weights.
    """
    whole("num_classes", num_classes, 1)
    for option in ("pretrained", "weights"):
        if not options.get(option):
            options.pop(option, None)
    maker = _maker(name)
    if maker is None:
        every = _known()
        exact = [full for library in ("timm", "torchvision") if (full := f"{library}/{name}") in every]
        hint = f" (did you mean {' or '.join(exact)}?)" if exact else did_you_mean(name, every, most=5, cutoff=0.5)
        raise ValueError(f"no model is called {name!r}{hint}; names are timm/NAME, torchvision/NAME, {', '.join(_OWN)}")
    make, known = maker
    if unknown := [option for option in options if option not in known]:
        names = f"{', '.join(map(repr, unknown))}{did_you_mean(unknown[0], known)}"
        raise ValueError(
            f"model {name!r} has no option {names}; its options are the arguments of its class. Weights are not "
            "downloaded: use `weights = PATH` in a recipe, or dali_mix.models.load_weights(model, PATH)"
        )
    try:
        return make(num_classes=num_classes, **options)
    except (TypeError, AssertionError) as error:
        if not options:
            raise
        raise ValueError(f"model {name!r} does not take these options ({', '.join(options)}): {error}") from error


def _maker(name: str) -> tuple[Callable[..., nn.Module], set[str]] | None:
    """Return the function that builds model `name`, and the options allowed for it; None for an unknown name.

    The builder functions of timm and torchvision accept more options than the model classes, including some that load
    files, unpickle or download (timm: checkpoint_path, pretrained_cfg, pretrained_cfg_overlay, cache_dir …). Only the
    arguments of the classes in the module that defines the model are therefore allowed.
    """
    library, _, inner = name.partition("/")
    if library == "timm":
        import timm

        # Accept registered names only: timm also accepts hf-hub:REPOSITORY and local-dir:FOLDER.
        if not re.fullmatch(r"[\w.-]+", inner) or not timm.is_model(inner):
            return None
        entry = timm.model_entrypoint(timm.models.split_model_name_tag(inner)[0])
        return functools.partial(timm.create_model, inner), _class_options(entry.__module__)
    if library == "torchvision":
        from torchvision import models

        if inner not in models.list_models(module=models):
            return None
        builder = models.get_model_builder(inner)
        return functools.partial(builder, weights=None), _class_options(builder.__module__)
    for pattern, model_class in _OWN.values():
        if match := re.fullmatch(pattern, name):
            return functools.partial(model_class, *map(int, match.groups())), set(_factories.parameters(model_class))
    return None


def _class_options(module: str) -> set[str]:
    """Return the names of the constructor arguments of all models, layers and option dataclasses in `module`.

    `module` is the name of a library's module, which must already be imported. Dataclasses that describe published
    weights are left out.
    """
    kinds = [kind for kind in vars(sys.modules[module]).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, nn.Module) or dataclasses.is_dataclass(kind)]
    options = map(_factories.parameters, kinds)
    # A dataclass with a URL describes published weights (timm's PretrainedCfg, torchvision's Weights), not a model.
    return {option for known in options if "url" not in known for option in known}


def _known() -> list[str]:
    import timm
    from torchvision import models

    timms = [f"timm/{name}" for name in timm.list_models()]
    return [*_EXAMPLES, *timms, *(f"torchvision/{name}" for name in models.list_models(module=models))]
