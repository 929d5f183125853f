"""Shake-Shake 26 2×Nd (arXiv 1705.07485), with the state-dict keys of the ResizeMix release."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dali_mix.models.zoo.init import he_init


class _Mix(torch.autograd.Function):
    """The sum forward_share · first + (1 - forward_share) · second; its gradients use backward_share instead."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, forward_share: Tensor, backward_share: Tensor) -> Tensor:
        ctx.save_for_backward(backward_share)
        return torch.lerp(second, first, forward_share)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (share,) = ctx.saved_tensors
        return grads[0] * share, grads[0] * (1 - share), None, None


class Shortcut(nn.Module):
    """A shortcut that downsamples by `stride`: ReLU, two 1×1 convolutions side by side, concatenation, BatchNorm.

    Each convolution returns half of the channels. The second one gets the map shifted up and left by one pixel.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.conv2 = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        shifted = F.pad(x, (-1, 1, -1, 1))
        step = self.stride
        halves = self.conv1(x[:, :, ::step, ::step]), self.conv2(shifted[:, :, ::step, ::step])
        return self.bn(torch.cat(halves, 1))


class ShakeBlock(nn.Module):
    """Residual block with two branches, summed with random per-image weights; in evaluation each weight is 1/2.

    In training, the backward pass uses weights drawn separately. As in dropout, the device's default torch generator
    draws the weights of both passes.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.same_shape = in_channels == channels
        self.shortcut = Shortcut(in_channels, channels, stride)
        if self.same_shape:
            # The shortcut is the identity here, but released checkpoints contain these weights: keep them, untrained.
            self.shortcut.requires_grad_(False)
        self.branch1 = _branch(in_channels, channels, stride)
        self.branch2 = _branch(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.branch1(x), self.branch2(x)
        if self.training:
            forward_share, backward_share = torch.rand((2, len(x), 1, 1, 1), dtype=first.dtype, device=x.device)
            mixed = _Mix.apply(first, second, forward_share, backward_share)
        else:
            mixed = (first + second) * 0.5
        return mixed + (x if self.same_shape else self.shortcut(x))


class ShakeShake(nn.Module):
    """Shake-Shake 26 2×`width`d: three stages of four blocks, `width`, 2·`width` and 4·`width` channels wide.

    Args:
        width: N of 2×Nd, even; 32, 64, 96 and 112 are published.
        num_classes: outputs of the linear head.
        zero_init_residual: initialize each block as the identity.

    Raises:
        ValueError: an odd width, or one below 2.
    """

    def __init__(self, width: int, num_classes: int, zero_init_residual: bool = False) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width={width}: must be even and at least 2")
        self.c_in = nn.Conv2d(3, 16, 3, padding=1)
        self.layer1 = _stage(16, width, 1)
        self.layer2 = _stage(width, 2 * width, 2)
        self.layer3 = _stage(2 * width, 4 * width, 2)
        self.fc_out = nn.Linear(4 * width, num_classes)
        he_init(self, zeros=("branch1.5.weight", "branch2.5.weight") if zero_init_residual else ())

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last map, (B, 4·width, H/4, W/4), of images (B,3,H,W)."""
        return F.relu(self.layer3(self.layer2(self.layer1(self.c_in(images)))))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B,3,H,W)."""
        return self.fc_out(self.forward_features(images).mean((2, 3)))


def _branch(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    )


def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = ShakeBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(ShakeBlock(channels, channels, 1) for _ in range(3)))
