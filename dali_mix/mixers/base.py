"""The mixer interface: `sample` draws random params, `apply` mixes pixels and targets with them.

    generator ── draw ──▶ numbers on the generator's device ── sample ──▶ params, on the images' device
    images, targets, params ── apply ──▶ mixed images and targets

All randomness is in `sample`. The host may wait for a GPU in `sample` and `describe`, but not in `apply`. `apply` is a
pure function: the same params give the same pixels on every device, up to rounding where pixels are averaged, so a mix
can be repeated, described and tested.

More than 300 lines: the interface and everything that mixers inherit from it (`prob`, devices, checks) belong together.
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from dali_mix import _factories
from dali_mix.mixers.description import MixedImage, pasted
from dali_mix.mixers.ops import draws
from dali_mix.mixers.ops.paste import check_inplace
from dali_mix.mixers.ops.targets import Combine, to_soft
from dali_mix.options import flag, number, whole

Params = TypeVar("Params")
_Sample = TypeVar("_Sample", bound=Callable[..., Any])


@dataclass(frozen=True)
class PasteParams:
    """Params of CutMix and ResizeMix: a box of image i is filled from image permutation[i].

    Attributes:
        permutation: (B,) int64.
        boxes: (B,4) int64, top, left, height, width, inside the image.
        lam: (B,) float32, the share of image i that is kept, 1 - height · width / (H · W).
    """

    permutation: Tensor
    boxes: Tensor
    lam: Tensor


@dataclass(frozen=True)
class Unmixed:
    """Params of a batch that a mixer with `prob` below 1 leaves unmixed.

    Attributes:
        batch_size: B.
    """

    batch_size: int


class Sampler(ABC, Generic[Params]):
    """Base class for objects that draw random params for a batch. A subclass overrides `draw`, or `sample` itself.

    Attributes:
        takes_boxes: True to keep params on the CPU, where boxes always are.
    """

    takes_boxes: bool = False

    def sample(
        self,
        batch_size: int,
        height: int,
        width: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Params:
        """Draw the params for one batch of `height` × `width` images.

        Args:
            batch_size: B ≥ 0.
            generator: random generator (None: torch's default CPU generator). Params are drawn on its device, then
                moved to `device`; copies to a GPU do not synchronize.
            device: device of the images.

        Returns:
            the params, on `device`, or on the CPU if `takes_boxes`.

        Raises:
            ValueError: a negative batch size, or a height or width below 1.
        """
        check_size(batch_size, height, width)
        # Boxes are always on the CPU, and `apply` reads the params of box mixers there.
        return on_device(self.draw(batch_size, height, width, generator), "cpu" if self.takes_boxes else device)

    def draw(self, batch_size: int, height: int, width: int, generator: torch.Generator | None) -> Params:
        """Draw and return params on the generator's device; `sample` checks the arguments and moves the params."""
        raise NotImplementedError(f"{type(self).__name__} has neither a method sample nor draw")


def _sample_with_prob(sample: _Sample) -> _Sample:
    @functools.wraps(sample)
    def drawn(self, batch_size, height, width, generator=None, *args, **options):
        # An override that calls super().sample() must not draw twice.
        if self._prob < 1 and type(self).sample is drawn:
            check_size(batch_size, height, width)
            if float(draws.uniform(1, generator)) >= self._prob:
                return Unmixed(batch_size)
        return sample(self, batch_size, height, width, generator, *args, **options)

    return drawn  # type: ignore[return-value]


class Mixer(Sampler[Params]):
    """Base class of mixers, which mix the images of a batch and their targets.

    A mixer does not modify its input unless `inplace=True`. It keeps the dtype, device and memory format of the images,
    and propagates gradients. It has no state: the same input and params give the same output.

    With probability 1 - `prob`, a batch is left unmixed. Its images are then unchanged; if `num_classes` is known, its
    targets are (B,K), as for mixed batches. If `prob` is below 1, one number per batch is drawn on the generator's
    device, and the host waits for it. The draws equal those of `MixChoice([mixer], probs=[prob])`.

    A subclass passes `prob` to `super().__init__`. If the constructor of a subclass does not accept `prob`,
    `registry.build(name, prob=...)` sets it afterwards.

    Attributes:
        combine: how targets are combined, "area" (weighted by the share of pixels) or "union" (every visible label).
        changes_targets: False if targets are returned unchanged.
        in_place: True if `apply` accepts `inplace=True`.
        takes_boxes: True if targets are lists of dicts with boxes (see `mixers.boxes`).
        num_classes: K; None if unknown, or if targets are always (B,K).
    """

    combine: Combine = "area"
    changes_targets: bool = True
    in_place: bool = False
    num_classes: int | None = None
    _prob: float = 1.0

    def __init__(self, prob: float = 1.0) -> None:
        self.set_prob(prob)

    def __init_subclass__(cls, **options: Any) -> None:
        # Wrap the methods here, so that subclasses can override them without handling `prob`.
        super().__init_subclass__(**options)
        wrappers: dict[str, Callable[[Any], Any]] = {
            "sample": _sample_with_prob,
            "apply": _apply_with_prob,
            "describe": _describe_with_prob,
        }
        for name, with_prob in wrappers.items():
            if name in vars(cls):
                setattr(cls, name, with_prob(vars(cls)[name]))
        if "apply" in vars(cls) and "inplace" not in _factories.parameters(cls.apply):
            cls.in_place = False

    @property
    def mixes_every_batch(self) -> bool:
        """Return True if `prob` is 1."""
        return self._prob == 1

    def set_prob(self, prob: float) -> None:
        """Set the probability that a batch is mixed. Raise ValueError unless it is a number from 0 to 1."""
        self._prob = number("prob", prob, 0, 1)

    sample = _sample_with_prob(Sampler.sample)  # wrapped as `__init_subclass__` does for subclasses

    @abstractmethod
    def apply(self, images: Tensor, targets: Tensor, params: Params, *, inplace: bool = False) -> tuple[Tensor, Tensor]:
        """Mix images and targets with `params`, without random draws and without waiting for a GPU.

        Args:
            images: (B,C,H,W) uint8 or floating-point, usually with three channels.
            targets: (B,) class indices, or (B,K) soft or multi-hot rows (-1 = ignore); never modified.
            params: the result of `sample` for this B, H and W, on the device of the images (on the CPU if
                `takes_boxes`).
            inplace: modify `images` itself, for a caller that owns it; the pixels are bit-identical.

        Returns:
            images and targets. Images are new, (B,C,H,W), or `images` itself with `inplace` or if the batch is left
            unmixed. Targets are (B,K) float32, or a list of dicts if `takes_boxes`. They are `targets` itself if
            `changes_targets` is False, or if the batch is left unmixed and `num_classes` is None. Mixers that return
            more than B images and targets say so in their docstrings.

        Raises:
            ValueError: wrong shapes or dtypes, or `inplace` with images that cannot be modified (see `check_inplace`)
                or with a mixer that returns more images.
        """

    def describe(self, images: Tensor, params: Params) -> list[MixedImage]:
        """Describe the result of `apply` on `images` with `params`, one entry per returned image.

        Galleries use it for outlines and captions. The base class describes `PasteParams`; for other params, an entry
        contains only the image's index.
        """
        if isinstance(params, PasteParams):
            return pasted(params.permutation, params.lam, params.boxes)
        return [MixedImage(own) for own in range(len(images))]

    def __call__(
        self,
        images: Tensor | Sequence[Any],
        targets: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        inplace: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Call `sample`, then `apply`: `mixer(images, targets)`, or `mixer(batch)` with a batch from a `DataLoader`.

        Args:
            images: as for `apply`; or, without `targets`, a tuple or list of images and targets.
            targets, inplace: as for `apply`.
            generator: as for `sample`.

        Returns:
            a tuple of images and targets, as from `apply`.

        Raises:
            ValueError: as for `apply`; also for missing targets, or a batch that is not a pair.
        """
        images, targets = _unpacked(images, targets)
        check_images(images)
        batch_size, _, height, width = images.shape
        params = self.sample(batch_size, height, width, generator, images.device)
        return self.apply(images, targets, params, inplace=inplace)

    def __repr__(self) -> str:
        options = {name: getattr(self, name) for name in _factories.parameters(type(self)) if hasattr(self, name)}
        if not self.mixes_every_batch:
            options["prob"] = self._prob
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in options.items())})"


def _apply_with_prob(apply: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(apply)
    def applied(self: Mixer[Any], images: Tensor, targets: Tensor, params: Any, **options: Any) -> Any:
        if isinstance(params, Unmixed):
            return unmixed(self, images, targets, params.batch_size, **options)
        if not options.get("inplace", True):  # a third-party mixer may not accept it
            del options["inplace"]
        return apply(self, images, targets, params, **options)

    # Give every wrapper its own code object. Otherwise all mixers would share one, and torch.compile limits the
    # recompilations of a code object.
    applied.__code__ = applied.__code__.replace(co_name=apply.__qualname__)  # type: ignore[attr-defined]
    return applied


def _describe_with_prob(describe: Callable[..., list[MixedImage]]) -> Callable[..., list[MixedImage]]:
    @functools.wraps(describe)
    def described(self: Mixer[Any], images: Tensor, params: Any) -> list[MixedImage]:
        return (Mixer.describe if isinstance(params, Unmixed) else describe)(self, images, params)

    return described


def unmixed(
    mixer: Mixer[Any], images: Tensor, targets: Tensor, batch_size: int, *, inplace: bool = False
) -> tuple[Tensor, Tensor]:
    """Return a batch that `mixer` leaves unmixed: `images` itself, and targets in the mixer's output format.

    Targets become (B,K) if the mixer's `num_classes` is known; boxes are returned unchanged. `batch_size` is the B that
    the params were drawn for.

    Raise ValueError for `inplace` with images that fail `check_inplace`, and for images and targets that fail
    `check_batch` or, if `num_classes` is known, `to_soft`. If the mixer takes boxes, only `inplace` is checked.
    """
    if not mixer.takes_boxes:
        check_batch(images, targets, batch_size)
    if inplace:
        check_inplace(images)
    return images, targets if mixer.takes_boxes or mixer.num_classes is None else to_soft(targets, mixer.num_classes)


def _unpacked(images: Any, targets: Any) -> tuple[Tensor, Tensor]:
    if targets is not None:
        return images, targets
    if isinstance(images, (tuple, list)) and len(images) == 2:
        return images[0], images[1]
    given = f"{len(images)} values" if isinstance(images, (tuple, list)) else f"a {type(images).__name__}"
    raise ValueError(f"{given} and no targets: call mixer(images, targets), or mixer((images, targets))")


def check_size(batch_size: int, height: int, width: int) -> None:
    """Raise ValueError if `batch_size` is negative, or if `height` or `width` is below 1."""
    if batch_size < 0 or height < 1 or width < 1:
        raise ValueError(f"cannot mix {batch_size} images of {height}×{width} pixels")


def check_images(images: Tensor) -> None:
    """Raise ValueError unless `images` is a tensor (B,C,H,W) of a dtype that is neither bool nor complex."""
    if not isinstance(images, Tensor):
        raise ValueError(f"images are a {type(images).__name__}: a mixer takes a tensor (B,C,H,W)")
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}: a mixer takes (B,C,H,W)")
    if images.is_complex() or images.dtype == torch.bool:
        raise ValueError(f"images are {images.dtype}: a mixer takes pixels, uint8 or floating-point")


def check_batch(images: Tensor, targets: Tensor, drawn_for: int) -> None:
    """Raise ValueError unless `images` passes `check_images` and images and targets have `drawn_for` samples each.

    `drawn_for` is the B that the params were drawn for. `targets` must be a tensor of at least one dimension.
    """
    check_images(images)
    if not isinstance(targets, Tensor) or not targets.ndim:
        kind = "a single number" if isinstance(targets, Tensor) else f"a {type(targets).__name__}"
        raise ValueError(f"targets are {kind}: a mixer takes a tensor, (B,) class indices or (B,K) rows")
    if not images.shape[0] == targets.shape[0] == drawn_for:
        raise ValueError(
            f"{images.shape[0]} images, {targets.shape[0]} targets and params drawn for {drawn_for} do not fit together"
        )


def on_device(params: Any, device: torch.device | str) -> Any:
    """Return `params` with their tensors on `device`, including those in nested dataclasses, tuples, lists and dicts.

    Copies to a GPU do not synchronize.
    """
    if isinstance(params, Tensor):
        return params.to(device, non_blocking=True)
    if isinstance(params, (tuple, list)):
        parts = [on_device(part, device) for part in params]
        return type(params)(*parts) if hasattr(params, "_fields") else type(params)(parts)  # a NamedTuple
    if isinstance(params, dict):
        return {key: on_device(part, device) for key, part in params.items()}
    if is_dataclass(params) and not isinstance(params, type):
        moved = copy.copy(params)  # `replace` refuses fields with init=False
        for part in fields(params):
            object.__setattr__(moved, part.name, on_device(getattr(params, part.name), device))
        return moved
    return params


def check_scale(scale: Sequence[float]) -> tuple[float, float]:
    """Return `scale` as a tuple; raise ValueError unless it is two numbers, 0 < low ≤ high ≤ 1."""
    if not isinstance(scale, (list, tuple)) or len(scale) != 2:
        raise ValueError(f"scale={scale!r}: needs two numbers, 0 < low ≤ high ≤ 1")
    low, high = (number("scale", end) for end in scale)
    if not 0 < low <= high <= 1:
        raise ValueError(f"scale={tuple(scale)}: needs 0 < low ≤ high ≤ 1")
    return low, high


def class_count(num_classes: int | None) -> int | None:
    """Return `num_classes`; raise ValueError unless it is None or an integer of at least 1."""
    return None if num_classes is None else whole("num_classes", num_classes, 1)


class BetaMixer(Mixer[Params]):
    """Base class of mixers of image pairs with λ ~ Beta(alpha, alpha), drawn per image or once per batch."""

    in_place = True

    def __init__(
        self, num_classes: int | None, alpha: float = 1.0, per_batch: bool = False, *, prob: float = 1.0
    ) -> None:
        super().__init__(prob)
        if not 0 < number("alpha", alpha) < float("inf"):
            raise ValueError(f"alpha={alpha}: a Beta distribution needs alpha > 0 (to mix nothing, omit the mixer)")
        self.num_classes = class_count(num_classes)
        self.alpha = alpha
        self.per_batch = flag("per_batch", per_batch)
