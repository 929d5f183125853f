"""Class maps, which show where a model sees each class, for multi-label heads and classifiers with average pooling."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dali_mix.models.backbones import features_of
from dali_mix.models.multilabel import MultiLabelModel
from dali_mix.models.weights.load import head_name


class Looked(NamedTuple):
    """Logits and class maps of a batch, as returned by `look`.

    Attributes:
        logits: (B,K).
        class_maps: (B,K,h,w), the evidence for each class at each position.
        attention: (B,K,h,w), the attention of each label, which sums to 1 over positions; None if the head has no
            method `attention_maps`. Of the bundled heads, only SGRE's has one.
    """

    logits: Tensor
    class_maps: Tensor
    attention: Tensor | None = None


def look(model: nn.Module, images: Tensor) -> Looked:
    """Return logits and class maps of a batch. The model must be in evaluation mode.

    The class maps of a `MultiLabelModel` are those of its head: see `MultiLabelModel.class_maps`. Those of any other
    model are class activation maps (CAM, arXiv 1512.04150): the last linear layer applied at each position of the last
    map. They are valid only if the model ends in average pooling and this layer. To verify that, their mean over
    positions is compared with the logits.

    Raises:
        ValueError: the model is not a `MultiLabelModel`, and it has no linear classifier layer, its features are not
            maps, or the comparison fails.
    """
    if isinstance(model, MultiLabelModel):
        features = model.forward_features(images)
        attention = getattr(model.head, "attention_maps", None)
        maps = model.head.class_maps(features)  # type: ignore[operator]
        return Looked(model.head(features), maps, None if attention is None else attention(features))
    run = features_of(model)
    linear = dict(model.named_modules()).get(head_name(model) or "")
    if run is not None and isinstance(linear, nn.Linear):
        logits, features = model(images), run(model, images)
        if features.ndim == 4 and features.shape[1] == linear.in_features:
            pooled, wanted = linear(features.mean((2, 3))).float(), logits.float()
            # The tolerance is for autocast, which rounds to 8 significant bits; other pooling differs by far more.
            if torch.allclose(pooled, wanted, rtol=0.05, atol=0.05 * float(wanted.abs().max())):
                return Looked(logits, linear(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    have = "multi-label models, and classifiers that end in average pooling and one linear layer, such as ResNets"
    raise ValueError(f"{type(model).__name__} has no class maps: they exist for {have}")
