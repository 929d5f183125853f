"""`Batch`: the items a loader yields."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Batch(NamedTuple):
    """A batch of images and targets. It owns its memory and stays valid for as long as it is referenced.

    Attributes:
        images: (B, 3, H, W) float32, normalized, or uint8 if the loader was built with dtype="uint8". Images that are
            normalized on a GPU are channels_last in memory. Images of several sizes are padded with zeros on the right
            and at the bottom.
        targets: for classification (B,) int64; for multi-label (B, K) float32 in {1, 0, -1 = ignore}; for detection a
            list of B dicts. A dict has `boxes` (n, 4) float32, x1, y1, x2, y2 in pixels of the image; `labels` (n,)
            int64; `difficult` (n,) bool; and two (height, width) tuples: `size` is the size of the image without
            padding, and `original` is the size of the packed image. A loader keeps boxes on the CPU, since selecting
            boxes on a GPU would synchronize.
        ids: (B,) int64 record numbers, always on the CPU, so that logging does not wait for a GPU.
    """

    images: torch.Tensor
    targets: Any
    ids: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Return a batch with images and targets on `device`; `ids` stay on the CPU.

        Detection targets are moved by `boxes_to`.
        """
        targets = self.targets
        if isinstance(targets, list):
            targets = boxes_to(targets, device)
        else:
            targets = targets.to(device, non_blocking=True)
        return Batch(self.images.to(device, non_blocking=True), targets, self.ids)


def boxes_to(targets: list[dict[str, Any]], device: torch.device | str) -> list[dict[str, Any]]:
    """Return detection targets with all tensors on `device`; `targets` itself if no tensor has to be moved.

    Of the fields boxes, labels and difficult, those that every target has are moved together, in one copy for all
    targets. Every other tensor is moved separately.
    """
    device = torch.device(device)
    tensors = [value for own in targets for value in own.values() if isinstance(value, torch.Tensor)]
    if all(value.device == device for value in tensors):
        return targets
    names = [name for name in ("boxes", "labels", "difficult") if all(name in own for own in targets)]
    moved = [{name: own[name] if name in names else _to(own[name], device) for name in own} for own in targets]
    if names:
        packed = [torch.column_stack([own[name] for name in names]) for own in targets]
        counts = [len(own) for own in packed]
        columns = torch.cat(packed).to(device, non_blocking=True).split([4 if n == "boxes" else 1 for n in names], 1)
        for name, column in zip(names, columns, strict=True):
            values = column.contiguous() if name == "boxes" else column[:, 0].to(targets[0][name].dtype)
            for own, part in zip(moved, values.split(counts), strict=True):
                own[name] = part
    return moved


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
