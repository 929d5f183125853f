"""Bottleneck ResNets (arXiv 1512.03385) with a CIFAR stem: 3×3 convolution, no pooling before the first stage.

State-dict keys are those of the checkpoints released with the SaliencyMix replication.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from dali_mix.models.zoo.init import he_init

STAGES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
EXPANSION = 4


class ConvBn(nn.Module):
    """Convolution without bias, then BatchNorm; the map keeps its size, or is downsampled by `stride`."""

    def __init__(self, in_channels: int, channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Bottleneck(nn.Module):
    """Bottleneck block: 1×1, 3×3 (strided) and 1×1 convolutions.

    With `project`, the shortcut is a 1×1 convolution and a BatchNorm, otherwise the identity. The caller must set
    `project` if the shape changes. The shortcut's convolution has a bias, as in the released code.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, project: bool) -> None:
        super().__init__()
        # Camel-case names, as in the released checkpoints.
        self.convBn1 = ConvBn(in_channels, channels)
        self.convBn2 = ConvBn(channels, channels, 3, stride)
        self.convBn3 = ConvBn(channels, channels * EXPANSION)
        self.projection = nn.Sequential()
        if project:
            convolution = nn.Conv2d(in_channels, channels * EXPANSION, 1, stride=stride)
            norm = nn.BatchNorm2d(channels * EXPANSION)
            self.projection = nn.Sequential(OrderedDict(convP=convolution, bnP=norm))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.convBn1(x))
        out = F.relu(self.convBn2(out))
        return F.relu(self.convBn3(out) + self.projection(x))


class CifarResNet(nn.Module):
    """ResNet-50 or ResNet-101 for images of about 32 pixels.

    Args:
        depth: 50 or 101.
        num_classes: outputs of the linear head.
        zero_init_residual: initialize each block as the identity (arXiv 1706.02677).

    Raises:
        ValueError: `depth` is neither 50 nor 101.
    """

    def __init__(self, depth: int, num_classes: int, zero_init_residual: bool = False) -> None:
        super().__init__()
        if depth not in STAGES:
            raise ValueError(f"depth={depth}: must be one of {', '.join(map(str, STAGES))}")
        self.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(64)
        counts = STAGES[depth]
        self.layer1 = _stage(64, 64, counts[0], 1)
        self.layer2 = _stage(64 * EXPANSION, 128, counts[1], 2)
        self.layer3 = _stage(128 * EXPANSION, 256, counts[2], 2)
        self.layer4 = _stage(256 * EXPANSION, 512, counts[3], 2)
        self.fc = nn.Linear(512 * EXPANSION, num_classes)
        he_init(self, zeros=("convBn3.bn.weight",) if zero_init_residual else ())

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last map, (B, 2048, H/8, W/8), of images (B,3,H,W)."""
        out = F.relu(self.bn0(self.conv0(images)))
        return self.layer4(self.layer3(self.layer2(self.layer1(out))))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B,3,H,W)."""
        return self.fc(self.forward_features(images).mean((2, 3)))


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, channels, stride, project=True)
    rest = (Bottleneck(channels * EXPANSION, channels, 1, project=False) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
