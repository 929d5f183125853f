"""ResizeMix: a whole image, shrunk, pasted into another (arXiv 2012.11101)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dali_mix.mixers import boxes as box_ops
from dali_mix.mixers import random
from dali_mix.mixers.base import Mixer, PasteParams, check_batch, check_num_classes, check_size, keep_format
from dali_mix.mixers.targets import mix_area, to_soft

Interpolation = Literal["nearest", "bilinear"]


class ResizeMix(Mixer[PasteParams]):
    """Resizes a partner image to a share of each side, pastes it whole, and mixes targets by the area pasted.

    τ ~ U(scale); the partner is resized to ⌊τH⌋ × ⌊τW⌋ (at least one pixel); the box lies around a uniformly drawn
    pixel and is shifted to lie fully inside, so that no part of the object is lost; lam = 1 - ⌊τH⌋⌊τW⌋ / (HW).

    Args:
        num_classes: K; None where targets are always (B,K).
        scale: lowest and highest τ, 0 < low ≤ high ≤ 1; the paper uses .1 and .8.
        interpolation: "nearest", as released: pixel d of n comes from pixel ⌊d · (N / n)⌋, N the side of the image, in
            float32 (torch's `interpolate(mode="nearest")`); or "bilinear", antialiased (`antialias=True` there).
        per_batch: one τ for the whole batch (centres stay per image), as released; by default every image has its own.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        num_classes: int | None,
        scale: tuple[float, float] = (0.1, 0.8),
        interpolation: Interpolation = "nearest",
        per_batch: bool = False,
    ) -> None:
        check_num_classes(num_classes)
        if not isinstance(scale, (list, tuple)) or len(scale) != 2:
            raise ValueError(f"scale={scale!r}: needs two numbers, 0 < low ≤ high ≤ 1")
        low, high = scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"scale={tuple(scale)}: needs 0 < low ≤ high ≤ 1")
        if interpolation not in ("nearest", "bilinear"):
            raise ValueError(f"interpolation={interpolation!r}: must be 'nearest' or 'bilinear'")
        self.num_classes = num_classes
        self.scale = (low, high)
        self.interpolation = interpolation
        self.per_batch = per_batch

    def sample(
        self,
        batch_size: int,
        height: int,
        width: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> PasteParams:
        check_size(batch_size, height, width)
        tau = random.uniform(1 if self.per_batch else batch_size, generator, *self.scale)
        tau = random.per_sample(tau, batch_size)
        centre_y = random.pixels(batch_size, height, generator)
        centre_x = random.pixels(batch_size, width, generator)
        box_h, box_w = (tau * height).long().clamp_min(1), (tau * width).long().clamp_min(1)
        boxes = box_ops.shifted_inside(centre_y, centre_x, box_h, box_w, height, width)
        return PasteParams(
            permutation=random.permutation(batch_size, generator).to(device, non_blocking=True),
            boxes=boxes.to(device, non_blocking=True),
            lam=box_ops.kept_share(boxes, height, width).to(device, non_blocking=True),
        )

    def apply(self, images: Tensor, targets: Tensor, params: PasteParams) -> tuple[Tensor, Tensor]:
        check_batch(images, targets, len(params.lam))
        mixed_targets = mix_area(to_soft(targets, self.num_classes), params.permutation, params.lam)
        if images.device.type == "cpu":
            return _paste_resized_slices(images, params, self.interpolation), mixed_targets
        paste = _paste_nearest if self.interpolation == "nearest" else _paste_bilinear
        return paste(images, params), mixed_targets


def _paste_resized_slices(images: Tensor, params: PasteParams, interpolation: Interpolation) -> Tensor:
    mixed = images.clone()
    for i, (source, (top, left, height, width)) in enumerate(
        zip(params.permutation.tolist(), params.boxes.tolist(), strict=True)
    ):
        whole = images[source : source + 1]
        if interpolation == "nearest":
            small = F.interpolate(whole, (height, width), mode="nearest")
        else:
            small = F.interpolate(whole.float(), (height, width), mode="bilinear", antialias=True)
        mixed[i, :, top : top + height, left : left + width] = _as_pixels(small[0], images.dtype)
    return mixed


def _as_pixels(values: Tensor, dtype: torch.dtype) -> Tensor:
    if values.dtype == dtype:
        return values
    return values.to(dtype) if dtype.is_floating_point else values.round().to(dtype)


def _paste_nearest(images: Tensor, params: PasteParams) -> Tensor:
    """As `_paste_resized_slices`, in one gather for all images and without a look at the boxes from the host."""
    batch_size, _, height, width = images.shape
    itself = torch.arange(batch_size, device=images.device)
    rows = torch.arange(height, device=images.device)
    cols = torch.arange(width, device=images.device)
    top, left, box_h, box_w = params.boxes[:, :, None].unbind(1)
    pasted = box_ops.inside(params.boxes, height, width)
    from_image = torch.where(pasted, params.permutation[:, None, None], itself[:, None, None])
    from_row = torch.where(pasted, _nearest(rows - top, box_h, height)[:, :, None], rows[:, None])
    from_col = torch.where(pasted, _nearest(cols - left, box_w, width)[:, None, :], cols)
    mixed_bhwc = images.permute(0, 2, 3, 1)[from_image, from_row, from_col]
    return keep_format(mixed_bhwc.permute(0, 3, 1, 2), images)


def _nearest(pixel: Tensor, size: Tensor, full: int) -> Tensor:
    # In float32, as torch's interpolate does: now and then that is one below the integer quotient pixel * full // size.
    return (pixel.float() * (torch.full_like(size, full).float() / size.float())).floor().long()


def _paste_bilinear(images: Tensor, params: PasteParams) -> Tensor:
    """The antialiased resize as two matrix products an image: rows, then columns, each with its own weights."""
    height, width = images.shape[2:]
    top, left, box_h, box_w = params.boxes.unbind(1)
    rows = _triangle_weights(top, box_h, height)
    cols = _triangle_weights(left, box_w, width)
    whole = images[params.permutation].float()
    resized = _as_pixels(rows[:, None] @ whole @ cols[:, None].mT, images.dtype)
    return keep_format(torch.where(box_ops.inside(params.boxes, height, width)[:, None], resized, images), images)


def _triangle_weights(start: Tensor, size: Tensor, full: int) -> Tensor:
    """(B, full, full) float32: row start + d holds the weights that make pixel d of `size` from `full` pixels."""
    position = torch.arange(full, device=start.device)
    scale = (full / size.double())[:, None, None]
    centre = (position[None, :, None] - start[:, None, None] + 0.5) * scale
    weights = (1 - ((position + 0.5 - centre) / scale).abs()).clamp_min(0)
    # Rows outside the box may weigh nothing at all; they are not used.
    return (weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)).float()
