"""The crop test of ResizeMix on CIFAR (arXiv 2012.11101): the full image and its centre, weighted by area."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dali_mix.options import whole


class CropTest(nn.Module):
    """A classifier that averages a model's logits for the full image and for its central crop, weighted by area.

    The result is (1 - a) · z(x) + a · z(x'), where z are the model's logits, x' is x with all pixels outside the crop
    set to `fill`, and a = crop² / (H · W), 24² / 32² on CIFAR. For evaluation only, since it runs the model twice.

    Args:
        model: (B,C,H,W) → logits (B,K).
        crop: side of the central square in pixels. If H - crop (W - crop) is odd, the square lies half a pixel above
            (left of) the centre.
        fill: value of the pixels outside the crop; 0 is the mean colour of normalized images.

    Raises:
        ValueError: crop below 1; in `forward`, a crop larger than the images.
    """

    def __init__(self, model: nn.Module, crop: int = 24, fill: float = 0.0) -> None:
        super().__init__()
        self.model, self.crop, self.fill = model, whole("crop", crop, 1), fill

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if self.crop > min(height, width):
            raise ValueError(f"crop={self.crop} is larger than the images, {height}×{width}")
        top, left = (height - self.crop) // 2, (width - self.crop) // 2
        window = (..., slice(top, top + self.crop), slice(left, left + self.crop))
        central = torch.full_like(images, self.fill)
        central[window] = images[window]
        share = self.crop**2 / (height * width)
        return (1 - share) * self.model(images) + share * self.model(central)
