"""Every mixer, constructed with small arguments."""

import torch

from dali_mix.mixers import CutMix, Cutout, MixChoice, MixUp, ResizeMix, ResizeMixPlus, SaliencyMix, SpliceMix

MEAN, STD = (0.5,) * 3, (0.25,) * 3
MAKERS = {
    "CutMix": lambda: CutMix(4),
    "ResizeMix": lambda: ResizeMix(4),
    "ResizeMix bilinear": lambda: ResizeMix(4, interpolation="bilinear"),
    "MixUp": lambda: MixUp(4, alpha=1.0),
    "Cutout": lambda: Cutout(4),
    "SaliencyMix": lambda: SaliencyMix(4, mean=MEAN, std=STD),
    "MixChoice": lambda: MixChoice([CutMix(4), MixUp(4)], [0.3, 0.3]),
    "ResizeMixPlus": lambda: ResizeMixPlus(4),
    "SpliceMix": lambda: SpliceMix(num_classes=4),
}
INPLACE = [name for name in MAKERS if name not in ("ResizeMixPlus", "SpliceMix")]


def images(channels=3, count=4):
    return torch.rand(count, channels, 12, 9, generator=torch.Generator().manual_seed(0))


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)
