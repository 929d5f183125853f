"""`Batch`: what every loader yields and every mixer and model takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Batch(NamedTuple):
    """A batch. It has memory of its own and stays valid for as long as it is kept.

    Attributes:
        images: (B, 3, H, W) float32, normalized; channels_last in memory on a GPU.
        targets: classification (B,) int64; multi-label (B, K) float32 in {1, 0, -1 = ignore}; detection a list of B
            dicts of `boxes` (n, 4) float32 x1, y1, x2, y2 in pixels of the image, `labels` (n,) int64 and `difficult`
            (n,) bool.
        ids: (B,) int64 record numbers, always on the CPU: they are for logs, which must not wait for a GPU.
    """

    images: torch.Tensor
    targets: Any
    ids: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The batch with images and targets on `device`."""
        targets = self.targets
        if isinstance(targets, list):
            targets = [{k: v.to(device, non_blocking=True) for k, v in target.items()} for target in targets]
        else:
            targets = targets.to(device, non_blocking=True)
        return Batch(self.images.to(device, non_blocking=True), targets, self.ids)
