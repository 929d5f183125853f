"""Colour jitter and PCA lighting as one affine map of each image's colours.

Brightness, contrast, saturation, a hue rotation and lighting are all affine in (red, green, blue), given the image's
mean colour (contrast pulls towards the mean grey). So whatever the order they are applied in, the whole chain is x → M
x + A·mean(x) + t with M, A (3×3) and t (3,) drawn per record: one pass over the pixels, clipped to 0..255 once, at the
end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from dali_mix.pipelines.base import Step
from dali_mix.pipelines.random import SampleRandom
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode

from dali_mix.options import number

GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
# Luma and the two chrominance axes of YIQ: hue turns the latter two.
YIQ = np.array([GREY, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
# Covariance of ImageNet's colours (Krizhevsky et al. 2012), pixel values 0..1, as in the released fb.resnet.torch.
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
PCA_VECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


class Color(Step):
    """Draws and applies colour jitter (as torchvision's ColorJitter, in an order drawn per record) and PCA lighting.

    Args:
        jitter: strengths of brightness, contrast, saturation, hue, or one number for the first three. A strength s is a
            factor uniform in max(0, 1 - s) to 1 + s; for hue a turn uniform in -s to s, in whole turns, s at most 0.5.
        lighting: standard deviation of the three weights of the principal components; 0.1 in the papers.

    Hue is a rotation in YIQ (PIL's and torchvision's is one in HSV, which is not affine), and nothing is clipped in
    between.
    """

    def __init__(self, jitter: float | Sequence[float] | None, lighting: float) -> None:
        if jitter is None:
            strengths = (0.0, 0.0, 0.0, 0.0)
        elif isinstance(jitter, (int, float)):
            strengths = (jitter, jitter, jitter, 0.0)
        else:
            strengths = tuple(jitter)  # type: ignore[assignment]  # its length is checked on the next line
        if len(strengths) != 4:
            raise ValueError(
                f"color_jitter={jitter!r}: must be one number, or four: brightness, contrast, saturation, hue"
            )
        names = ("brightness", "contrast", "saturation", "hue")
        self.strengths = [
            number(f"color_jitter ({name})", value, 0.0, 0.5 if name == "hue" else 10.0)
            for name, value in zip(names, strengths, strict=True)
        ]
        self.lighting = number("pca_lighting", lighting, 0.0, 10.0)
        self.active = any(self.strengths) or self.lighting > 0

    def draw(self, sizes: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Draw matrix, mean (B, 3, 3) and offset (B, 3), float32: M, A and t for pixels of 0..255."""
        count = len(random)
        u = random.uniform(8)
        strengths = np.array(self.strengths)
        low = np.append(np.maximum(0, 1 - strengths[:3]), -strengths[3])
        high = np.append(1 + strengths[:3], strengths[3])
        values = low + (high - low) * u[:, :4]
        order = np.argsort(u[:, 4:], axis=1)
        matrix = np.broadcast_to(np.eye(3), (count, 3, 3))
        mean, offset = np.zeros((count, 3, 3)), np.zeros((count, 3))
        for place in range(4):
            linear, of_mean = jitter_step(order[:, place], values[np.arange(count), order[:, place]])
            # the mean colour at this point of the chain is (M + A)·mean + t
            mean = linear @ mean + of_mean @ (matrix + mean)
            matrix = linear @ matrix
            offset = ((linear + of_mean) @ offset[:, :, None])[:, :, 0]
        offset = offset + 255 * (random.normal(3) * self.lighting * PCA_VALUES) @ PCA_VECTORS.T
        drawn = {"matrix": matrix, "mean": mean, "offset": offset}
        return {name: value.astype(np.float32) for name, value in drawn.items()}

    def graph(self, images: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        """Apply the map drawn, rounded and clipped."""
        average = fn.reductions.mean(images, axes=[0, 1], keep_dims=True, device=device)
        shift = fn.coord_transform(average, M=draws["mean"], T=draws["offset"], device=device)
        mapped = fn.coord_transform(images, M=draws["matrix"], device=device, dtype=types.FLOAT)
        return fn.reshape(fn.cast(mapped + shift, dtype=types.UINT8, device=device), layout="HWC", device=device)


def jitter_step(kind: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step of the chain, x → L x + C·mean(x): kind (B,) 0 brightness, 1 contrast, 2 saturation, 3 hue; → L, C (B,
    3, 3).
    """
    identity, grey = np.eye(3), np.tile(GREY, (3, 1))
    factor = np.where(kind < 3, value, 1.0)[:, None, None]
    turn = np.where(kind == 3, 2 * np.pi * value, 0.0)
    rotation = np.broadcast_to(identity, (len(kind), 3, 3)).copy()
    rotation[:, 1, 1] = rotation[:, 2, 2] = np.cos(turn)
    rotation[:, 1, 2], rotation[:, 2, 1] = -np.sin(turn), np.sin(turn)
    hue = np.linalg.inv(YIQ) @ rotation @ YIQ
    chosen = kind[:, None, None]
    linear = np.where(chosen == 3, hue, factor * identity + np.where(chosen == 2, (1 - factor) * grey, 0.0))
    return linear, np.where(chosen == 1, (1 - factor) * grey, 0.0)
