"""Multi-label models: a head on a backbone's last map."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from dali_mix.models.backbones import Features, build_backbone, full_name
from dali_mix.models.heads import AveragePoolHead, CSRAHead, MaxPoolHead, SGREHead
from dali_mix.options import choice, whole

HEADS: dict[str, Any] = {"average": AveragePoolHead, "max": MaxPoolHead, "csra": CSRAHead, "sgre": SGREHead}
LABEL_DIM = 768  # of random label embeddings, as in SGRE
_OF_BUILD = ("in_channels", "dim", "num_classes")  # arguments of heads that `build_multilabel` sets, not the user


class MultiLabelModel(nn.Module):
    """A multi-label classifier: a `backbone`, and a `head` that computes logits from the backbone's last feature map.

    State-dict keys start with "backbone." and "head.".

    Args:
        backbone: a module without a classifier.
        head: one of `dali_mix.models.heads`, or any module (B,C,h,w) → logits (B,K).
        features: (backbone, images (B,3,H,W)) → maps (B,C,h,w).
    """

    classifier_name = "head"  # `load_weights` skips it if a file has a different number of classes

    def __init__(self, backbone: nn.Module, head: nn.Module, features: Features) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._features = features

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last feature map (B,C,h,w) of images (B,3,H,W); for a transformer, its patch tokens as a map.

        Raise ValueError if the backbone returns several outputs, or tokens that do not form a grid with the aspect
        ratio of the images.
        """
        return self._features(self.backbone, images)

    def forward(self, images: Tensor, spliced: tuple[int, int, int] | None = None) -> Any:
        """Return the logits.

        Args:
            images: (B,3,H,W).
            spliced: (n, rows, columns): the last n images were appended by SpliceMix, with this grid.

        Returns:
            logits (B,K). For SGRE in training, (logits, auxiliary logits): see `SGREHead.forward`. With `spliced`,
            (logits, cell logits (n, rows · columns, K)) for `SpliceMixConsistencyLoss`.

        Raises:
            ValueError: `spliced` with a head other than MaxPoolHead, or with a number n or a grid that does not fit.
        """
        features = self.forward_features(images)
        if spliced is None:
            return self.head(features)
        if not isinstance(self.head, MaxPoolHead):
            raise ValueError(f"{type(self.head).__name__} returns no logits of cells: SpliceMix-CL needs head 'max'")
        count, rows, columns = spliced
        if not 0 <= count <= len(images):
            raise ValueError(f"spliced={spliced}: {count} of {len(images)} images cannot be spliced images")
        return self.head(features), self.head.cells(features[len(features) - count :], rows, columns)

    def class_maps(self, images: Tensor) -> Tensor:
        """Return the evidence for each class at each position, (B,K,h,w), in images (B,3,H,W).

        The values depend on the head. For "csra" and "average", the logits are the mean of the values over positions;
        for "sgre", their maximum. For "max", the values are the linear layer's outputs at each position (CAM). A head
        of your own needs a method `class_maps`.
        """
        return self.head.class_maps(self.forward_features(images))  # type: ignore[operator]


def build_multilabel(
    backbone: str = "resnet101",
    head: str = "csra",
    *,
    num_classes: int,
    backbone_options: dict[str, Any] | None = None,
    head_options: dict[str, Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> MultiLabelModel:
    """Build a multi-label model with random weights.

    Load pretrained backbone weights with `load_weights(model.backbone, PATH)`, which skips a classifier in the file.
    To give the head its own learning rate, set `paramwise = {"custom": {"head": {"lr_mult": 10}}}` in the recipe.

    timm's ViTs and Swins accept images of any size divisible by the patch size. A ViT keeps the position table of its
    published size, so its published weights fit, and interpolates the table for other sizes. With
    `backbone_options={"img_size": 448}` the table is built for that size.

    Args:
        backbone: a name as for `build_model`; a plain NAME is looked up in timm, then in torchvision. For instance
            `resnet101`, `tresnet_l`, `vit_large_patch16_224` or `swin_large_patch4_window12_384`.
        head: "csra", "sgre", or a linear layer on the "average" or the "max" over positions.
        num_classes: K ≥ 1.
        backbone_options: arguments of the model class, as for `build_model`.
        head_options: `num_heads` and `lam` for "csra"; the arguments of `SGREHead` for "sgre", where `embeddings` may
            also be the path of an .npy file with K rows. Default embeddings are random, learned and 768 wide.
        image_size: side, or (height, width), to test the backbone with; by default the `img_size` or `image_size` in
            `backbone_options`, else the published size, else 224.

    Raises:
        ValueError: an unknown name (similar ones are suggested) or option, a value out of range, embeddings that are
            invalid or for a different number of classes, or a backbone that does not accept images of `image_size`.
        FileNotFoundError: the embeddings file is missing.
    """
    choice("head", head, HEADS)
    whole("num_classes", num_classes, 1)
    options = dict(backbone_options or {})
    name = full_name(backbone)
    body, features = build_backbone(name, options)
    model = MultiLabelModel(body, nn.Identity(), features)
    published = (getattr(body, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))
    size = image_size or options.get("img_size") or options.get("image_size") or published[1:]
    channels = _try_out(model, (size, size) if isinstance(size, int) else tuple(size), name)
    model.head = _build_head(head, channels, num_classes, dict(head_options or {}))
    return model


def _try_out(model: MultiLabelModel, size: tuple[int, int], name: str) -> int:
    """Return the number of channels of the backbone's last map, and freeze parameters that do not affect this map.

    DDP would wait for the gradients of such parameters. The head of `model` must be `nn.Identity`. The model runs on
    the meta device, which computes only shapes. Raise ValueError if the backbone, called `name`, does not accept images
    of `size` (height, width).
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tensors = {key: torch.empty_like(value, device="meta") for key, value in tensors.items()}
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
    training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            leaves = [tensors[key].requires_grad_() for key in trained]
            maps = functional_call(model, tensors, (torch.empty(2, 3, *size, device="meta"),))
            used = torch.autograd.grad(maps.sum(), leaves, allow_unused=True)
    except (RuntimeError, ValueError, AssertionError, NotImplementedError) as error:
        height, width = size
        raise ValueError(f"backbone {name!r} does not take images of {height}×{width}: {error}") from error
    finally:
        model.train(training)
    for parameter, gradient in zip(trained.values(), used, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
    return maps.shape[1]


def _build_head(head: str, channels: int, num_classes: int, options: dict[str, Any]) -> nn.Module:
    known = [name for name in inspect.signature(HEADS[head]).parameters if name not in _OF_BUILD]
    if unknown := [name for name in options if name not in known]:
        names = ", ".join(map(repr, unknown))
        raise ValueError(f"head {head!r} has no option {names}; it has {', '.join(known) or 'none'}")
    try:
        if head == "sgre":
            return SGREHead(channels, _embeddings(options, num_classes), **options)
        return HEADS[head](channels, num_classes, **options)
    except TypeError as error:
        raise ValueError(f"head {head!r} does not take these options ({', '.join(options)}): {error}") from error


def _embeddings(options: dict[str, Any], num_classes: int) -> Tensor:
    """Remove the label embeddings from a head's `options` and return them, (K,E), read from a file if they are a path.

    If `options` contain none, return random ones, and set `learn_embeddings` in `options` to True unless it is set.
    Raise FileNotFoundError and ValueError as `load_embeddings` does, and ValueError if the first dimension of given
    embeddings is not `num_classes`.
    """
    given = options.pop("embeddings", None)
    if given is None:
        options.setdefault("learn_embeddings", True)
        return torch.randn(num_classes, LABEL_DIM)
    where = ""
    if not isinstance(given, Tensor):
        where, given = f"{given}: ", load_embeddings(given)
    if len(given) != num_classes:
        raise ValueError(f"{where}{len(given)} label embeddings for {num_classes} classes: need one per class")
    return given


def load_embeddings(path: str | Path) -> Tensor:
    """Read label embeddings (K,E) of a float dtype from an .npy file, as written by `dali-mix embed-labels`.

    Raise FileNotFoundError if there is no such file, and ValueError for any other content, NaN or infinity.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no label embeddings at {path}: `dali-mix embed-labels` writes them")
    try:
        with path.open("rb") as file:
            table = np.load(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a damaged header raises SyntaxError, TokenError, MemoryError, BadZipFile, …
        # numpy's message would advise allow_pickle, which runs code from the file.
        raise ValueError(f"{path} is not an .npy file of numbers: `dali-mix embed-labels` writes one") from error
    if not isinstance(table, np.ndarray) or table.ndim != 2 or not np.issubdtype(table.dtype, np.floating):
        found = f"{table.dtype} {table.shape}" if isinstance(table, np.ndarray) else "an archive of arrays"
        raise ValueError(f"{path}: {found}; label embeddings are a table of floats, one row per class")
    if not (finite := np.isfinite(table).all(1)).all():
        raise ValueError(f"{path}: row {int(finite.argmin())} contains NaN or infinity")
    return torch.from_numpy(table.astype(table.dtype.newbyteorder("="), copy=False))
