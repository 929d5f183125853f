"""Colour jitter and PCA lighting as one affine map of each image's colours.

Brightness, contrast, saturation, a hue rotation and lighting are all affine in (red, green, blue), given the image's
mean colour (contrast pulls towards the mean grey). In any order, the complete chain is therefore x → M x + A·mean(x) +
t, with M, A (3×3) and t (3,) drawn per record. Once the mean is known, a single map is applied to the pixels, which are
rounded and clipped to 0..255 only once, at the end.
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
# Luma and the two chrominance axes of YIQ; hue rotates the latter two.
YIQ = np.array([GREY, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
# Eigenvalues and eigenvectors of the covariance of ImageNet's colours, 0..1 (Krizhevsky et al. 2012), as released in
# fb.resnet.torch.
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
PCA_VECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

# Ranges for `PhotometricDistort`: brightness, contrast, saturation, hue, and contrast if it comes last.
DISTORTIONS = np.array([[0.875, 1.125], [0.5, 1.5], [0.5, 1.5], [-0.05, 0.05], [0.5, 1.5]])


class Color(Step):
    """Colour jitter (like torchvision's ColorJitter, in an order drawn per record) and PCA lighting.

    Args:
        jitter: four strengths (brightness, contrast, saturation, hue), one strength for the first three, or None. With
            strength s, a factor is drawn uniformly from max(0, 1 - s) to 1 + s. For hue, s is at most 0.5, and a
            rotation of -s to s full turns is drawn.
        lighting: standard deviation of the three weights of the principal components; 0.1 in the papers.

    Hue is rotated in YIQ. (PIL and torchvision rotate it in HSV, which is not affine.) Values are not clipped between
    the changes.
    """

    moves = False

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
        """Draw matrix and mean (B, 3, 3) and offset (B, 3), float32: M, A and t (see the module) for pixels 0..255."""
        u = random.uniform(8)
        strengths = np.array(self.strengths)
        low = np.append(np.maximum(0, 1 - strengths[:3]), -strengths[3])
        high = np.append(1 + strengths[:3], strengths[3])
        values = low + (high - low) * u[:, :4]
        order = np.argsort(u[:, 4:], axis=1)
        offset = 255 * (random.normal(3) * self.lighting * PCA_VALUES) @ PCA_VECTORS.T
        return _chain(order, np.take_along_axis(values, order, axis=1)) | {"offset": offset.astype(np.float32)}

    def graph(self, images: DataNode, draws: Mapping[str, DataNode], device: str) -> DataNode:
        """Apply the drawn affine map, then round and clip to 0..255."""
        average = fn.reductions.mean(images, axes=[0, 1], keep_dims=True, device=device)
        shift = fn.coord_transform(average, M=draws["mean"], T=draws["offset"], device=device)
        mapped = fn.coord_transform(images, M=draws["matrix"], device=device, dtype=types.FLOAT)
        return fn.reshape(fn.cast(mapped + shift, dtype=types.UINT8, device=device), layout="HWC", device=device)


class PhotometricDistort(Color):
    """Change colours as in SSD (arXiv 1512.02325), with probability `prob`; each part then has probability ½.

    The parts are brightness by a factor of 0.875 to 1.125, contrast by 0.5 to 1.5 (before or after saturation and hue),
    saturation by 0.5 to 1.5, hue by -0.05 to 0.05 of a full turn, and a permutation of the channels. They are those of
    torchvision's RandomPhotometricDistort, except that hue and clipping are as in `Color`.
    """

    def __init__(self, prob: float) -> None:
        self.prob = number("photometric", prob, 0.0, 1.0)
        self.active = self.prob > 0

    def draw(self, sizes: np.ndarray, random: SampleRandom) -> dict[str, np.ndarray]:
        """Draw matrix, mean and offset, in the format of `Color.draw`; the offset is 0."""
        u = random.uniform(14)
        acts = (u[:, :1] < self.prob) & (u[:, 1:6] < 0.5)
        brightness, contrast, saturation, hue, swaps = acts.T
        first = u[:, 6] < 0.5  # contrast comes before saturation and hue
        kinds = np.broadcast_to([0, 1, 2, 3, 1], (len(u), 5))
        values = DISTORTIONS[:, 0] + (DISTORTIONS[:, 1] - DISTORTIONS[:, 0]) * u[:, [7, 8, 9, 10, 8]]
        active = np.stack([brightness, contrast & first, saturation, hue, contrast & ~first], axis=1)
        drawn = _chain(kinds, np.where(active, values, kinds != 3))
        permuted = np.where(swaps[:, None], np.argsort(u[:, 11:], axis=1), np.arange(3))
        drawn = {name: np.take_along_axis(value, permuted[:, :, None], axis=1) for name, value in drawn.items()}
        return drawn | {"offset": np.zeros((len(u), 3), np.float32)}


def _chain(kinds: np.ndarray, values: np.ndarray) -> dict[str, np.ndarray]:
    """Combine K colour changes of each image into one map, M x + A·mean(x).

    Column i of `kinds` and `values` (B, K) are the arguments of `jitter_step` for the change applied i-th. Return a
    dict of "matrix", M, and "mean", A, (B, 3, 3) float32 each.
    """
    matrix = np.broadcast_to(np.eye(3), (len(kinds), 3, 3))
    mean = np.zeros((len(kinds), 3, 3))
    for kind, value in zip(kinds.T, values.T, strict=True):
        linear, of_mean = jitter_step(kind, value)
        mean = linear @ mean + of_mean @ (matrix + mean)  # the mean colour at this point is (M + A)·mean
        matrix = linear @ matrix
    return {"matrix": matrix.astype(np.float32), "mean": mean.astype(np.float32)}


def jitter_step(kind: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices L and C (B, 3, 3) of one colour change per image, x → L x + C·mean(x).

    `kind` (B,) is 0 for brightness, 1 for contrast, 2 for saturation and 3 for hue. `value` (B,) is the factor or, for
    hue, the rotation in full turns.
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
