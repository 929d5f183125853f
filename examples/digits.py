"""Helpers for the examples: scikit-learn's scans of handwritten digits, a small network, and its accuracy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

CLASSES = 10
HELD_OUT = 360


def scans() -> tuple[Tensor, Tensor]:
    """Return 1,797 images (B,1,16,16) float32 in 0..1, in a fixed shuffled order, and their digits (B,) int64."""
    pixels, digits = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    enlarged = F.interpolate(images, scale_factor=2, mode="bilinear")
    return enlarged[order], torch.from_numpy(digits).long()[order]


def small_cnn() -> nn.Sequential:
    """Return a network (B,1,16,16) → logits (B,10). Set torch's seed to 0, so that all calls return equal weights."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4 * 4, CLASSES))


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Switch `model` to evaluation mode, and return the percentage of images whose largest logit is their label's."""
    model.eval()
    return 100 * (model(images).argmax(1) == labels).float().mean().item()
