"""Random Erasing and Cutout: fill a window of the image with one colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from dali_mix.pipelines.base import Step, channels
from dali_mix.pipelines.random import SampleRandom
from dali_mix.pipelines.steps.geometry import RandomResizedCrop
from nvidia.dali import fn
from nvidia.dali.data_node import DataNode

from dali_mix.options import number


class Erasing(Step):
    """Fill a window with the colour `mean` (0..1 units), with probability `prob` (arXiv 1708.04896).

    The window is drawn as in `RandomResizedCrop`, with 2 to 33% of the image's area and a width / height of 0.3 to
    1 / 0.3.
    """

    moves = False

    def __init__(self, prob: float, mean: Sequence[float]) -> None:
        self.prob = number("erasing", prob, 0.0, 1.0)
        self.color = [255 * value for value in channels("mean", mean)]
        self.active = self.prob > 0
        self._crop = RandomResizedCrop((0.02, 0.33), (0.3, 1 / 0.3))

    def draw(self, sizes: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Draw anchor and shape (B, 2) float32 of the window; a shape of 0 if nothing is erased."""
        drawn = self._crop.draw(sizes, random)
        drawn["shape"] = np.where(random.uniform(1) < self.prob, drawn["shape"], 0)
        return {name: value.astype(np.float32) for name, value in drawn.items()}

    def graph(self, images: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        return fn.erase(images, device=device, axis_names="HW", fill_value=self.color, **draws)


class Cutout(Step):
    """Fill a box, centred on a random pixel, with one random colour (arXiv 1708.04552).

    The sides of the box are `share` times those of the image. Then the box is clipped at the border. A share of 0
    disables the step.
    """

    moves = False

    def __init__(self, share: float) -> None:
        self.share = number("cutout", share, 0.0, 1.0)
        self.active = self.share > 0

    def draw(self, sizes: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Draw float32 anchor and shape (B, 2) of the part of the box in the image, and fill_value (B, 3), 0 to 255."""
        side = np.rint(self.share * sizes)
        start = np.floor(random.uniform(2) * sizes) - side // 2
        end = np.minimum(start + side, sizes)
        start = np.maximum(start, 0)
        drawn = {"anchor": start, "shape": end - start, "fill_value": random.integers(0, 256, 3)}
        return {name: value.astype(np.float32) for name, value in drawn.items()}

    def graph(self, images: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        return fn.erase(images, device=device, axis_names="HW", **draws)
