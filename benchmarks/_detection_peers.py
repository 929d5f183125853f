"""Run one detection loader in its own process, for detection_loader.py: see _loader_peers.py.

usage: python _detection_peers.py NAME SETTINGS.json

Each loader is an endless stream of padded training batches, float32 on the CPU: shorter side 600, longer side at most
1,000 pixels, flipped and normalized. Boxes are transformed with the images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from _loader_peers import MEAN, REPEATS, STD, Settings, main, stream


def ours(settings: Settings, fuse: bool = True) -> Iterator[Any]:
    """Yield this project's batches, each of one orientation.

    With `fuse`, one operator resizes, flips, normalizes and pads.
    """
    options = {"shorter": settings["shorter"], "longest": settings["longest"], "fuse": fuse}
    return stream(settings, "detection", options)


def ours_stock(settings: Settings) -> Iterator[Any]:
    """Yield batches of this project's loader with DALI's own resize, flip, normalize and padding."""
    return ours(settings, fuse=False)


class Files:
    """A torch dataset of `function(path, boxes)` for each image in the settings, repeated `REPEATS` times.

    `boxes` are the image's boxes, lists of x1, y1, x2, y2 in 0..1 of its size.
    """

    def __init__(self, settings: Settings, function: Any) -> None:
        self.paths, self.boxes, self.function = settings["files"], settings["boxes"], function

    def __len__(self) -> int:
        return len(self.paths) * REPEATS

    def __getitem__(self, position: int) -> Any:
        index = position % len(self.paths)
        return self.function(self.paths[index], self.boxes[index])


def _together(batch: list[Any]) -> Any:
    return tuple(zip(*batch, strict=True))


def _loader(settings: Settings, function: Any) -> Any:
    from torch.utils.data import DataLoader

    files, threads = Files(settings, function), settings["threads"]
    return DataLoader(files, settings["batch_size"], shuffle=True, num_workers=threads, collate_fn=_together)


def references(settings: Settings) -> Iterator[Any]:
    """Yield batches made as in torchvision's reference training scripts.

    Worker processes decode with PIL and flip. In this process, the transform of torchvision's detection models resizes
    and normalizes the images, and pads the batch.
    """
    import torch
    from PIL import Image
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.transforms import functional

    def one(path: str, boxes: list[list[float]]) -> Any:
        with Image.open(path) as opened:
            image = functional.convert_image_dtype(functional.pil_to_tensor(opened.convert("RGB")), torch.float32)
        height, width = image.shape[1:]
        found = torch.tensor(boxes) * torch.tensor([width, height, width, height])
        if torch.rand(1) < 0.5:
            image = functional.hflip(image)
            found[:, [0, 2]] = width - found[:, [2, 0]]
        return image, {"boxes": found, "labels": torch.ones(len(found), dtype=torch.int64)}

    transform = GeneralizedRCNNTransform(settings["shorter"], settings["longest"], list(MEAN), list(STD))
    for images, targets in _loader(settings, one):
        yield transform(list(images), list(targets))[0].tensors


def transforms_v2(settings: Settings) -> Iterator[Any]:
    """Yield batches made with torchvision: `decode_jpeg` and v2 transforms in worker processes, then padding here."""
    import torch
    from torchvision import tv_tensors
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomShortestSize(settings["shorter"], settings["longest"]),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    def one(path: str, boxes: list[list[float]]) -> Any:
        image = decode_jpeg(read_file(path), ImageReadMode.RGB)
        height, width = image.shape[1:]
        found = torch.tensor(boxes) * torch.tensor([width, height, width, height])
        return transform(image, tv_tensors.BoundingBoxes(found, format="XYXY", canvas_size=(height, width)))

    padding = GeneralizedRCNNTransform(1, 1, list(MEAN), list(STD))
    for images, _ in _loader(settings, one):
        yield padding.batch_images(list(images), 32)


LOADERS = {
    "ours": ours,
    "ours, stock ops": ours_stock,
    "torchvision v2": transforms_v2,
    "torchvision references": references,
}


if __name__ == "__main__":
    main(LOADERS)
