"""Descriptions of mixed images, for captions and outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class MixedImage:
    """One image that a mixer returned.

    Attributes:
        own: index of the image in the batch; None for an image tiled from several images.
        partner: index of the image mixed in; None if there is not exactly one.
        lam: share of the image's own targets; None if targets are not mixed pairwise.
        boxes: top, left, height, width of pasted, erased or tiled areas, in pixels.
        peak: row and column of the pixel the box is centred on, for SaliencyMix.
        note: a short remark, such as the grid.
    """

    own: int | None
    partner: int | None = None
    lam: float | None = None
    boxes: tuple[Box, ...] = ()
    peak: tuple[int, int] | None = None
    note: str = ""


def pasted(
    permutation: Tensor, lam: Tensor, boxes: Tensor | None = None, peaks: Sequence[tuple[int, int]] | None = None
) -> list[MixedImage]:
    """Return a description of each image of a batch whose images were each mixed with a partner.

    Args:
        permutation: (B,) int64, the partner of each image.
        lam: (B,), the share of each image's own targets.
        boxes: (B,4) int64, top, left, height, width of the box pasted into each image. Empty boxes are omitted.
        peaks: for each image, row and column of the pixel that its box is centred on.
    """
    described = []
    for own, (partner, share) in enumerate(zip(permutation.tolist(), lam.tolist(), strict=True)):
        outline: tuple[Box, ...] = () if boxes is None or 0 in boxes[own, 2:] else (tuple(boxes[own].tolist()),)
        described.append(MixedImage(own, partner, share, outline, None if peaks is None else peaks[own]))
    return described
