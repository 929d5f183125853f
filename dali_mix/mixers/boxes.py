"""Mixers for images with bounding boxes: our own versions of ResizeMix (arXiv 2012.11101) and SpliceMix (2311.15200).

Images are resized without cropping, and keep their aspect ratio, so objects are cut only where another image covers
them. Losses are not reweighted. Only the valid part of a padded image is mixed. Targets are lists of dicts, as in
`dali_mix.loading.Batch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dali_mix.mixers.base import Mixer, check_images, check_scale
from dali_mix.mixers.description import MixedImage
from dali_mix.mixers.ops import draws
from dali_mix.mixers.ops.paste import check_inplace

SHORTEST = 4  # pixels; boxes cut or resized to a shorter side are dropped
KEPT_AS_IS, DROPPED = 0.7, 0.3  # visible share of a box: unchanged at 0.7 or more, dropped below 0.3

Target = dict[str, Any]


@dataclass(frozen=True)
class BoxPasteParams:
    """Params of BoxResizeMix.

    Attributes:
        permutation: (B,) int64, the partner of each image.
        tau: (B,) float32, the partner's size relative to the largest that fits.
        position: (B,2) float64 in [0, 1), top and left as fractions of the free space.
    """

    permutation: Tensor
    tau: Tensor
    position: Tensor


@dataclass(frozen=True)
class BoxSpliceParams:
    """Params of BoxSpliceMix.

    Attributes:
        sources: (B,4) int64, the image in each cell: top left, top right, bottom left, bottom right.
    """

    sources: Tensor


class BoxMixer(Mixer[Any]):
    """Base class of mixers for images with boxes."""

    in_place = True
    takes_boxes = True


class BoxResizeMix(BoxMixer):
    """Paste a proportionally resized partner into each image at a uniformly random position, and add its boxes.

    The image that receives the patch is the host. A box of the host is unchanged if at least 0.7 of it stays visible.
    If 0.3 to 0.7 of it stays visible, it is kept, and cut to its visible part if that is a rectangle. If less than 0.3
    stays visible, it is dropped. Boxes that are cut, or resized with their image, to a side under 4 pixels are dropped
    too.

    Args:
        scale: lowest and highest τ, 0 < low ≤ high ≤ 1. τ is the patch's size relative to the largest that fits into
            the host. With τ below 0.3, most objects of a photo are too small to be detected.
        prob: probability that a batch is mixed; see `Mixer`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, scale: Sequence[float] = (0.3, 0.8), *, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.scale = check_scale(scale)

    def draw(self, batch_size: int, height: int, width: int, generator: torch.Generator | None) -> BoxPasteParams:
        tau = draws.uniform(batch_size, generator, *self.scale).float()
        position = draws.uniform(2 * batch_size, generator).view(batch_size, 2)  # as float32 it could round to 1
        return BoxPasteParams(draws.permutation(batch_size, generator), tau, position)

    def apply(  # type: ignore[override]  # targets are boxes
        self, images: Tensor, targets: list[Target], params: BoxPasteParams, *, inplace: bool = False
    ) -> tuple[Tensor, list[Target]]:
        check_boxes(images, targets, len(params.permutation), inplace)
        patches = self._patches(targets, params)
        resized = [_resized(images, targets, partner, box[2:]) for partner, box in patches]
        out = images if inplace else images.clone()
        mixed = []
        for index, (pixels, (partner, box)) in enumerate(zip(resized, patches, strict=True)):
            top, left, height, width = box
            out[index, :, top : top + height, left : left + width] = pixels
            host, other = targets[index], targets[partner]
            boxes, visible = uncovered(host["boxes"], torch.tensor([left, top, left + width, top + height]))
            mixed.append(joined(host, [kept(host, boxes, visible), moved(other, box)]))
        return out, mixed

    def describe(self, images: Tensor, params: BoxPasteParams) -> list[MixedImage]:
        return [MixedImage(own, partner) for own, partner in enumerate(params.permutation.tolist())]

    def _patches(self, targets: list[Target], params: BoxPasteParams) -> list[tuple[int, tuple[int, int, int, int]]]:
        """Return (partner, box) for each image: the partner's index, and where to paste the partner.

        The box is (top, left, height, width), in pixels of the image that receives it.
        """
        found = []
        drawn = zip(params.permutation.tolist(), params.tau.tolist(), params.position.tolist(), strict=True)
        for own, (partner, tau, (u, v)) in zip(targets, drawn, strict=True):
            (height, width), (h, w) = own["size"], targets[partner]["size"]
            factor = tau * min(height / h, width / w)
            h, w = min(height, max(1, round(h * factor))), min(width, max(1, round(w * factor)))
            found.append((partner, (int(u * (height - h + 1)), int(v * (width - w + 1)), h, w)))
        return found


class BoxSpliceMix(BoxMixer):
    """Replace each image by a 2×2 tiling of itself and three others, resized proportionally, with their boxes.

    The tiling has the image's size. Each image appears four times, in four different tilings if B ≥ 4. Unused parts of
    a cell are 0, the padding value. Boxes resized to a side under 4 pixels are dropped.

    Args:
        prob: probability that a batch is mixed; see `Mixer`.
    """

    def draw(self, batch_size: int, height: int, width: int, generator: torch.Generator | None) -> BoxSpliceParams:
        order = draws.permutation(batch_size, generator)
        sources = order.new_empty(batch_size, 4)
        sources[order] = torch.stack([order.roll(-shift) for shift in range(4)], dim=1)  # all different if B ≥ 4
        return BoxSpliceParams(sources)

    def apply(  # type: ignore[override]  # targets are boxes
        self, images: Tensor, targets: list[Target], params: BoxSpliceParams, *, inplace: bool = False
    ) -> tuple[Tensor, list[Target]]:
        check_boxes(images, targets, len(params.sources), inplace)
        spliced, mixed = torch.zeros_like(images), []
        for index, sources in enumerate(params.sources.tolist()):
            parts = []
            for source, cell in zip(sources, _cells(*targets[index]["size"]), strict=True):
                box = _centred(cell, targets[source]["size"])
                top, left, height, width = box
                pixels = _resized(images, targets, source, (height, width))
                spliced[index, :, top : top + height, left : left + width] = pixels
                parts.append(moved(targets[source], box))
            mixed.append(joined(targets[index], parts))
        return (images.copy_(spliced) if inplace else spliced), mixed

    def describe(self, images: Tensor, params: BoxSpliceParams) -> list[MixedImage]:
        return [MixedImage(None, note="images " + ", ".join(map(str, row))) for row in params.sources.tolist()]


def check_boxes(images: Tensor, targets: Any, drawn_for: int, inplace: bool) -> None:
    """Raise ValueError unless images (B,C,H,W), targets and params fit together.

    All must have the same B; `drawn_for` is the B of the params. Targets must be a list of dicts with boxes (on the
    CPU), labels, difficult and size (at most that of the batch). With `inplace`, images must pass `check_inplace`.
    """
    check_images(images)
    names = {"boxes", "labels", "difficult", "size"}
    if not isinstance(targets, list) or not all(isinstance(one, dict) and names <= one.keys() for one in targets):
        raise ValueError(
            "targets must be a list of dicts with boxes, labels, difficult and size: this mixer is for sets with boxes"
        )
    if not len(images) == len(targets) == drawn_for:
        raise ValueError(
            f"{len(images)} images, {len(targets)} targets and params drawn for {drawn_for} do not fit together"
        )
    for one in targets:
        if one["boxes"].device.type != "cpu":
            raise ValueError("boxes are on a GPU: mix before they are moved there, as a loader yields them")
        if not (1 <= one["size"][0] <= images.shape[2] and 1 <= one["size"][1] <= images.shape[3]):
            raise ValueError(f"an image of size {one['size']} in a batch of {tuple(images.shape[2:])}")
    if inplace:
        check_inplace(images)


def uncovered(boxes: Tensor, patch: Tensor) -> tuple[Tensor, Tensor]:
    """Return boxes (n,4) cut to the parts that a patch (4,) leaves visible, and their visible shares (n,).

    Coordinates are x1, y1, x2, y2. A box is cut to its visible part if that is a rectangle and less than `KEPT_AS_IS`
    of the box. A fully covered box gets meaningless coordinates and share 0. All other boxes are returned unchanged.
    """
    low, high = torch.maximum(boxes[:, :2], patch[:2]), torch.minimum(boxes[:, 2:], patch[2:])
    shared = (high - low).clamp_min(0)
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp_min(1e-6)
    share = 1 - (shared / sides).prod(1)
    spans = shared >= sides  # (n,2): all of the width, all of the height
    cut = boxes.clone()
    for axis in (0, 1):
        other = 1 - axis  # cut along `axis` where the patch spans the other
        begins, ends = patch[axis] <= boxes[:, axis], patch[axis + 2] >= boxes[:, axis + 2]
        cut[:, axis] = torch.where(
            spans[:, other] & begins, torch.maximum(boxes[:, axis], patch[axis + 2]), cut[:, axis]
        )
        cut[:, axis + 2] = torch.where(
            spans[:, other] & ends, torch.minimum(boxes[:, axis + 2], patch[axis]), cut[:, axis + 2]
        )
    return torch.where((share < KEPT_AS_IS)[:, None], cut, boxes), share


def kept(target: Target, boxes: Tensor, share: Tensor) -> Target:
    """Return a dict of the boxes that stay visible under a patch, with their labels and difficult flags from `target`.

    `boxes` (n,4) and `share` (n,) are the results of `uncovered` for the boxes of `target`. A box is dropped if its
    share is below `DROPPED`, or if it was cut to a side shorter than `SHORTEST`.
    """
    small = (boxes[:, 2:] - boxes[:, :2]).amin(1) < SHORTEST
    return _chosen(target, boxes, (share >= DROPPED) & ~(small & (boxes != target["boxes"]).any(1)))


def moved(target: Target, box: tuple[int, int, int, int]) -> Target:
    """Return a dict of the boxes, labels and difficult flags of an image after it is resized into `box`.

    `box` is (top, left, height, width). Boxes with a side shorter than `SHORTEST` are dropped.
    """
    top, left, height, width = box
    scale = torch.tensor([width / target["size"][1], height / target["size"][0]]).repeat(2)
    boxes = target["boxes"] * scale + torch.tensor([left, top, left, top])
    return _chosen(target, boxes, (boxes[:, 2:] - boxes[:, :2]).amin(1) >= SHORTEST)


def joined(target: Target, parts: Sequence[Target]) -> Target:
    """Return `target` with its boxes, labels and difficult flags replaced by those of all `parts`."""
    return target | {name: torch.cat([part[name] for part in parts]) for name in ("boxes", "labels", "difficult")}


def _chosen(target: Target, boxes: Tensor, keep: Tensor) -> Target:
    return {"boxes": boxes[keep], "labels": target["labels"][keep], "difficult": target["difficult"][keep]}


def _resized(images: Tensor, targets: list[Target], index: int, size: Sequence[int]) -> Tensor:
    """Return the valid part of image `index`, resized to `size` (height, width) with antialiasing: (C,height,width)."""
    height, width = targets[index]["size"]
    pixels = images[index : index + 1, :, :height, :width]
    resized = F.interpolate(pixels.float(), tuple(size), mode="bilinear", antialias=True)[0]
    return resized.round().clamp(0, 255).to(images.dtype) if images.dtype == torch.uint8 else resized.to(images.dtype)


def _cells(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Return top, left, height and width of the four cells of a `height` × `width` tiling, row by row.

    If a side is odd, the first cell along it is one pixel smaller. A side of one pixel is covered by both cells.
    """
    h, w = max(1, height // 2), max(1, width // 2)
    bottom, right = max(1, height - h), max(1, width - w)
    return [
        (0, 0, h, w),
        (0, width - right, h, right),
        (height - bottom, 0, bottom, w),
        (height - bottom, width - right, bottom, right),
    ]


def _centred(cell: tuple[int, int, int, int], size: Sequence[int]) -> tuple[int, int, int, int]:
    """Return where an image of `size` (height, width) lies in `cell`, scaled proportionally to fit and centred.

    `cell` and the result are (top, left, height, width). The result has sides of at least one pixel.
    """
    top, left, height, width = cell
    factor = min(height / size[0], width / size[1])
    h, w = min(height, max(1, round(size[0] * factor))), min(width, max(1, round(size[1] * factor)))
    return top + (height - h) // 2, left + (width - w) // 2, h, w
