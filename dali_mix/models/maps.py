"""Where a model sees its classes: class maps of multi-label heads, and of classifiers on average-pooled features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dali_mix.models.backbones import features_of
from dali_mix.models.multilabel import MultiLabelModel
from dali_mix.models.weights.load import head_name


class Looked(NamedTuple):
    """logits: (B,K). class_maps: (B,K,h,w), what speaks for each class at each position. attention: (B,K,h,w), where
    each label looks, of sum 1 over positions; None of a head without."""

    logits: Tensor
    class_maps: Tensor
    attention: Tensor | None = None


def look(model: nn.Module, images: Tensor) -> Looked:
    """Logits, and the maps they come from.

    Of a `MultiLabelModel` its head's: they average to the logits (csra, average), or their maximum is the logit (sgre).
    Of other models class activation maps (CAM, arXiv 1512.04150): what the last linear layer says of each position of
    the last map. They are checked to average to the logits, which tells whether the model is built that way.

    Args:
        model: in eval mode.
        images: (B,3,H,W).

    Raises:
        ValueError: a model that does not end in average pooling and a linear layer, or features that are no maps.
    """
    if isinstance(model, MultiLabelModel):
        features = model.forward_features(images)
        attention = getattr(model.head, "attention_maps", None)
        return Looked(
            model.head(features),
            model.head.class_maps(features),  # type: ignore[operator]
            None if attention is None else attention(features),
        )
    run = features_of(model)
    linear = dict(model.named_modules()).get(head_name(model) or "")
    if run is None or not isinstance(linear, nn.Linear):
        raise _no_maps(model)
    logits, features = model(images), run(model, images)
    if features.ndim != 4 or features.shape[1] != linear.in_features:
        raise _no_maps(model)
    pooled = linear(features.mean((2, 3)))
    # Autocast rounds to 8 bits; another way of pooling is off by far more.
    if not torch.allclose(pooled.float(), logits.float(), rtol=0.05, atol=0.05 * float(logits.abs().max())):
        raise _no_maps(model)
    return Looked(logits, linear(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def _no_maps(model: nn.Module) -> ValueError:
    return ValueError(
        f"{type(model).__name__} has no class maps: they are known of multi-label models, and of classifiers that end "
        f"in average pooling and one linear layer (ResNets and their kin)"
    )
