"""Models that each misbehave in one way, such as a non-finite gradient, unused parameters or constant scores."""

import torch
from torch import nn

from tests.engine.synthetic import TinyNet


class Broken(TinyNet):
    """TinyNet that breaks in its `at`-th training pass, or in all (`always`), on rank `rank` or on every rank (None).

    how: "gradient" adds a term with value 0 and gradient NaN; "infinite gradient" adds one with an infinite gradient.
    "statistics" puts NaN into the running mean of a layer whose output does not affect the logits.
    """

    def __init__(self, num_classes, how="gradient", at=4, rank=None, always=False):
        super().__init__(num_classes, dropout=0.0)
        self.how, self.at, self.rank, self.always = how, at, rank, always
        self.side = nn.BatchNorm2d(3)
        self.passes = 0

    def forward(self, images):
        logits = super().forward(images)
        if not self.training:
            return logits
        self.passes += 1
        here = self.rank is None or not torch.distributed.is_initialized() or torch.distributed.get_rank() == self.rank
        broken = here and (self.passes == self.at or self.always)
        side = self.side(images * (float("nan") if broken and self.how == "statistics" else 1.0))
        logits = logits + 0.0 * torch.nan_to_num(side).sum()
        if broken and self.how == "gradient":
            logits = logits + 0.0 * torch.sqrt((logits - logits.detach()) ** 2).sum()
        if broken and self.how == "infinite gradient":
            gone = logits - logits.detach()
            logits = logits + torch.where(gone == 0, Unbounded.apply(logits), logits)
        return logits


class Unbounded(torch.autograd.Function):
    """Function with value 0 and an infinite gradient."""

    @staticmethod
    def forward(ctx, inputs):
        return torch.zeros_like(inputs)

    @staticmethod
    def backward(ctx, gradient):
        return torch.full_like(gradient, float("inf"))


class Scoring(nn.Module):
    """Linear model whose logits in evaluation are NaN for bright images (how="nan"), or constant."""

    def __init__(self, num_classes, how="nan"):
        super().__init__()
        self.head = nn.Linear(3, num_classes)
        self.how = how

    def forward(self, images):
        logits = self.head(images.mean((2, 3)))
        if self.training:
            return logits
        if self.how == "nan":
            return torch.where(images.mean((1, 2, 3))[:, None] > 0.25, float("nan"), logits)
        return torch.full_like(logits, 0.3)


class Unused(TinyNet):
    """TinyNet with a layer that is never used."""

    def __init__(self, num_classes, frozen=False):
        super().__init__(num_classes, dropout=0.0)
        self.aux = nn.Linear(4, 4).requires_grad_(not frozen)


class Sometimes(TinyNet):
    """TinyNet with a layer that is used in every other pass only."""

    def __init__(self, num_classes):
        super().__init__(num_classes, dropout=0.0)
        self.aux, self.passes = nn.Linear(num_classes, num_classes), 0

    def forward(self, images):
        logits = super().forward(images)
        self.passes += 1
        return self.aux(logits) if self.passes % 2 else logits


class Pooled(nn.Module):
    """Model with BatchNorm over one value per image, so training fails on a batch of one image."""

    def __init__(self, num_classes):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, num_classes)
        )

    def forward(self, images):
        return self.net(images)
