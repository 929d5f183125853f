"""MixChoice: apply one of several mixers, or none, to each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dali_mix.mixers.base import Mixer, check_size, unmixed
from dali_mix.mixers.description import MixedImage
from dali_mix.mixers.ops import draws
from dali_mix.mixers.ops.targets import to_soft
from dali_mix.options import number


@dataclass(frozen=True)
class ChoiceParams:
    """Params of MixChoice.

    Attributes:
        index: index of the chosen mixer, -1 for none.
        params: params of the chosen mixer, None if `index` is -1.
        batch_size: B.
    """

    index: int
    params: Any
    batch_size: int


class MixChoice(Mixer[ChoiceParams]):
    """Draw one of `mixers` for each batch; with the remaining probability, 1 - sum(probs), the batch is left unmixed.

    `MixChoice([CutMix(10, per_batch=True)], probs=[0.5])` is the published CIFAR protocol of CutMix.

    If one of the mixers knows the number of classes, class indices are always converted to (B,K), even for unmixed
    batches, so the loss always gets the same kind of target.

    The host reads which mixer was drawn. With a CUDA generator, this synchronizes once per batch; with a CPU generator,
    such as the default one, it does not.

    Args:
        mixers: at least one. All must have the same `combine` and `takes_boxes`, and the same `num_classes` or None.
        probs: one probability per mixer, ≥ 0, summing to at most 1.
        prob: probability that a batch is mixed; see `Mixer`.

    Raises:
        ValueError: no mixers, invalid probs, or mixers that differ in `combine`, `takes_boxes` or number of classes.
    """

    def __init__(self, mixers: Sequence[Mixer[Any]], probs: Sequence[float], *, prob: float = 1.0) -> None:
        super().__init__(prob)
        if not all(isinstance(values, (list, tuple)) for values in (mixers, probs)):
            raise ValueError(f"MixChoice takes lists of mixers and of probabilities, not {mixers!r} and {probs!r}")
        for mixer in mixers:
            if not isinstance(mixer, Mixer):
                raise ValueError(f"MixChoice takes mixers, not {mixer!r}")
        if not mixers or len(mixers) != len(probs):
            raise ValueError(f"MixChoice needs one probability per mixer: {len(mixers)} mixers, {len(probs)} probs")
        self.probs = tuple(number("probs", share, 0, 1) for share in probs)
        if sum(self.probs) > 1 + 1e-9:
            raise ValueError(f"probs={list(probs)}: must sum to at most 1 (the rest is left unmixed)")
        if len({mixer.combine for mixer in mixers}) > 1:
            ways = ", ".join(f"{type(mixer).__name__}: {mixer.combine}" for mixer in mixers)
            raise ValueError(f"MixChoice cannot combine mixers that mix targets in different ways ({ways})")
        known = {mixer.num_classes for mixer in mixers if mixer.num_classes is not None}
        if len(known) > 1:
            raise ValueError(f"the mixers of a MixChoice were made for different num_classes: {sorted(known)}")
        self.mixers = tuple(mixers)
        self.num_classes = known.pop() if known else None
        self.combine = mixers[0].combine
        self.changes_targets = any(mixer.changes_targets for mixer in mixers)
        if len({mixer.takes_boxes for mixer in mixers}) > 1:
            raise ValueError("MixChoice cannot combine mixers for boxes with other mixers")
        self.takes_boxes = mixers[0].takes_boxes
        self.in_place = all(mixer.in_place for mixer in mixers)

    def sample(
        self,
        batch_size: int,
        height: int,
        width: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> ChoiceParams:
        check_size(batch_size, height, width)
        draw = float(draws.uniform(1, generator))
        reached = 0.0
        for index, share in enumerate(self.probs):
            reached += share
            if draw < reached:
                params = self.mixers[index].sample(batch_size, height, width, generator, device)
                return ChoiceParams(index, params, batch_size)
        return ChoiceParams(-1, None, batch_size)

    def apply(
        self, images: Tensor, targets: Tensor, params: ChoiceParams, *, inplace: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Apply the chosen mixer. If none was chosen, return the images without a copy. See `Mixer.apply`."""
        if params.index < 0:
            return unmixed(self, images, targets, params.batch_size, inplace=inplace)
        images, targets = self.mixers[params.index].apply(images, targets, params.params, inplace=inplace)
        return images, targets if self.num_classes is None else to_soft(targets, self.num_classes)

    def describe(self, images: Tensor, params: ChoiceParams) -> list[MixedImage]:
        if params.index < 0:
            return super().describe(images, params)
        return self.mixers[params.index].describe(images, params.params)
