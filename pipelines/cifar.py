"""`cifar`: small images, decoded once and kept as uint8, then cropped and flipped per batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from dali_mix.pipelines.pipeline import CachedPipeline
from dali_mix.pipelines.random import SampleRandom
from dali_mix.pipelines.steps.geometry import Resize, decode
from nvidia.dali.data_node import DataNode

from dali_mix.options import number, whole

STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""Mean and standard deviation per channel of the training images, 0..1 units."""


class Cifar(CachedPipeline):
    """The CIFAR protocol for small images of equal size: pad, random crop, flip (training), normalize.

    Args:
        train: whether to pad, crop and flip; otherwise images are only normalized.
        image_size: pixels, or (height, width); images of a different size are resized to it when decoded.
        padding: black pixels on each side before the random crop.
        flip: probability of a horizontal flip.
        mean, std: per channel, 0..1 units; CIFAR-10's by default. `STATISTICS` also has CIFAR-100's.
    """

    name = "cifar"

    def __init__(
        self,
        *,
        train: bool,
        image_size: int | Sequence[int] = 32,
        padding: int = 4,
        flip: float = 0.5,
        mean: Sequence[float] = STATISTICS["cifar10"][0],
        std: Sequence[float] = STATISTICS["cifar10"][1],
    ) -> None:
        super().__init__(train=train, image_size=image_size, mean=mean, std=std)
        padding = whole("padding", padding, 0, min(self.fixed_size))
        self.padding = padding if train else 0
        self.flip = number("flip", flip, 0.0, 1.0)

    @property
    def cached_size(self) -> tuple[int, int]:
        """Return (height, width) of the images without padding."""
        return self.fixed_size

    def draw(self, rows: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Draw anchor (B, 2) int64, top and left of the crop in the padded image, and mirror (B,) bool.

        Evaluation draws nothing.
        """
        if not self.train:
            return {}
        anchor = random.integers(0, 2 * self.padding + 1, 2)
        return {"anchor": anchor, "mirror": random.uniform(1)[:, 0] < self.flip}

    def graph(self, encoded: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        """Decode to uint8 HWC images of `cached_size`."""
        return Resize(self.cached_size).graph(decode(encoded, device), {}, device)

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Return images (N, 3, h, w) uint8 padded with black to (N, 3, h + 2 padding, w + 2 padding)."""
        return torch.nn.functional.pad(images, [self.padding] * 4).contiguous()

    def apply(self, cache: torch.Tensor, ids: np.ndarray, draws: Mapping[str, np.ndarray]) -> torch.Tensor:
        """Return the images `ids` (B,) of `cache`, cropped and flipped as drawn, (B, 3, h, w) uint8.

        `ids` are indices into `cache`, the result of `prepare`. Without draws, the images are returned unchanged.
        """
        count = len(ids)
        anchor = draws.get("anchor", np.zeros((count, 2), dtype=np.int64))
        mirror = draws.get("mirror", np.zeros(count, dtype=bool))
        if cache.is_cuda:
            packed = torch.from_numpy(np.column_stack([ids, anchor, mirror])).to(cache.device, non_blocking=True)
            return gather_torch(cache, packed, self.fixed_size)
        return torch.from_numpy(gather_numpy(cache.numpy(), ids, anchor, mirror, self.fixed_size))


def gather_numpy(
    cache: np.ndarray, ids: np.ndarray, anchor: np.ndarray, mirror: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Return windows of cached images (N, 3, H, W) uint8 as a batch (B, 3, h, w) uint8.

    `ids` (B,) are indices of images, `anchor` (B, 2) the top and left of each window, and `size` is (h, w). `mirror`
    (B,) bool is True for windows to flip. All possible windows form one strided view, from which numpy copies a row of
    pixels at a time. This is much faster than torch's indexing.
    """
    windows = np.lib.stride_tricks.sliding_window_view(cache, size, axis=(2, 3))
    images = windows[ids, :, anchor[:, 0], anchor[:, 1]]
    images[mirror] = images[mirror][..., ::-1]
    return images


def gather_torch(cache: torch.Tensor, packed: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return the batch that `gather_numpy` returns, on the cache's device and without synchronizing.

    `packed` (B, 4) int64 on this device has the index of each image, top and left of its window, and 1 to flip it.
    """
    _, colours, height, width = cache.shape
    ids, top, left, mirror = packed[:, :, None, None, None].unbind(1)
    rows = torch.arange(size[0], device=cache.device)[:, None]
    columns = torch.arange(size[1], device=cache.device)
    columns = torch.where(mirror > 0, size[1] - 1 - columns, columns)
    channel = torch.arange(colours, device=cache.device)[:, None, None]
    return cache.view(-1)[((ids * colours + channel) * height + top + rows) * width + left + columns]
