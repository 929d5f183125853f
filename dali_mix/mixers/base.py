"""The contract of a mixer: `sample` draws, `apply` changes pixels and targets by what was drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from dali_mix.mixers import checks

Params = TypeVar("Params")
Combine = Literal["area", "union"]
# By bytes a value: what only moves is handed to kernels as whole numbers of its size.
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class PasteParams:
    """What CutMix and ResizeMix draw: image i receives a box of image permutation[i].

    permutation: (B,) int64. boxes: (B,4) int64, top, left, height, width, inside the image. lam: (B,) float32, the
    share of image i that is kept, 1 - height · width / (H · W).
    """

    permutation: Tensor
    boxes: Tensor
    lam: Tensor


class Mixer(ABC, Generic[Params]):
    """Mixes the images of a batch, and their targets.

    A mixer does not change its input unless told to (`inplace`), keeps dtype, device and memory format of the images,
    lets gradients pass, and holds no state: the same params give the same batch. `combine` tells how targets combine:
    "area" (weighted by the share of pixels) or "union" (every label shown); `changes_targets` is False for one that
    returns them as they came.
    """

    combine: Combine = "area"
    changes_targets: bool = True
    num_classes: int | None = None

    @abstractmethod
    def sample(
        self,
        batch_size: int,
        height: int,
        width: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Params:
        """Draws the numbers for one batch of `height` × `width` images.

        Args:
            batch_size: B ≥ 0.
            generator: draws on its own device (None: torch's default CPU generator); the results are then copied to
                `device` without waiting.
            device: where the images are.
        """

    @abstractmethod
    def apply(self, images: Tensor, targets: Tensor, params: Params, *, inplace: bool = False) -> tuple[Tensor, Tensor]:
        """Mixes by `params`; draws nothing, and does not wait for a GPU.

        Args:
            images: (B,3,H,W) float32, float16, bfloat16 or uint8 (any number of channels).
            targets: (B,) class numbers, or (B,K) soft or multi-hot rows (-1 = ignore).
            params: as `sample` returned for this B, H and W, on the device of the images.
            inplace: change the images of the batch given, for who owns it; the same pixels to the bit. Targets are new
                in any case.

        Returns:
            new images (B,3,H,W), or with `inplace` those given; and targets (B,K) float32. More than B of both from a
            mixer that says so.

        Raises:
            ValueError: shapes or dtypes do not fit, or `inplace` with images that cannot be changed (see
                `check_inplace`) or a mixer that gives more of them.
        """

    def __call__(
        self,
        images: Tensor | Sequence[Any],
        targets: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        inplace: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Call `sample`, then `apply`: `mixer(images, targets)`, or `mixer((images, targets))` as a `DataLoader` gives.

        Args:
            images: as for `apply`; or a tuple or list of images and targets, and `targets` left out.
            generator: as for `sample`.

        Returns:
            images and targets as of `apply`, a tuple.

        Raises:
            ValueError: as `apply`; also no targets, or not a pair.
        """
        images, targets = _unpacked(images, targets)
        check_images(images)
        batch_size, _, height, width = images.shape
        params = self.sample(batch_size, height, width, generator, images.device)
        # A mixer by a third party may know nothing of the option.
        return self.apply(images, targets, params, **({"inplace": True} if inplace else {}))

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({options})"


def _unpacked(images: Any, targets: Any) -> tuple[Tensor, Tensor]:
    if targets is not None:
        return images, targets
    if isinstance(images, (tuple, list)) and len(images) == 2:
        return images[0], images[1]
    given = f"{len(images)} values" if isinstance(images, (tuple, list)) else f"a {type(images).__name__}"
    raise ValueError(f"{given} and no targets: call mixer(images, targets), or mixer((images, targets))")


def check_size(batch_size: int, height: int, width: int) -> None:
    """Raises ValueError for a size no batch of images has."""
    if batch_size < 0 or height < 1 or width < 1:
        raise ValueError(f"cannot mix {batch_size} images of {height}×{width} pixels")


def check_images(images: Tensor) -> None:
    """Raises ValueError where `images` is no (B,C,H,W) batch of pixels."""
    if not isinstance(images, Tensor):
        raise ValueError(f"images are a {type(images).__name__}: a mixer takes a tensor (B,C,H,W)")
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}: a mixer takes (B,C,H,W)")
    if images.is_complex() or images.dtype == torch.bool:
        raise ValueError(f"images are {images.dtype}: a mixer takes pixels, uint8 or floating-point")


def check_batch(images: Tensor, targets: Tensor, drawn_for: int) -> None:
    """Raises ValueError where images, targets and params are not of the same number of samples."""
    check_images(images)
    if not isinstance(targets, Tensor) or not targets.ndim:
        kind = "a single number" if isinstance(targets, Tensor) else f"a {type(targets).__name__}"
        raise ValueError(f"targets are {kind}: a mixer takes a tensor, (B,) class numbers or (B,K) rows")
    if not images.shape[0] == targets.shape[0] == drawn_for:
        raise ValueError(
            f"{images.shape[0]} images, {targets.shape[0]} targets and params drawn for {drawn_for} do not fit together"
        )


def check_inplace(images: Tensor) -> None:
    """Raise ValueError where the values of `images` cannot be changed, each by itself, without anyone else's notice.

    They require gradients, are inference tensors outside of inference mode, or some share memory, as after `expand`.
    """
    if images.requires_grad:
        raise ValueError("images that require gradients cannot be mixed in place: leave inplace=False, or detach them")
    if not torch.compiler.is_compiling() and images.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError("inference tensors cannot be mixed in place outside of inference mode: leave inplace=False")
    reach = 1  # one past the last value of the dimensions seen so far, the innermost first
    for stride, size in sorted(zip(images.stride(), images.shape, strict=True)) if images.numel() else ():
        if size > 1:
            if stride < reach:
                raise ValueError(
                    f"images of shape {tuple(images.shape)}, strides {images.stride()}, share memory, as after expand, "
                    "and cannot be mixed in place: leave inplace=False, or clone them"
                )
            reach += (size - 1) * stride


def memory_format(images: Tensor) -> torch.memory_format:
    """torch.channels_last where `images` are that and not contiguous as well, else torch.contiguous_format."""
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def keep_format(mixed: Tensor, images: Tensor) -> Tensor:
    """`mixed` in the memory format of `images`, contiguous or channels_last."""
    return mixed.contiguous(memory_format=memory_format(images))


def empty_like_batch(images: Tensor, count: int) -> Tensor:
    """Room for `count` images as `images` are: (count,C,H,W), not filled, same dtype, device and memory format."""
    shape = (count, *images.shape[1:])
    return torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=memory_format(images))


def per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """(C,1,1) float32 on `device`, written there: a CUDA graph would read a copy from the host's memory anew."""
    return torch.stack([torch.full((1, 1), value, dtype=torch.float32, device=device) for value in values])


def plain_pixels(images: Tensor, dtypes: Sequence[torch.dtype] | None) -> bool:
    """Whether kernels of ours may read the memory of `images`: dense, no gradients wanted, not being traced.

    dtypes: those allowed; None for any of 1, 2, 4 or 8 bytes.
    """
    return (
        not torch.compiler.is_compiling()
        and type(images) in (Tensor, torch.nn.Parameter)
        and not (images.requires_grad and torch.is_grad_enabled())
        and (images.is_contiguous() or images.is_contiguous(memory_format=torch.channels_last))
        and (images.element_size() in INTEGERS if dtypes is None else images.dtype in dtypes)
        and not (images.is_conj() or images.is_neg())
    )


def check_alpha(alpha: float) -> None:
    """Raises ValueError where `alpha` is no parameter of a Beta distribution."""
    if not 0 < checks.number("alpha", alpha) < float("inf"):
        raise ValueError(f"alpha={alpha}: a Beta distribution needs alpha > 0 (leave the mixer out to mix nothing)")


def check_num_classes(num_classes: int | None) -> None:
    """Raises ValueError where `num_classes` is given and no whole number of at least 1."""
    if num_classes is not None:
        checks.whole("num_classes", num_classes, 1)
