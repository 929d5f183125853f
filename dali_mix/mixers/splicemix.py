"""SpliceMix: append images tiled from resized images of the batch (arXiv 2311.15200)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dali_mix.mixers.base import Mixer, check_batch, class_count
from dali_mix.mixers.description import MixedImage
from dali_mix.mixers.ops import draws
from dali_mix.mixers.ops.splice import splice
from dali_mix.mixers.ops.targets import to_soft, unite
from dali_mix.options import whole

# Rows, columns and dropped cells of each grid. "default" draws one of its grids, as in the released code.
_NAMED = {"default": ((1, 2, 0), (2, 2, 0), (2, 3, 0)), "mini": ((2, 2, 0),)}
_SHARES = (0.3, 0.4, 0.3)
_DROP_SHARE = 0.3
_TRANSPOSE_SHARE = 0.5


@dataclass(frozen=True)
class SpliceMixParams:
    """Params of SpliceMix: the cells of n tiled images with the same grid, and, in `more`, those of other grids.

    Cells are in row-major order.

    Attributes:
        rows, cols: numbers of rows and columns of cells.
        sources: (n, rows · cols) int64, the index of the batch image in each cell.
        dropped: (n, rows · cols) bool, True if the cell is 0 and its labels are not used.
        more: the other grids if a list of grids was passed, in order; empty for "default" and "mini".
    """

    rows: int
    cols: int
    sources: Tensor
    dropped: Tensor
    more: tuple[SpliceMixParams, ...] = ()

    @property
    def grids(self) -> tuple[SpliceMixParams, ...]:
        """Return all grids; their images are appended to the batch in this order."""
        return (self, *self.more)


class SpliceMix(Mixer[SpliceMixParams]):
    """Append images tiled from resized images of the batch; the B originals are unchanged.

    Each cell is a random image resized to ⌊H / rows⌋ × ⌊W / cols⌋ (bilinear, aligned corners). If the cells do not fill
    H × W exactly, the tiling is resized to H × W in the same way. An appended image has every label of the cells that
    are not dropped (`combine = "union"`), so the loss must accept multi-hot targets.

    As in the released code, cells are filled from consecutive random permutations of the batch, so all images appear
    nearly equally often, and non-square grids, including custom ones, are transposed with probability 0.5.

    Args:
        grids: "default", "mini", or a list of grids such as "2x3", or "2x3-2" to drop two cells.
            "default" appends ⌊B / 4⌋ images with one grid, drawn per batch: 1×2, 2×2 or 2×3 with probability 0.3, 0.4
            and 0.3. With probability 0.3 per batch, random cells of each image are dropped: 1 of 2, 1 to 3 of 4, or 1
            to 5 of 6, the same number in every image.
            "mini" appends ⌊B / 4⌋ images of 2×2 cells, none dropped.
        counts: with a list of grids, the number of images appended for each grid, whatever B is (0 for an empty batch).
        num_classes: K; None if targets are always (B,K).
        prob: probability that a batch is mixed; see `Mixer`.

    Raises:
        ValueError: an invalid grid or count, or a missing count.
    """

    combine = "union"

    def __init__(
        self,
        grids: Literal["default", "mini"] | Sequence[str] = "default",
        counts: Sequence[int] | None = None,
        num_classes: int | None = None,
        *,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob)
        if isinstance(grids, str):
            if grids not in _NAMED:
                raise ValueError(f"grids={grids!r}: must be 'default', 'mini', or a list such as ['1x2', '2x3-2']")
            if counts is not None:
                raise ValueError(f"counts={counts!r}: only for a list of grids; {grids!r} appends ⌊B / 4⌋ images")
            self._cells = _NAMED[grids]
        else:
            if not isinstance(grids, (list, tuple)) or not isinstance(counts, (list, tuple, type(None))):
                raise ValueError(f"grids={grids!r}, counts={counts!r}: must be lists, as ['1x2', '2x3-2'] and [1, 2]")
            self._cells = tuple(_parse(grid) for grid in grids)
            if not grids or counts is None or len(counts) != len(grids):
                raise ValueError(
                    f"grids={list(grids)} with counts={counts}: needs grids, and one count per grid; counts=[1] "
                    "appends one image"
                )
        self.grids = grids if isinstance(grids, str) else tuple(grids)
        self.counts = None if counts is None else tuple(whole("counts", count, 1) for count in counts)
        self.num_classes = class_count(num_classes)

    def draw(self, batch_size: int, height: int, width: int, generator: torch.Generator | None) -> SpliceMixParams:
        """Draw the grid and its cells; see `Mixer.draw`.

        The host reads the grid, since it determines shapes. With a CUDA generator this synchronizes once, except for
        "mini".

        Raises:
            ValueError: images too small for the grids.
        """
        longest = max(max(rows, cols) for rows, cols, _ in self._cells)
        if min(height, width) < longest:
            raise ValueError(f"images of {height}×{width} pixels cannot be cut into {longest} cells along a side")
        layouts = self._draw_layouts(batch_size, generator)
        cells = [count * rows * cols for rows, cols, _, count in layouts]
        orders = [draws.permutation(batch_size, generator) for _ in range(-(-sum(cells) // max(batch_size, 1)))]
        pool = torch.cat([torch.zeros(0, dtype=torch.int64, device=draws.device_of(generator)), *orders])
        grids = []
        for (rows, cols, drops, count), sources in zip(layouts, pool[: sum(cells)].split(cells), strict=True):
            # Drop the cells with the `drops` smallest random numbers, so that every choice is equally likely.
            ranks = draws.uniform(len(sources), generator).view(count, rows * cols).argsort(1).argsort(1)
            grids.append(SpliceMixParams(rows, cols, sources.view(count, rows * cols), dropped=ranks < drops))
        return replace(grids[0], more=tuple(grids[1:]))

    def _draw_layouts(self, batch_size: int, generator: torch.Generator | None) -> list[tuple[int, int, int, int]]:
        """Return (rows, cols, drops, count) for each grid.

        A grid has `count` images of rows × cols cells, with `drops` dropped cells in each image. Unless the grids are
        "mini", random values are drawn, and the host waits for them.
        """
        if self.grids == "mini":
            return [(2, 2, 0, batch_size // 4)]
        if self.grids != "default":
            turn = (draws.uniform(len(self._cells), generator) < _TRANSPOSE_SHARE).tolist()
            counts = self.counts if batch_size and self.counts else (0,) * len(self._cells)
            return [
                (*((cols, rows) if turned else (rows, cols)), drops, count)
                for (rows, cols, drops), count, turned in zip(self._cells, counts, turn, strict=True)
            ]
        which, turned, drop, how_many = draws.uniform(4, generator).tolist()
        index = 0 if which < _SHARES[0] else 1 if which < _SHARES[0] + _SHARES[1] else 2
        rows, cols, _ = self._cells[index]
        drops = 1 + int(how_many * (rows * cols - 1)) if drop < _DROP_SHARE else 0
        if rows != cols and turned < _TRANSPOSE_SHARE:
            rows, cols = cols, rows
        return [(rows, cols, drops, batch_size // 4)]

    def apply(
        self, images: Tensor, targets: Tensor, params: SpliceMixParams, *, inplace: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Append n images: return (B+n,C,H,W) and (B+n,K) float32, the originals first. See `Mixer.apply`.

        Raises:
            ValueError: as for `Mixer.apply`; also for `inplace` and, on a CPU, for params with a source outside the
                batch.
        """
        if inplace:
            raise ValueError("SpliceMix returns a larger batch and cannot work in place: leave inplace=False")
        check_batch(images, targets, len(images))
        soft = to_soft(targets, self.num_classes)
        mixed = splice(images, [(grid.rows, grid.cols, grid.sources, grid.dropped) for grid in params.grids])
        labels = [unite(targets, soft, grid.sources, grid.dropped) for grid in params.grids]
        return mixed, torch.cat([soft, *labels])

    def describe(self, images: Tensor, params: SpliceMixParams) -> list[MixedImage]:
        note = "" if any(len(grid.sources) for grid in params.grids) else "batch too small"
        described = [MixedImage(own, note=note) for own in range(len(images))]
        height, width = images.shape[2:]
        for grid in params.grids:
            cell_h, cell_w = height / grid.rows, width / grid.cols
            cells = tuple((y * cell_h, x * cell_w, cell_h, cell_w) for y in range(grid.rows) for x in range(grid.cols))
            for dropped in grid.dropped.sum(1).tolist():
                note = f"{grid.rows}×{grid.cols}" + (f", {dropped} dropped" if dropped else "")
                described.append(MixedImage(None, boxes=cells, note=note))
        return described


def _parse(grid: str) -> tuple[int, int, int]:
    """Parse a grid such as "2x3" or "2x3-2" into (rows, cols, number of dropped cells).

    Raise ValueError if `grid` is not of this form with 1 to 99 rows and columns, or if no cell remains.
    """
    found = re.fullmatch(r"([1-9]\d?)x([1-9]\d?)(?:-(\d+))?", grid) if isinstance(grid, str) else None
    if found is None:
        raise ValueError(f"grid {grid!r}: must be like '2x3', or '2x3-2' to drop two cells")
    rows, cols, drops = int(found[1]), int(found[2]), int(found[3] or 0)
    if drops >= rows * cols:
        raise ValueError(f"grid {grid!r} drops {drops} of {rows * cols} cells: at least one must remain")
    return rows, cols, drops
