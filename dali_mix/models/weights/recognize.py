"""Identify the model of a state dict from its keys and shapes, without guessing what they do not determine.

Each family is identified by a few keys, in the order of this table, and each size by a few shapes:

    family        identified by                                 sizes from
    cifar_resnet  conv0, layer1.0.convBn1                       depth: blocks of layer3
    shakeshake    c_in, layer1.0.branch1                        width: channels of the first branch
    wrn           conv1.bias, layer1.0.conv1 of 16 k channels   depth: blocks of layer1; widen: k
    resnet        layer4                                        nearest row of RESNETS
    vit           pos_embed, patch_embed.proj                   width, patch; image size: number of positions

A wrong result is harmless: callers build the model on the meta device and compare every key and shape with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dali_mix.models.build import build_model
from dali_mix.models.multilabel import build_multilabel
from dali_mix.models.weights.load import head_name

# (blocks of each stage, whether they are bottlenecks, channels of the first block's first convolution) → name
RESNETS: dict[tuple[tuple[int, ...], bool, int], str] = {
    ((2, 2, 2, 2), False, 64): "resnet18",
    ((3, 4, 6, 3), False, 64): "resnet34",
    ((3, 4, 6, 3), True, 64): "resnet50",
    ((3, 4, 23, 3), True, 64): "resnet101",
    ((3, 8, 36, 3), True, 64): "resnet152",
    ((3, 4, 6, 3), True, 128): "wide_resnet50_2",
    ((3, 4, 23, 3), True, 128): "wide_resnet101_2",
}
VITS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}  # by width
# Name of the last layer of a classifier, by family.
CLASSIFIERS = {"resnet": "fc", "vit": "head", "wrn": "linear", "shakeshake": "fc_out", "cifar_resnet": "fc"}


@dataclass(frozen=True)
class Recognized:
    """An identified model: the arguments of `build_model` or, with a `head`, of `build_multilabel`.

    Attributes:
        family: the kind of backbone, from the table in the module docstring, or "named" if the user named the model.
        name: name of the classifier or backbone.
        num_classes: number of classes.
        options: options of the classifier or backbone.
        head: "" for a classifier; "pooled" if it may be "max" or "average".
        head_options: options of the head.
    """

    family: str
    name: str
    num_classes: int
    options: dict[str, Any] = field(default_factory=dict)
    head: str = ""
    head_options: dict[str, Any] = field(default_factory=dict)

    def state(self) -> dict[str, Tensor]:
        """Build the model on the meta device and return its state dict, which has keys and shapes but no values.

        Raise ValueError if no model has this name, or the model does not accept the options.
        """
        return self._build().state_dict()

    def classifier(self) -> str:
        """Return the name of the classifier layer; "" if there is none."""
        return head_name(self._build()) or ""

    def _build(self) -> nn.Module:
        with torch.device("meta"):
            if not self.head:
                name = self.name if "/" in self.name or self.family not in ("resnet", "vit") else f"timm/{self.name}"
                return build_model(name, self.num_classes, **self.options)
            options = dict(self.head_options)
            if self.head == "sgre":
                options["embeddings"] = torch.empty(self.num_classes, options.pop("label_dim"))
            head = "max" if self.head == "pooled" else self.head
            parts: dict[str, Any] = {"backbone_options": self.options, "head_options": options}
            return build_multilabel(self.name, head, num_classes=self.num_classes, **parts)

    def __str__(self) -> str:
        text = f"{self.name}{_options(self.options)}, {self.num_classes} classes"
        head = "max or average (their weights are the same)" if self.head == "pooled" else self.head
        return text + (f", head {head}{_options(self.head_options)}" if head else "")


def recognize(state: Mapping[str, Tensor], model: str = "") -> Recognized | None:
    """Identify the model of `state`, which has our keys; return None if its kind is unknown.

    Sizes are taken from a few shapes; callers compare the rest with `Recognized.state()`.

    Args:
        model: name of the classifier, or of a multi-label model's backbone; "" to derive it from the shapes.

    Raises:
        ValueError: no classifier is called `model`, or `state` lacks its last layer.
    """
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    if not any(key.startswith("backbone.") for key in shapes):
        if model:
            last = f"{Recognized('named', model, 2).classifier()}.weight"
            if not shapes.get(last):
                raise ValueError(f"the file has no {last}, which {model} has as its last layer")
            return Recognized("named", model, shapes[last][0])
        family, name, options = recognize_backbone(shapes)
        classifier = shapes.get(f"{CLASSIFIERS.get(family, '')}.weight")
        return Recognized(family, name, classifier[0], options) if classifier else None
    body = {key.removeprefix("backbone."): shape for key, shape in shapes.items() if key.startswith("backbone.")}
    family, name, options = ("named", model, {}) if model else recognize_backbone(body)
    kind, num_classes, head_options = recognize_head(shapes)
    if not name or not kind:
        return None
    return Recognized(family, name, num_classes, options, kind, head_options)


def recognize_backbone(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str, dict[str, Any]]:
    """Return (family, name, options) of a backbone from its shapes by key; all empty if it is unknown."""
    if _rank(shapes, "conv0.weight") == 4 and "layer1.0.convBn1.conv.weight" in shapes:
        return "cifar_resnet", f"cifar_resnet{50 if count(shapes, 'layer3.#.') <= 6 else 101}", {}
    if _rank(shapes, "c_in.weight") == 4 and _rank(shapes, "layer1.0.branch1.1.weight") == 4:
        return "shakeshake", f"shakeshake26_2x{shapes['layer1.0.branch1.1.weight'][0]}d", {}
    first = shapes.get("layer1.0.conv1.weight", ())
    if len(first) == 4 and "conv1.bias" in shapes and first[0] % 16 == 0:
        return "wrn", f"wrn-{6 * count(shapes, 'layer1.#.') + 4}-{first[0] // 16}", {}
    if count(shapes, "layer4.#."):
        return "resnet", _resnet(shapes, first[0] if first else 64), {}
    if _rank(shapes, "pos_embed") == 3 and _rank(shapes, "patch_embed.proj.weight") == 4:
        return _vit(shapes["pos_embed"], shapes["patch_embed.proj.weight"])
    return "", "", {}


def recognize_head(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, int, dict[str, Any]]:
    """Return (kind, number of classes, options) of a multi-label model's head; ("", 0, {}) if it is unknown.

    The kind is "csra", "sgre" or "pooled". "pooled" stands for both "max" and "average", since the keys and shapes of
    these heads are the same.
    """
    if _rank(shapes, "head.weight") == 3:
        heads, num_classes, _ = shapes["head.weight"]
        return "csra", num_classes, {"num_heads": heads}
    if "head.fc.weight" not in shapes:
        return "", 0, {}
    num_classes = shapes["head.fc.weight"][0]
    inner = [f"head.{key}" for key in ("attention.linear2.weight", "encoder.layers.0.linear1.weight")]
    if all(_rank(shapes, key) == 2 for key in inner):
        (rank, label_dim), (feedforward, _) = (shapes[key] for key in inner)
        return "sgre", num_classes, {"rank": rank, "feedforward": feedforward, "label_dim": label_dim}
    return "pooled", num_classes, {}


def count(keys: Mapping[str, Any], template: str) -> int:
    """Count the distinct numbers at # among the keys that start with `template`."""
    pattern = re.compile(re.escape(template).replace(r"\#", r"(\d+)"))
    return len({match[1] for key in keys if (match := pattern.match(key))})


def _rank(shapes: Mapping[str, tuple[int, ...]], key: str) -> int:
    return len(shapes.get(key, ()))


def _resnet(shapes: Mapping[str, tuple[int, ...]], channels: int) -> str:
    """Return the name of the ResNet in `RESNETS` that is most similar to `shapes`.

    The match may be inexact: callers then report the missing and superfluous keys. channels: output channels of the
    first block's first convolution.
    """
    blocks = [count(shapes, f"layer{stage}.#.") for stage in (1, 2, 3, 4)]
    bottlenecks = count(shapes, "layer#.0.conv3.") > 0

    def distance(kind: tuple[tuple[int, ...], bool, int]) -> tuple[bool, int, int]:
        difference = sum(abs(one - other) for one, other in zip(kind[0], blocks, strict=True))
        return kind[1] != bottlenecks, abs(kind[2] - channels), difference

    return RESNETS[min(RESNETS, key=distance)]


def _vit(positions: tuple[int, ...], patches: tuple[int, ...]) -> tuple[str, str, dict[str, Any]]:
    import timm

    patch, side = patches[3], math.isqrt(max(positions[1] - 1, 0))
    if positions[2] not in VITS or side * side != positions[1] - 1:
        return "", "", {}
    size = side * patch
    name = f"vit_{VITS[positions[2]]}_patch{patch}_"
    if timm.is_model(f"{name}{size}"):
        return "vit", f"{name}{size}", {}
    if timm.is_model(f"{name}224"):
        return "vit", f"{name}224", {"img_size": size}
    return "", "", {}


def _options(options: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{key}={value}' for key, value in options.items())})" if options else ""
