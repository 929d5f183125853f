"""Tables that map the state-dict keys of published codebases to ours, used by `convert`."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Layout:
    """One kind of checkpoint of a release.

    Attributes:
        marks: keys that identify the layout; empty if the user names the model (--model).
        families: supported values of `Recognized.family`; "named" is for models that the user names.
        head: kind of head of our multi-label model; "" for a classifier.
        pairs: (prefix of the release's key, prefix of our key). # matches a number. The first pair that matches a key
            is used, and a key that no pair matches is the same in both.
        wrapper: the key under which the release saves the state dict; "" for none.
        prefix: the prefix that the release saves before all keys; "" for none.
    """

    marks: tuple[str, ...]
    families: tuple[str, ...]
    head: str = ""
    pairs: Pairs = ()
    wrapper: str = ""
    prefix: str = ""

    def marked(self, state: Container[str]) -> bool:
        """Return True if `state` has all keys that identify this layout."""
        return bool(self.marks) and all(mark in state for mark in self.marks)

    def fits(self, family: str, head: str) -> bool:
        """Return True if a model with this `Recognized.family` and `Recognized.head` can be saved in the layout.

        A layout with the head "max" also fits "pooled", the head of a model that may have "max" or "average".
        """
        return family in self.families and head in (self.head, "pooled" if self.head == "max" else self.head)

    def ours(self, key: str) -> str:
        """Translate the release's `key` to ours."""
        return _renamed(key, self.pairs)

    def theirs(self, key: str) -> str:
        """Translate our `key` to the release's."""
        return _renamed(key, tuple((here, there) for there, here in self.pairs))


def _renamed(key: str, pairs: Pairs) -> str:
    for start, other in pairs:
        if match := re.match(re.escape(start).replace(r"\#", r"(\d+)"), key):
            for number in match.groups():
                other = other.replace("#", number, 1)
            return other + key[match.end() :]
    return key


# SpliceMix keeps the backbone as a list of torchvision's layers.
_SPLICEMIX: Pairs = (
    ("backbone.0.", "backbone.conv1."),
    ("backbone.1.", "backbone.bn1."),
    ("backbone.4.", "backbone.layer1."),
    ("backbone.5.", "backbone.layer2."),
    ("backbone.6.", "backbone.layer3."),
    ("backbone.7.", "backbone.layer4."),
    ("cls.", "head.fc."),
)
_SGRE: Pairs = (("backbone.", "backbone."), ("", "head."))
_CSRA: Pairs = (("head.weight", "head.weight"), ("classifier.", "classifier."), ("", "backbone."))
# From torchvision's ViTs to timm's. The first version of torchvision's ViTs has the keys linear_1 and linear_2.
_BLOCK = "encoder.layers.encoder_layer_#"
_VIT: Pairs = (
    ("class_token", "cls_token"),
    ("conv_proj.", "patch_embed.proj."),
    ("encoder.pos_embedding", "pos_embed"),
    (f"{_BLOCK}.ln_1.", "blocks.#.norm1."),
    (f"{_BLOCK}.self_attention.in_proj_", "blocks.#.attn.qkv."),
    (f"{_BLOCK}.self_attention.out_proj.", "blocks.#.attn.proj."),
    (f"{_BLOCK}.ln_2.", "blocks.#.norm2."),
    (f"{_BLOCK}.mlp.0.", "blocks.#.mlp.fc1."),
    (f"{_BLOCK}.mlp.3.", "blocks.#.mlp.fc2."),
    (f"{_BLOCK}.mlp.linear_1.", "blocks.#.mlp.fc1."),
    (f"{_BLOCK}.mlp.linear_2.", "blocks.#.mlp.fc2."),
    ("encoder.ln.", "norm."),
    ("heads.head.", "head."),
)

_WRN = Layout(("linear.weight", "layer3.0.bn1.weight"), ("wrn",))
_SHAKESHAKE = Layout(("c_in.weight", "fc_out.weight"), ("shakeshake",))
_RESNET = Layout(("layer4.0.conv1.weight", "fc.weight"), ("resnet",))
_MULTI_HEAD = Layout(("classifier.multi_head.0.head.weight",), ("resnet", "vit", "named"), "csra", _CSRA)
_NAMED = Layout((), ("named",))

LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "msl": (_MULTI_HEAD,),
    "csra": (_MULTI_HEAD,),
    "splicemix": (
        Layout(("backbone.0.weight", "cls.weight"), ("resnet",), "max", _SPLICEMIX, wrapper="model_state_dict"),
        Layout(_RESNET.marks, ("resnet",), wrapper="state_dict"),
    ),
    "sgre": (Layout(("net1.0.weight", "fc2.3.weight"), ("resnet", "vit", "named"), "sgre", _SGRE, prefix="module."),),
    "resizemix": (_WRN, _SHAKESHAKE, _RESNET),
    "saliencymix": (
        Layout(("conv0.weight", "layer1.0.convBn1.conv.weight"), ("cifar_resnet",), wrapper="model_state_dict"),
        _WRN,
        Layout(_RESNET.marks, ("resnet",), wrapper="state_dict", prefix="module."),
    ),
    "torchvision": (
        _RESNET,
        Layout(("class_token", "encoder.pos_embedding", "heads.head.weight"), ("vit",), pairs=_VIT),
        _NAMED,
    ),
    "timm": (_RESNET, Layout(("pos_embed", "blocks.0.attn.qkv.weight", "head.weight"), ("vit",)), _NAMED),
}
