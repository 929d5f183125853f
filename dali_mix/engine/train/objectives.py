"""Training objectives: run the model on a mixed batch and compute the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dali_mix.engine.config.objects import class_name
from dali_mix.loading.batch import boxes_to
from dali_mix.losses import MaskedSupervisionLoss, SGRELoss, SpliceMixConsistencyLoss
from dali_mix.mixers import Mixer, SpliceMix
from dali_mix.mixers.masks import FolderMasks, FreeFormMasks, mask_out
from dali_mix.models import Detector, MultiLabelModel
from dali_mix.models.heads import MaxPoolHead, SGREHead


class Objective(nn.Module):
    """Base class of training objectives: modules that run the model on a mixed batch and return the loss.

    This class itself is the objective "Plain", which computes loss(model(images), targets). An objective contains the
    model, and DDP wraps the objective.

    Args:
        model: images (B,3,H,W) → logits, or several outputs that `loss` takes.
        loss: (outputs, targets) → scalar; None if the model computes its own losses.

    Attributes:
        parts: the terms of the loss in the last forward pass, as scalars by name, for logging; empty except in
            `Detection`.
    """

    passes = 1  # forward passes of the model per step

    def __init__(self, model: nn.Module, loss: nn.Module | None) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.parts: dict[str, Tensor] = {}
        self.minimised: Any = loss  # the loss of training steps; `loss` is used in evaluations
        self.autocast: Callable[[], AbstractContextManager] = nullcontext  # the context the model runs in

    def check(self, mixer: Mixer | None) -> None:
        """Raise ValueError if the objective is incompatible with `mixer`, or with its own model or loss."""
        if isinstance(self.model, Detector):
            raise ValueError("model detector computes its own losses: use objective Detection")
        # Losses of other packages are not checked.
        known = type(self.loss).__module__.partition(".")[0] in ("dali_mix", "torch")
        fits = type(self) is Objective and (isinstance(self.loss, SGRELoss) or not known)
        head = getattr(self.model, "head", None)
        if isinstance(head, SGREHead) and not fits:
            raise ValueError("head 'sgre' returns two logits in training: use loss SGRELoss, and no other objective")
        if (
            isinstance(self.loss, SGRELoss)
            and isinstance(self.model, MultiLabelModel)
            and not isinstance(head, SGREHead)
        ):
            raise ValueError("loss SGRELoss is for head 'sgre', which returns two logits: use AsymmetricLoss")

    def draw(self, images: Tensor, generator: torch.Generator) -> Any:
        """Return the random values that `forward` needs for a batch, drawn with `generator`; None if it needs none.

        Only the shape and the device of `images` may be used.
        """
        return None

    def prepare(self, targets: Any, device: torch.device) -> Any:
        """Convert targets from the mixer to the targets for `forward`. The base class returns them unchanged."""
        return targets

    def forward(self, images: Tensor, targets: Tensor, mixed: Any = None, drawn: Any = None) -> Tensor:
        """Return the scalar loss of mixed images and targets.

        Args:
            images: (B,3,H,W).
            targets: the result of `prepare`.
            mixed: the mixer's params, or None.
            drawn: the result of `draw`.

        Raises:
            ValueError: the model's outputs do not fit the loss, or the loss is not a scalar with a gradient.
        """
        assert self.loss is not None
        outputs = self.run(images)
        library = type(self.loss).__module__.partition(".")[0]
        one = library in ("dali_mix", "torch") and not isinstance(self.loss, (SGRELoss, FunctionLoss))
        outputs = logits_of(self.model, outputs) if one else in_float32(outputs)
        loss = check_loss(self.loss, self.loss(outputs, targets))
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise ValueError(f"{loss_name(self.loss)} has no gradient: compute it from the outputs, with torch only")
        return loss

    def run(self, *inputs: Any) -> Any:
        """Return the model's outputs for `inputs`, computed under `autocast`."""
        with self.autocast():
            return self.model(*inputs)


class MaskedSupervision(Objective):
    """Masked supervision: run the model on each image and on a masked copy (MaskSup, MSL, arXiv 2310.18517).

    Args:
        model: as in `Objective`.
        loss: as in `Objective`, but used only in evaluation.
        masks: "free-form" for masks drawn at random, or a folder of PNG masks. Pixels are removed where a mask is above
            0.
        whole, masked, agreement: the weights of `MaskedSupervisionLoss`.
        fill: the value of removed pixels, one number or one per channel. `build_objective` passes the normalized value
            of black.

    Raises:
        ValueError, FileNotFoundError: invalid weights, or an invalid or missing folder.
    """

    passes = 2

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        masks: str = "free-form",
        whole: float = 0.3,
        masked: float = 0.2,
        agreement: float = 0.5,
        fill: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__(model, loss)
        self.masks = FreeFormMasks() if masks == "free-form" else FolderMasks(masks)
        self.minimised = MaskedSupervisionLoss(whole, masked, agreement)
        self.fill = fill

    def draw(self, images: Tensor, generator: torch.Generator) -> Any:
        batch_size, _, height, width = images.shape
        return self.masks.sample(batch_size, height, width, generator, images.device)

    def forward(self, images: Tensor, targets: Tensor, mixed: Any = None, drawn: Any = None) -> Tensor:
        logits, masked = self.run(images), self.run(mask_out(images, self.masks.masks(drawn), self.fill))
        return self.minimised(in_float32(logits), in_float32(masked), targets)


class SpliceMixConsistency(Objective):
    """SpliceMix-CL (arXiv 2311.15200): make predictions for cells of spliced images agree with their source images.

    Args:
        model: a `MultiLabelModel` with head "max".
        loss: as in `Objective`, but used only in evaluation.
        detach: as in `SpliceMixConsistencyLoss`. The published code sets it to False for VOC only.
    """

    def __init__(self, model: nn.Module, loss: nn.Module, detach: bool = True) -> None:
        super().__init__(model, loss)
        self.minimised = SpliceMixConsistencyLoss(detach)

    def check(self, mixer: Mixer | None) -> None:
        if not isinstance(mixer, SpliceMix):
            raise ValueError("objective SpliceMixConsistency uses SpliceMix's cells: the mixer must be SpliceMix")
        if not isinstance(mixer.grids, str):
            raise ValueError("objective SpliceMixConsistency needs one grid per batch: grids='default' or 'mini'")
        if not mixer.mixes_every_batch:
            raise ValueError("objective SpliceMixConsistency needs cells in every batch: omit prob in the mixer")
        if not (isinstance(self.model, MultiLabelModel) and isinstance(self.model.head, MaxPoolHead)):
            raise ValueError("objective SpliceMixConsistency needs model multilabel with head 'max'")

    def forward(self, images: Tensor, targets: Tensor, mixed: Any = None, drawn: Any = None) -> Tensor:
        count = len(mixed.sources)
        logits, cells = self.run(images, (count, mixed.rows, mixed.cols))
        return self.minimised(in_float32(logits), in_float32(cells), targets, mixed.sources, mixed.dropped)


class Detection(Objective):
    """The objective for detectors: the sum of the losses that the model returns for images and boxes.

    `parts` has the individual losses of the last forward pass. VOC's difficult objects and COCO's crowd boxes are not
    used for training.

    Args:
        model: (images, targets) → losses by name in training, predictions in evaluation, as `dali_mix.models.Detector`.
        loss: None, since the model computes the losses.
    """

    def __init__(self, model: nn.Module, loss: None = None) -> None:
        super().__init__(model, loss)

    def check(self, mixer: Mixer | None) -> None:
        library = type(self.model).__module__.partition(".")[0]
        if library in ("dali_mix", "timm", "torchvision") and not isinstance(self.model, Detector):
            raise ValueError(f"objective Detection needs model detector, not {type(self.model).__name__}")

    def prepare(self, targets: Any, device: torch.device) -> Any:
        """Return the targets, one dict per image, on `device` and without difficult objects.

        All tensors are moved in one copy. `targets` are not changed.
        """
        names = ("boxes", "labels", "difficult")
        easy = [
            one | {name: one[name][~one["difficult"]] for name in names} if "difficult" in one else one
            for one in targets
        ]
        return boxes_to(easy, device)

    def forward(self, images: Tensor, targets: Any, mixed: Any = None, drawn: Any = None) -> Tensor:
        losses = self.run(images, targets)
        self.parts = {name: value.detach() for name, value in losses.items()}
        return torch.stack([in_float32(value) for value in losses.values()]).sum()


OBJECTIVES: dict[str, type[Objective]] = {
    "Plain": Objective,
    "MaskedSupervision": MaskedSupervision,
    "SpliceMixConsistency": SpliceMixConsistency,
    "Detection": Detection,
}


def is_summed(loss: object) -> bool:
    """Return True if `loss` has `reduction` "sum": it returns the sum over a batch's records instead of the mean."""
    return getattr(loss, "reduction", "mean") == "sum"


def counted(loss: object) -> Callable[[Tensor], Tensor] | None:
    """Return the method `counted` of `loss`: mixed targets → number of rows in the mean (see `dali_mix.losses`).

    Return None for a loss without this method, which averages over all rows, and for a loss that returns a sum.
    """
    return None if is_summed(loss) else getattr(loss, "counted", None)


def in_float32(outputs: Any) -> Any:
    """Return `outputs` with all tensors converted to float32, also in dicts, lists and tuples at any depth.

    Lists become tuples, and other mappings become dicts. Objects of all other types are returned unchanged.
    """
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, Mapping):
        return {name: in_float32(value) for name, value in outputs.items()}
    return tuple(map(in_float32, outputs)) if isinstance(outputs, (tuple, list)) else outputs


def logits_of(model: nn.Module, outputs: Any) -> Tensor:
    """Return a model's `outputs`, its logits, as float32. Raise ValueError if they are not a single tensor."""
    if not isinstance(outputs, Tensor):
        parts = f" of {len(outputs)}" if isinstance(outputs, Sized) else ""
        raise ValueError(
            f"model {type(model).__name__} returns a {type(outputs).__name__}{parts}, not a tensor of logits (B, K):"
            " return only logits in evaluation; in training, a function as loss may accept more"
        )
    return outputs.float()


class FunctionLoss(nn.Module):
    """A module that wraps a function (outputs, targets) → loss."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, outputs: Any, targets: Any) -> Tensor:
        return self.function(outputs, targets)


def loss_name(loss: Any) -> str:
    """Return the text that messages use for `loss`: "loss Class", or "loss module.function" for a `FunctionLoss`."""
    return f"loss {class_name(loss.function) if isinstance(loss, FunctionLoss) else type(loss).__name__}"


def check_loss(loss: Any, value: Any) -> Tensor:
    """Return `value`, the result of `loss`. Raise ValueError unless it is a scalar tensor of shape ()."""
    if not isinstance(value, Tensor) or value.ndim:
        what = f"tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else class_name(value)
        raise ValueError(f"{loss_name(loss)} returns a {what}, not a scalar tensor: return the mean over the batch")
    return value
