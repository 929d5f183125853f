"""Faster R-CNN (arXiv 1506.01497) from torchvision's components, for padded batches.

The backbone is a torchvision ResNet, or a timm model that returns maps at the strides of a ResNet.

More than 300 lines: the model, its backbone, and the checks of its options.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper

from dali_mix.models.backbones import build_backbone
from dali_mix.models.weights.load import load_weights
from dali_mix.options import choice, number, whole

STRIDES = (4, 8, 16, 32)  # of the maps that a pyramid is built on
RATIOS = (0.5, 1.0, 2.0)  # height / width of anchors
DEFAULT_FREEZE = ("stem", "stage1", "norm")
POOLED = 7  # side of a pooled region in cells


class Detector(FasterRCNN):
    """Faster R-CNN for padded batches of normalized images, without torchvision's `transform`.

    State-dict keys are those of torchvision's FasterRCNN, so its weight files can be loaded.
    """

    classifier_name = "roi_heads.box_predictor"

    def __init__(self, backbone: nn.Module, num_classes: int, **options: Any) -> None:
        super().__init__(backbone, num_classes, **options)
        self.transform = nn.Identity()

    def forward(self, images: Tensor, targets: Sequence[Mapping[str, Any]] | None = None) -> Any:
        """Return losses in training, predictions in evaluation.

        Args:
            images: (B, 3, H, W), padded at the right and the bottom.
            targets: a dict for each image. `size` is its height and width without padding. Training also needs `boxes`
                (n, 4), x1, y1, x2, y2 in pixels, and `labels` (n,), 0 to K - 1; n may be 0. In evaluation, None means
                that no image is padded.

        Returns:
            in training, a dict of the four scalar losses by name. In evaluation, a list with a dict for each image:
            `boxes` (n, 4) in pixels, `scores` (n,) in descending order, `labels` (n,), and `finite` () bool. If
            `finite` is False, the heads' outputs for the image contain NaN or infinity, and boxes may be missing.

        Raises:
            ValueError: `images` is not a tensor (torchvision's models take a list), or `targets` is None in training.
        """
        if not isinstance(images, Tensor):
            raise ValueError(f"images is a {type(images).__name__}: must be a padded tensor (B, 3, H, W)")
        if targets is None:
            if self.training:
                raise ValueError("training needs targets: model(images, targets); for predictions call model.eval()")
            targets = [{"size": images.shape[-2:]}] * len(images)
        sizes = [tuple(map(int, target["size"])) for target in targets]
        truth = None
        if self.training:
            truth = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]
        features = self.backbone(images)
        if isinstance(features, Tensor):
            features = {"0": features}
        # Autocast off: boxes above 1,024 pixels would be rounded to steps of 8 in bfloat16.
        with torch.autocast(images.device.type, enabled=False):
            features = OrderedDict((name, one.float()) for name, one in features.items())
            proposals, proposal_losses = self.rpn(ImageList(images, sizes), features, truth)
            found, losses = self.roi_heads(features, proposals, sizes, truth)
        if self.training:
            return {**losses, **proposal_losses}
        regions = self.roi_heads.box_predictor.finite.split([len(one) for one in proposals])
        finite = [own & rest.all() for own, rest in zip(self.rpn.head.finite, regions, strict=True)]
        return [{**one, "labels": one["labels"] - 1, "finite": own} for one, own in zip(found, finite, strict=True)]

    @staticmethod
    def renamed(key: str) -> str:
        """Return the current name of a state-dict key.

        Keys that torchvision renamed in 0.13 are translated, and all others are returned unchanged. `load_weights`
        calls this for the keys of a file.
        """
        return re.sub(r"^(rpn\.head\.conv|backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", _inserted, key)


def _inserted(match: re.Match[str]) -> str:
    inside = ".0.0." if match[1].startswith("rpn") else ".0."
    return f"{match[1]}{inside}{match[2]}"


# torchvision silently drops proposals and boxes that are NaN, so both heads record which outputs were finite.


class _RPNHead(RPNHead):
    finite: Tensor  # (B,) bool, for each image

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, deltas = super().forward(x)
        self.finite = torch.stack([one.detach().isfinite().flatten(1).all(1) for one in (*scores, *deltas)]).all(0)
        return scores, deltas


class _BoxPredictor(FastRCNNPredictor):
    finite: Tensor  # (R,) bool, for each region

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(regions)
        self.finite = torch.cat([scores, deltas], dim=1).detach().isfinite().all(1)
        return scores, deltas


class Backbone(nn.Module):
    """A classification model up to its last map (`body`), with or without a feature pyramid (`fpn`).

    The state-dict keys of `body` are those of the model, so the model's weight files can be loaded into `body`.

    Args:
        body: a model from `_body`, images (B, 3, H, W) → maps.
        channels: number of channels of each map used: four maps for a pyramid, else one.
        pyramid: number of channels of the pyramid; None to use only the last map.
    """

    def __init__(self, body: nn.Module, channels: Sequence[int], pyramid: int | None) -> None:
        super().__init__()
        self.body = body
        self.fpn = None
        self.out_channels = channels[-1]
        if pyramid is not None:
            self.fpn = FeaturePyramidNetwork(list(channels), pyramid, LastLevelMaxPool())
            self.out_channels = pyramid

    def forward(self, images: Tensor) -> Any:
        """Compute the maps of images (B, 3, H, W).

        Return a dict of the pyramid's maps, "0" to "3" at strides 4 to 32 and "pool" at stride 64. Without a pyramid,
        return only the last map, at stride 32.
        """
        if isinstance(self.body, IntermediateLayerGetter):
            maps = list(self.body(images).values())
        else:
            maps = self.body.forward_intermediates(  # type: ignore[operator]  # of timm's models
                images, indices=1 if self.fpn is None else len(STRIDES), intermediates_only=True
            )
        if self.fpn is None:
            return maps[-1]
        return self.fpn(OrderedDict((str(level), one) for level, one in enumerate(maps)))


def build_detector(
    backbone: str | Mapping[str, Any],
    num_classes: int,
    *,
    neck: str = "fpn",
    freeze: str | Sequence[str] = DEFAULT_FREEZE,
    norm_eps: float | None = None,
    anchors: Sequence[int] = (32, 64, 128, 256, 512),
    channels: int = 256,
    hidden: int = 1024,
    rois: int = 512,
    proposals: Sequence[int] = (2000, 1000),
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    detections: int = 100,
    backbone_options: Mapping[str, Any] | None = None,
) -> Detector:
    """Build a detector with random weights; those of the backbone can be loaded from a file.

    Args:
        backbone: `torchvision/NAME` of a ResNet, or `timm/NAME` of a model with maps at strides 4, 8, 16 and 32 (for
            "c5" only 32). As in a recipe, this may also be a dict with the name as `type`, the backbone's options, and
            `weights`, a file for `load_weights` that must contain at least 95% of the backbone's tensors.
        num_classes: K, without background.
        neck: "fpn" for a feature pyramid (arXiv 1612.03144), or "c5" for only the last map, at stride 32.
        freeze: parts of the backbone that are not trained. "norm" is every BatchNorm, including its statistics, "stem"
            everything before the first stage, and "stage1" the first stage. Any other part is the dotted name of a
            module or parameter, such as "layer2". A string is split at commas; "" freezes nothing.
        norm_eps: epsilon of frozen BatchNorms; needs "norm" in `freeze`. None keeps the backbone's, usually 1e-5.
            torchvision's detection weights `FasterRCNN_ResNet50_FPN_Weights.COCO_V1` were trained with 0 and reproduce
            torchvision's outputs only with 0.
        anchors: sides of the square anchors in pixels. A pyramid needs five, one per level; the single map of "c5" gets
            all of them. Two more anchors per side have the same area and a height / width of 0.5 and 2.
        channels: number of channels of the pyramid.
        hidden: width of the two layers of the box head.
        rois: number of regions sampled per image in training.
        proposals: two numbers, one for training and one for evaluation. Each is the number of regions kept per level
            before non-maximum suppression, and per image after it. On a CPU with small images, the suppression takes a
            third of a step (docs/decisions.md).
        score_threshold: only predictions with a higher score are returned.
        nms_threshold: maximum IoU of a prediction with one of the same class and a higher score.
        detections: maximum number of predictions per image.
        backbone_options: arguments for the backbone, which override those in `backbone`.

    Raises:
        FileNotFoundError: a weight file is missing.
        ValueError: an unknown name or option, a value out of range, a backbone without maps at these strides, an
            unknown part in `freeze`, or a weight file that does not match.
    """
    options, weights = dict(backbone_options or {}), None
    if isinstance(backbone, Mapping):
        options = {**backbone, **options}
        weights, backbone = options.pop("weights", None), options.pop("type", None)
    if not isinstance(backbone, str):
        raise ValueError(f"backbone={backbone!r}: must be a name, or a dict with a 'type'")
    whole("num_classes", num_classes, 1)
    choice("neck", neck, ("fpn", "c5"))
    for name, value in (("channels", channels), ("hidden", hidden), ("rois", rois), ("detections", detections)):
        whole(name, value, 1)
    for name, share in (("score_threshold", score_threshold), ("nms_threshold", nms_threshold)):
        number(name, share, 0.0, 1.0)
    train, test = _whole_numbers("proposals", proposals, 2)
    sides = _whole_numbers("anchors", anchors)
    if neck == "fpn" and len(sides) != len(STRIDES) + 1:
        raise ValueError(f"anchors={sides}: a pyramid has {len(STRIDES) + 1} levels and needs one side for each")
    if not isinstance(freeze, (str, list, tuple)):
        raise ValueError(f"freeze={freeze!r}: must be names of parts, such as 'stem,stage1,norm'")
    body, maps = _body(backbone, neck, options)
    if weights:
        load_weights(body, weights, min_match=0.95)
    parts = [part for part in freeze.split(",") if part] if isinstance(freeze, str) else list(freeze)
    _freeze(body, parts, backbone)
    if norm_eps is not None:
        if "norm" not in parts:
            raise ValueError(f"norm_eps={norm_eps}: only for frozen BatchNorms; add 'norm' to freeze, or omit norm_eps")
        _set_eps(body, number("norm_eps", norm_eps, 0.0, 1.0))
    levels = [(side,) for side in sides] if neck == "fpn" else [sides]
    base = Backbone(body, maps, channels if neck == "fpn" else None)
    generator = AnchorGenerator(tuple(levels), (RATIOS,) * len(levels))
    return Detector(
        base,
        None,  # type: ignore[arg-type]  # the predictor below determines the number of classes
        rpn_anchor_generator=generator,
        box_roi_pool=_pooling(len(maps)),
        box_head=TwoMLPHead(base.out_channels * POOLED**2, hidden),
        box_predictor=_BoxPredictor(hidden, num_classes + 1),
        rpn_head=_RPNHead(base.out_channels, generator.num_anchors_per_location()[0]),
        rpn_pre_nms_top_n_train=train,
        rpn_post_nms_top_n_train=train,
        rpn_pre_nms_top_n_test=test,
        rpn_post_nms_top_n_test=test,
        box_batch_size_per_image=rois,
        box_score_thresh=score_threshold,
        box_nms_thresh=nms_threshold,
        box_detections_per_img=detections,
    )


def _whole_numbers(name: str, values: Any, count: int | None = None) -> tuple[int, ...]:
    if not isinstance(values, (list, tuple)) or not values or count not in (None, len(values)):
        raise ValueError(f"{name}={values!r}: must be a list of {'' if count is None else f'{count} '}integers")
    return tuple(whole(name, value, 1) for value in values)


def _pooling(levels: int) -> MultiScaleRoIAlign:
    """Return a module that pools regions from the backbone's last `levels` maps, named "0" to `levels` - 1.

    The maps' scales are set here. Otherwise torchvision would infer them from the first batch and keep them: they would
    be wrong if that batch has much padding, and could change when a run is resumed.
    """
    pooling = MultiScaleRoIAlign([str(level) for level in range(levels)], POOLED, sampling_ratio=2)
    strides = STRIDES[-levels:]
    pooling.scales = [1 / stride for stride in strides]
    pooling.map_levels = initLevelMapper(int(math.log2(strides[0])), int(math.log2(strides[-1])))
    return pooling


def _body(name: str, neck: str, options: Mapping[str, Any]) -> tuple[nn.Module, list[int]]:
    """Build the backbone `name`. Return it without its classifier, and the channels of each map that `neck` uses.

    The channels are ordered from the finest map to the coarsest. Raise ValueError if `build_backbone` does, or if the
    model does not return maps at the strides that `neck` needs.
    """
    model: Any
    model, _ = build_backbone(name, dict(options))
    count = 1 if neck == "c5" else len(STRIDES)
    if isinstance(model, ResNet):
        used = range(5 - count, 5)
        layers = {f"layer{stage}": str(stage - 1) for stage in used}
        return IntermediateLayerGetter(model, layers), [model.inplanes >> (4 - stage) for stage in used]
    if not hasattr(model, "prune_intermediate_layers"):
        raise ValueError(f"backbone {name!r}: a detector needs a torchvision ResNet, or a timm model that returns maps")
    stages = list(model.feature_info)[-count:]
    strides = tuple(stage["reduction"] for stage in stages)
    if strides != STRIDES[-count:]:
        raise ValueError(
            f"backbone {name!r}: its last maps have strides {strides}; a detector needs {STRIDES[-count:]}"
        )
    model.prune_intermediate_layers(count, prune_norm=True, prune_head=True)  # these layers would get no gradient
    return model, [stage["num_chs"] for stage in stages]


def _freeze(body: nn.Module, parts: Sequence[str], name: str) -> None:
    """Freeze `parts` of a backbone; see `build_detector`.

    Raise ValueError if the backbone, called `name`, lacks a part other than "norm".
    """
    names = [key for key, _ in body.named_parameters()]
    stages = [match[0] for key in names if (match := re.match(r"layer1|(stages|blocks|layers)[._]0", key))]
    first = [key for key in names if stages and key.startswith(f"{stages[0]}.")]
    known = {"norm": [], "stem": names[: names.index(first[0])] if first else [], "stage1": first}
    for part in parts:
        own = known.get(part) or [key for key in names if key == part or key.startswith(f"{part}.")]
        if not own and part != "norm":
            children = ", ".join(dict.fromkeys([*known, *(key.partition(".")[0] for key in names)]))
            raise ValueError(f"freeze={part!r}: backbone {name!r} has no such part; it has {children}")
        for key in own:
            body.get_parameter(key).requires_grad_(False)
    if "norm" in parts:
        from timm.layers import freeze_batch_norm_2d

        freeze_batch_norm_2d(body)


def _set_eps(body: nn.Module, eps: float) -> None:
    """Set the epsilon of the frozen BatchNorms in `body`, in place. Other BatchNorms keep theirs."""
    from timm.layers import FrozenBatchNormAct2d

    for module in body.modules():
        if isinstance(module, (FrozenBatchNorm2d, FrozenBatchNormAct2d)):
            module.eps = eps
