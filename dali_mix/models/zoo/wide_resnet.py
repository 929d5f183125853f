"""Wide ResNets for small images (arXiv 1605.07146).

State-dict keys are those of the ResizeMix and SaliencyMix releases.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dali_mix.models.zoo.init import he_init


class WideBlock(nn.Module):
    """BN-ReLU-conv, dropout, BN-ReLU-conv, plus a shortcut: the identity, or a 1×1 convolution if the shape changes.

    As in the released code, all convolutions have biases, and `stride` applies to the second 3×3 convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut.append(nn.Conv2d(in_channels, channels, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        out = self.dropout(self.conv1(F.relu(self.bn1(x))))
        out = self.conv2(F.relu(self.bn2(out)))
        return out + self.shortcut(x)


class WideResNet(nn.Module):
    """WRN-depth-widen: three stages of (depth - 4) / 6 blocks, 16, 32 and 64 times `widen` channels wide.

    Args:
        depth: 6n + 4, e.g. 16, 28, 40.
        widen: k ≥ 1.
        num_classes: outputs of the linear head.
        dropout: dropout rate between a block's convolutions; 0.3 in SaliencyMix's CIFAR protocol, 0 in ResizeMix's.
        zero_init_residual: initialize each block as the identity.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self, depth: int, widen: int, num_classes: int, dropout: float = 0.0, zero_init_residual: bool = False
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth={depth}: a Wide ResNet has a depth of 6n + 4 (10, 16, 22, 28, 34, 40 …)")
        if widen < 1:
            raise ValueError(f"widen={widen}: must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: must be in [0, 1)")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.layer1 = _stage(16, 16 * widen, blocks, 1, dropout)
        self.layer2 = _stage(16 * widen, 32 * widen, blocks, 2, dropout)
        self.layer3 = _stage(32 * widen, 64 * widen, blocks, 2, dropout)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.linear = nn.Linear(64 * widen, num_classes)
        he_init(self, zeros=("conv2.weight",) if zero_init_residual else ())

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last map, (B, 64·widen, H/4, W/4), of images (B,3,H,W)."""
        out = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        return F.relu(self.bn1(out))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B,3,H,W)."""
        return self.linear(self.forward_features(images).mean((2, 3)))


def _stage(in_channels: int, channels: int, blocks: int, stride: int, dropout: float) -> nn.Sequential:
    first = WideBlock(in_channels, channels, stride, dropout)
    return nn.Sequential(first, *(WideBlock(channels, channels, 1, dropout) for _ in range(blocks - 1)))
