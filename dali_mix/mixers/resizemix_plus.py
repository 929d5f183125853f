"""ResizeMix+: ResizeMix, then several RandAugment views of the mixed batch (arXiv 2012.11101)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dali_mix.mixers import checks
from dali_mix.mixers.base import Mixer, PasteParams
from dali_mix.mixers.description import MixedImage, pasted
from dali_mix.mixers.layout import empty_like_batch, per_channel
from dali_mix.mixers.ops import draws
from dali_mix.mixers.ops.paste import Interpolation
from dali_mix.mixers.resizemix import ResizeMix
from dali_mix.options import number, whole

_SEEDS = 1 << 62


@dataclass(frozen=True)
class ResizeMixPlusParams:
    """Params of ResizeMixPlus.

    Attributes:
        paste: params of ResizeMix.
        views: for each view, the operations of kornia's RandAugment in order, with their parameters. Each is a kornia
            ParamItem with a few numbers per image, on the CPU.
    """

    paste: PasteParams
    views: tuple[list[Any], ...]


class ResizeMixPlus(Mixer[ResizeMixPlusParams]):
    """Apply ResizeMix, then RandAugment `views` times independently, and concatenate the results to views · B images.

    RandAugment (arXiv 1909.13719) is kornia's, in float32 on the images' device. Each view uses `num_ops` different
    operations out of fifteen; they are drawn per view, not per image. Magnitude m sets the strength of each operation
    to m / 30 of its range. At magnitude 14:

    - Rotate: 14°; shear: 25.2°; shift: 4.7% of the side. The direction is drawn per image, and uncovered areas are 0
      (black).
    - Colour, contrast, brightness, sharpness: factor 0.94, from a range of 0.1 to 1.9 where 1 is no change.
    - Posterize: 6 bits per colour.
    - Solarize: values from 0.47 up are inverted.
    - Solarize-add: 0.2 is added, then values at or above a threshold drawn per image from 0..1 are inverted. Other
      libraries add only to values below 0.5, and invert none.
    - Equalize, autocontrast and invert have no magnitude.

    Images are converted to 0..1 and back: uint8 by a factor of 255, floats by `mean` and `std`. Values outside 0..1 are
    clamped.

    Args:
        num_classes: K; None if targets are always (B,K).
        scale, interpolation, per_batch: as in `ResizeMix`.
        num_ops: operations per view, 1 to 15; the paper uses 2.
        magnitude: above 0 and below 30; the paper uses 14.
        views: at least 1; the paper uses 2.
        mean, std: normalization of float images, one number per channel in 0..1 units: x = (image - mean) / std.
            None: float images are 0..1. uint8 images need neither.
        prob: probability that a batch is mixed; see `Mixer`.

    Raises:
        ValueError: an argument out of range, or only one of mean and std.
    """

    def __init__(
        self,
        num_classes: int | None,
        scale: tuple[float, float] = (0.1, 0.8),
        interpolation: Interpolation = "nearest",
        per_batch: bool = False,
        num_ops: int = 2,
        magnitude: int = 14,
        views: int = 2,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob)
        # This import takes a third of a second, so only users of this mixer pay for it.
        from kornia.augmentation.auto import RandAugment

        self._resizemix = ResizeMix(num_classes, scale, interpolation, per_batch)
        if not 0 < number("magnitude", magnitude) < 30:
            raise ValueError(f"magnitude={magnitude}: must be above 0 and below 30")
        self.num_classes = self._resizemix.num_classes
        self.scale, self.interpolation, self.per_batch = self._resizemix.scale, interpolation, per_batch
        self.num_ops, self.magnitude, self.views = whole("num_ops", num_ops, 1, 15), magnitude, whole("views", views, 1)
        means, stds = checks.mean_and_std(mean, std)
        self.mean, self.std = means, stds
        self._statistics = (means or (0.0,) * 3, stds or (1.0,) * 3)
        self._augment = RandAugment(n=num_ops, m=magnitude, transformation_matrix_mode="skip")

    def draw(self, batch_size: int, height: int, width: int, generator: torch.Generator | None) -> ResizeMixPlusParams:
        """Draw the paste and the views; see `Mixer.draw`.

        kornia draws on the host from torch's default generator, which is seeded with numbers drawn from `generator` and
        then restored. If `generator` is on a GPU, this synchronizes once.
        """
        paste = self._resizemix.draw(batch_size, height, width, generator)
        seeds = torch.randint(_SEEDS, (self.views,), generator=generator, device=draws.device_of(generator)).tolist()
        views = []
        # kornia draws from torch's default generator, whose state is restored afterwards.
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.default_generator.manual_seed(seed)
                views.append(self._augment.forward_parameters(torch.Size((batch_size, 3, height, width))))
        return ResizeMixPlusParams(paste, tuple(views))

    def apply(
        self, images: Tensor, targets: Tensor, params: ResizeMixPlusParams, *, inplace: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return (views·B,3,H,W) and (views·B,K): the images of the first view, then of the next. See `Mixer.apply`.

        Raises:
            ValueError: as for `Mixer.apply`; also for `inplace`, for images that are not RGB or have a side below 3
                pixels (the minimum for sharpening), and for float images outside 0..1 if mean and std are None (checked
                on a CPU only).
        """
        if inplace:
            raise ValueError("ResizeMixPlus returns a larger batch and cannot work in place: leave inplace=False")
        mixed, mixed_targets = self._resizemix.apply(images, targets, params.paste)
        if images.shape[1] != 3 or min(images.shape[2:]) < 3:
            raise ValueError(f"images are {tuple(images.shape)}: RandAugment takes (B,3,H,W) with sides of at least 3")
        self._check_range(images)
        batch_size = len(images)
        out = empty_like_batch(images, len(params.views) * batch_size)
        unit = self._to_unit(mixed)
        for index, view in enumerate(params.views):
            if batch_size:
                augmented = self._augment(unit, params=view)
                out[index * batch_size : (index + 1) * batch_size] = self._from_unit(augmented, images.dtype)
        return out, mixed_targets.repeat(len(params.views), 1)

    def describe(self, images: Tensor, params: ResizeMixPlusParams) -> list[MixedImage]:
        # RandAugment has moved the pixels, so boxes are no longer valid.
        return pasted(params.paste.permutation, params.paste.lam) * len(params.views)

    def _check_range(self, images: Tensor) -> None:
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise ValueError(f"images are {images.dtype}: ResizeMixPlus takes uint8, or floating-point")
        # Checked on a CPU only; on a GPU the check would synchronize.
        if images.dtype == torch.uint8 or self.mean is not None or images.device.type != "cpu" or not len(images):
            return
        low, high = (float(end) for end in images.detach().aminmax())
        if low < 0 or high > 1:
            raise ValueError(
                f"images span {low:.3g} … {high:.3g}, and RandAugment needs 0..1: pass ResizeMixPlus the mean and std "
                "they were normalized with (0..1 units)"
            )

    def _to_unit(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            return images.float() / 255
        mean, std = (per_channel(values, images.device) for values in self._statistics)
        return (images.float() * std + mean).clamp(0, 1)

    def _from_unit(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        if dtype == torch.uint8:
            return (images * 255).round()
        mean, std = (per_channel(values, images.device) for values in self._statistics)
        return (images - mean) / std
