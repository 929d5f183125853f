"""Masks for masked supervision (MaskSup, arXiv 2310.18517), drawn at random or read from a folder."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dali_mix.mixers.base import Params, Sampler, check_images
from dali_mix.mixers.layout import keep_format
from dali_mix.mixers.ops import draws
from dali_mix.mixers.ops.masks import draw_masks
from dali_mix.options import number, whole


@dataclass(frozen=True)
class FreeFormParams:
    """Params of FreeFormMasks, in pixels. A stroke or hole with radius 0 removes nothing.

    Attributes:
        height, width: size of the images.
        strokes: (B,S,V,2) float32, y and x of the vertices of each polyline.
        stroke_radii: (B,S) float32, half of each stroke's width.
        holes: (B,D,2) float32, y and x of the centres of the discs.
        hole_radii: (B,D) float32.
    """

    height: int
    width: int
    strokes: Tensor
    stroke_radii: Tensor
    holes: Tensor
    hole_radii: Tensor


class Masks(Sampler[Params]):
    """A source of masks: `sample` draws params, `masks` renders them."""

    @abstractmethod
    def masks(self, params: Params) -> Tensor:
        """Return (B,1,H,W) bool on the device of the params, True where a pixel is removed."""

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a mask for each of `images` (B,C,H,W). Return (B,1,H,W) bool on their device, True for removed pixels.

        Call `mask_out` to remove the pixels. Raise ValueError for images that fail `check_images`.
        """
        check_images(images)
        batch_size, _, height, width = images.shape
        return self.masks(self.sample(batch_size, height, width, generator, images.device))


class FreeFormMasks(Masks[FreeFormParams]):
    """Draw irregular masks per image: broad random polylines (strokes) and discs (holes).

    A stroke starts at a uniformly random position in a uniformly random direction. At each of its points it turns by up
    to `turn` and continues for a length drawn from `length`. Ends and corners are round. A stroke may leave the image.
    Lengths and widths are shares of √(H · W).

    With the defaults, 2,000 masks of square images removed 31% of the pixels on average. The middle 90% of the masks
    removed 13 to 52% (median 31%, minimum 2%, maximum 75%). At an aspect ratio of 3:5, the average was 31%, and the
    middle 90% removed 12 to 51%.

    Args:
        strokes: fewest and most strokes per image.
        segments: number of segments per stroke.
        length: range of a segment's length.
        stroke_width: range of a stroke's full width.
        turn: largest turn in radians, 0 to π.
        holes: fewest and most discs per image.
        hole_width: range of a disc's diameter.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        strokes: tuple[int, int] = (2, 5),
        segments: int = 5,
        length: tuple[float, float] = (0.1, 0.4),
        stroke_width: tuple[float, float] = (0.08, 0.24),
        turn: float = 1.2,
        holes: tuple[int, int] = (0, 3),
        hole_width: tuple[float, float] = (0.08, 0.3),
    ) -> None:
        for name, (low, high) in {"length": length, "stroke_width": stroke_width, "hole_width": hole_width}.items():
            if not 0 <= low <= high < math.inf:
                raise ValueError(f"{name}={(low, high)}: needs 0 ≤ low ≤ high")
        for name, (fewest, most) in {"strokes": strokes, "holes": holes}.items():
            whole(name, fewest, 0)
            whole(name, most, fewest)
        self.strokes, self.length, self.stroke_width = strokes, length, stroke_width
        self.holes, self.hole_width = holes, hole_width
        self.segments, self.turn = whole("segments", segments, 1), number("turn", turn, 0, math.pi)

    def draw(self, batch_size: int, height: int, width: int, generator: torch.Generator | None) -> FreeFormParams:
        side, most, discs = math.sqrt(height * width), self.strokes[1], self.holes[1]

        def draw(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
            return draws.uniform(math.prod(shape), generator, low, high).view(shape)

        def spots(count: int) -> Tensor:
            return torch.stack([draw(batch_size, count, high=height), draw(batch_size, count, high=width)], dim=-1)

        def radii(count: int, fewest: int, widths: tuple[float, float]) -> Tensor:
            drawn = draw(batch_size, count, low=widths[0] * side / 2, high=widths[1] * side / 2)
            present = fewest + (draw(batch_size, 1) * (count - fewest + 1)).long()
            return drawn.masked_fill(torch.arange(count, device=drawn.device) >= present, 0)

        start = spots(most)[:, :, None]
        turns = draw(batch_size, most, self.segments, low=-self.turn, high=self.turn)
        heading = draw(batch_size, most, 1, high=2 * math.pi) + turns.cumsum(-1)
        lengths = draw(batch_size, most, self.segments, low=self.length[0] * side, high=self.length[1] * side)
        steps = lengths[..., None] * torch.stack([heading.sin(), heading.cos()], dim=-1)
        drawn = (
            torch.cat([start, start + steps.cumsum(2)], dim=2),
            radii(most, self.strokes[0], self.stroke_width),
            spots(discs),
            radii(discs, self.holes[0], self.hole_width),
        )
        return FreeFormParams(height, width, *(part.float() for part in drawn))

    def masks(self, params: FreeFormParams) -> Tensor:
        """Return (B,1,H,W) bool, True where a pixel is removed: its centre lies inside a stroke or a hole.

        This is a pure function. It runs on the params' device without synchronizing, and needs about as much memory as
        a few images.
        """
        discs = torch.cat([params.holes, params.hole_radii[..., None]], dim=2)
        return draw_masks(_lines(params), discs, params.height, params.width)[:, None]


def _lines(params: FreeFormParams) -> Tensor:
    """Return (B, S · (V - 1), 6) float32, the segments of all strokes, in the format of `lines` of `draw_masks`."""
    start = params.strokes[:, :, :-1]
    step = params.strokes[:, :, 1:] - start
    heading = torch.atan2(step[..., 0], step[..., 1])  # for length 0 any direction will do; atan2(0, 0) is 0
    radii = params.stroke_radii[..., None].expand(heading.shape)
    parts = [start[..., 0], start[..., 1], heading.sin(), heading.cos(), step.norm(dim=-1), radii]
    return torch.stack(parts, dim=-1).flatten(1, 2)


@dataclass(frozen=True)
class FolderMaskParams:
    """Params of FolderMasks.

    Attributes:
        height, width: size of the images.
        index: (B,) int64, the mask of each image, an index into `FolderMasks.names`.
    """

    height: int
    width: int
    index: Tensor


class FolderMasks(Masks[FolderMaskParams]):
    """Draw masks from the PNG files of a folder: pixels above 0 are removed.

    All files are read on construction, sorted by name, and kept as bool (one byte per pixel). The n masks, resized to
    the latest image size (nearest neighbour), are also cached on the images' device and take n · H · W bytes there.
    PNGs may have any size and colour format. Colours are converted to brightness, and transparency is ignored.

    Args:
        folder: the folder with the files; subfolders are not searched.

    Raises:
        FileNotFoundError: no such folder, or no PNG in it.
        ValueError: a file that cannot be decoded, or has no pixel above 0.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder of masks")
        files = sorted(path for path in self.folder.iterdir() if path.suffix.lower() == ".png" and path.is_file())
        if not files:
            raise FileNotFoundError(f"{folder}: holds no .png file; masks are PNGs whose pixels above 0 are removed")
        self.names = tuple(path.name for path in files)
        self._masks = [_read_mask(path) for path in files]
        self._resized: tuple[tuple[int, int, torch.device], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"FolderMasks({str(self.folder)!r}: {len(self)} masks)"

    def draw(self, batch_size: int, height: int, width: int, generator: torch.Generator | None) -> FolderMaskParams:
        return FolderMaskParams(height, width, draws.pixels(batch_size, len(self), generator))

    def masks(self, params: FolderMaskParams) -> Tensor:
        """Return (B,1,H,W) bool, True where a pixel is removed, on the device of the params.

        The masks of all files, resized and on this device, are cached in the object. They are resized and copied again
        if the image size or the device differs from the previous call.
        """
        key = (params.height, params.width, params.index.device)
        if self._resized is None or self._resized[0] != key:
            size = (params.height, params.width)
            resized = [F.interpolate(mask[None, None].byte(), size, mode="nearest")[0, 0] > 0 for mask in self._masks]
            self._resized = (key, torch.stack(resized).to(params.index.device))
        return self._resized[1][params.index][:, None]


def _read_mask(path: Path) -> Tensor:
    """Return the mask in one file, (H,W) bool, True where a pixel is removed.

    Raise ValueError if the file cannot be decoded, or the mask removes nothing.
    """
    from PIL import Image  # imported late: docs/python.md promises that mixers need only torch, numpy and numba

    try:
        with Image.open(path, formats=["PNG"]) as image:
            # Grey levels of any bit depth are compared directly. Palettes and colours are compared by brightness.
            grey = image if image.mode in ("1", "L", "I", "I;16") else image.convert("L")
            removed = np.asarray(grey) > 0
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path}: cannot be read as a PNG ({error}); replace it or remove it from the folder"
        ) from None
    if not removed.any():
        raise ValueError(f"{path}: no pixel is above 0, so this mask would remove nothing; remove it from the folder")
    return torch.from_numpy(removed)


def mask_out(images: Tensor, masks: Tensor, fill: float | Sequence[float] = 0.0) -> Tensor:
    """Return a copy of `images` (B,C,H,W), set to `fill` where `masks` (B,1,H,W) bool is True.

    Gradients flow to the pixels that are not filled.

    Args:
        fill: one value, or one per channel. 0 is the mean colour of normalized images, and black in other images.

    Raises:
        ValueError: wrong shapes or dtypes, or a sequence `fill` whose length is not C.
    """
    check_images(images)
    if masks.dtype != torch.bool or masks.shape != (len(images), 1, *images.shape[2:]):
        raise ValueError(
            f"masks {tuple(masks.shape)} {masks.dtype} do not fit images {tuple(images.shape)}: need (B,1,H,W) bool"
        )
    if isinstance(fill, (int, float)):
        return keep_format(images.masked_fill(masks, fill), images)
    if len(fill) != images.shape[1]:
        raise ValueError(f"fill={tuple(fill)}: needs one value, or one for each of {images.shape[1]} channels")
    colour = torch.tensor(fill, dtype=images.dtype).to(images.device, non_blocking=True)
    return keep_format(torch.where(masks, colour[:, None, None], images), images)
