"""Linear heads on the average or the maximum over positions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dali_mix.models.heads.tokens import as_maps, as_tokens


class _PooledHead(nn.Module):
    """Base class of heads that pool features and apply a linear layer. Subclasses define `forward`.

    Args:
        in_channels: C of the features.
        num_classes: K.

    Raises:
        ValueError: raised by the methods for features of a wrong shape.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.fc = nn.Linear(in_channels, num_classes)

    def class_maps(self, features: Tensor) -> Tensor:
        """Apply the linear layer at each position (CAM, arXiv 1512.04150): (B,K,H,W), or (B,K,N) for tokens."""
        return as_maps(self.fc(as_tokens(features, self.in_channels)).transpose(1, 2), features)


class AveragePoolHead(_PooledHead):
    """The mean of each channel over positions, then a linear layer.

    Maps (B,C,H,W) or tokens (B,N,C) → logits (B,K), which are the mean of `class_maps` over positions.

    Args:
        in_channels: C of the features.
        num_classes: K.

    Raises:
        ValueError: raised by the methods for features of a wrong shape.
    """

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(as_tokens(features, self.in_channels).mean(1))


class MaxPoolHead(_PooledHead):
    """The maximum of each channel over positions, then a linear layer, as in SpliceMix.

    Maps (B,C,H,W) or tokens (B,N,C) → logits (B,K).

    Args:
        in_channels: C of the features.
        num_classes: K.

    Raises:
        ValueError: raised by the methods for features of a wrong shape.
    """

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(as_tokens(features, self.in_channels).amax(1))

    def cells(self, features: Tensor, rows: int, columns: int) -> Tensor:
        """Return the logits of each cell of spliced images, (n, rows · columns, K), row by row.

        `features` are the maps (n,C,H,W) of images that SpliceMix made with a grid of `rows` and `columns`.
        `SpliceMixConsistencyLoss` (SpliceMix-CL, arXiv 2311.15200) needs the logits. If H is not a multiple of `rows`,
        or W of `columns`, the maps are first resized (bilinear, align_corners) to the next smaller multiples. Raise
        ValueError for features of another shape, or if the grid has more rows or columns than the maps.
        """
        if features.ndim != 4 or features.shape[1] != self.in_channels:
            raise ValueError(f"features {tuple(features.shape)}: cells are cut from maps (n,{self.in_channels},H,W)")
        height, width = features.shape[2:]
        tall, wide = height // rows, width // columns
        if not (tall and wide):
            raise ValueError(f"a grid of {rows}×{columns} cells is finer than the map, {height}×{width}")
        if (tall * rows, wide * columns) != (height, width):
            size = (tall * rows, wide * columns)
            features = F.interpolate(features, size, mode="bilinear", align_corners=True)
        cells = features.unflatten(3, (columns, wide)).unflatten(2, (rows, tall)).amax((3, 5))
        return self.fc(cells.flatten(2).transpose(1, 2))
