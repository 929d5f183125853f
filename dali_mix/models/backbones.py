"""Build backbones by name: models without their classifiers that return the last feature map (B,C,h,w)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dali_mix.models.build import build_model
from dali_mix.models.weights.load import head_name

Features = Callable[[nn.Module, Tensor], Tensor]
# Options that make timm's models accept images of any size: for Swins, for ViTs, and for all others. The order matters:
# ViTs refuse the option of Swins, but before timm 1.0.31 Swins silently ignore the option of ViTs.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True}, {})


def build_backbone(name: str, options: dict[str, Any]) -> tuple[nn.Module, Features]:
    """Return a model without its classifier, and the function (model, images (B,3,H,W)) → maps (B,C,h,w).

    State-dict keys are those of the library, so its weight files can be loaded. A timm model is built to accept images
    of any size if it has an option for that.

    Args:
        name, options: as for `build_model`.

    Raises:
        ValueError: an unknown name or option, or an unsupported torchvision model.
    """
    of_timm = name.startswith("timm/")
    for extra in _ANY_SIZE if of_timm else ({},):
        try:
            model = build_model(name, 1, **{**extra, **options})
            break
        except ValueError:
            if not extra:
                raise
    features = features_of(model)
    if features is None:
        raise ValueError(f"backbone {name!r}: it is not known which layer returns its last map; use a timm model")
    if not of_timm:
        setattr(model, str(head_name(model)).partition(".")[0], nn.Identity())
    elif hasattr(model, "reset_classifier"):  # missing in models that are only encoders
        model.reset_classifier(0)  # type: ignore[operator]
    return model, features


def features_of(model: nn.Module) -> Features | None:
    """Return the function (model, images) → maps (B,C,h,w) for a model, or None if it is not supported."""
    from torchvision import models

    sequential = (models.ConvNeXt, models.EfficientNet, models.MobileNetV2, models.MobileNetV3, models.VGG)
    kinds: tuple[tuple[Any, Features], ...] = (
        (models.ResNet, _resnet),
        (models.RegNet, _regnet),
        (models.VisionTransformer, _vit),
        (models.SwinTransformer, _swin),
        (models.DenseNet, _densenet),
        (sequential, _sequential),
    )
    known = next((features for kind, features in kinds if isinstance(model, kind)), None)
    return known or (_forward_features if hasattr(model, "forward_features") else None)


def full_name(name: str) -> str:
    """Add the library to the name of a model: "resnet101" → "timm/resnet101".

    The name is looked up in timm, then in torchvision. An unknown name, or one with a "/", is returned unchanged.
    """
    import timm
    from torchvision import models

    if "/" in name:
        return name
    if timm.is_model(name):
        return f"timm/{name}"
    return f"torchvision/{name}" if name in models.list_models(module=models) else name


def _forward_features(model: Any, images: Tensor) -> Tensor:
    """Return the last map (B,C,h,w) of a timm or bundled model, whose `forward_features` returns maps or tokens.

    Raise ValueError if the model returns several results, or tokens that do not form a grid with the aspect ratio of
    the images.
    """
    features = model.forward_features(images)
    if not isinstance(features, Tensor):
        raise ValueError(f"it returns {len(features)} results instead of one map: choose another backbone")
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2) if getattr(model, "output_fmt", "") == "NHWC" else features
    tokens = features[:, getattr(model, "num_prefix_tokens", 0) :]
    # ViTs that pool patch tokens normalize after pooling, so normalize the tokens for our heads here.
    norm = getattr(model, "fc_norm", None)
    return _tokens_to_maps(norm(tokens) if isinstance(norm, nn.LayerNorm) else tokens, images)


def _tokens_to_maps(tokens: Tensor, images: Tensor) -> Tensor:
    """Reshape tokens (B,N,C) to maps (B,C,h,w) with about the aspect ratio of the images.

    The number of rows is √(N · height / width), rounded. Raise ValueError if it is 0 or N is not a multiple of it.
    """
    count, (height, width) = tokens.shape[1], images.shape[2:]
    rows = round((count * height / width) ** 0.5)
    if not rows or count % rows:
        raise ValueError(f"{count} tokens do not form a grid with the shape of images of {height}×{width}")
    return tokens.transpose(1, 2).unflatten(2, (rows, count // rows))


def _resnet(model: Any, images: Tensor) -> Tensor:
    stem = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    return model.layer4(model.layer3(model.layer2(model.layer1(stem))))


def _regnet(model: Any, images: Tensor) -> Tensor:
    return model.trunk_output(model.stem(images))


def _vit(model: Any, images: Tensor) -> Tensor:
    patches = model._process_input(images)
    tokens = torch.cat([model.class_token.expand(len(patches), -1, -1), patches], 1)
    return _tokens_to_maps(model.encoder(tokens)[:, 1:], images)


def _swin(model: Any, images: Tensor) -> Tensor:
    return model.permute(model.norm(model.features(images)))


def _densenet(model: Any, images: Tensor) -> Tensor:
    return F.relu(model.features(images))


def _sequential(model: Any, images: Tensor) -> Tensor:
    return model.features(images)
