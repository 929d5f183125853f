"""Mixing augmentations for batches of images and targets.

`params = mixer.sample(...)` draws random params, and `images, targets = mixer.apply(images, targets, params)` mixes a
batch with them. Calling a mixer does both, in any PyTorch loop: `images, targets = CutMix(1000)(images, targets)`.
"""

from dali_mix.mixers.base import Mixer, PasteParams, Unmixed
from dali_mix.mixers.boxes import BoxPasteParams, BoxResizeMix, BoxSpliceMix, BoxSpliceParams
from dali_mix.mixers.choice import ChoiceParams, MixChoice
from dali_mix.mixers.cutmix import CutMix
from dali_mix.mixers.cutout import Cutout, CutoutParams
from dali_mix.mixers.description import MixedImage
from dali_mix.mixers.masks import FolderMaskParams, FolderMasks, FreeFormMasks, FreeFormParams, mask_out
from dali_mix.mixers.mixup import MixUp, MixUpParams
from dali_mix.mixers.ops.saliency import fine_grained_saliency
from dali_mix.mixers.registry import MIXERS, build, check_named, find
from dali_mix.mixers.resizemix import ResizeMix
from dali_mix.mixers.resizemix_plus import ResizeMixPlus, ResizeMixPlusParams
from dali_mix.mixers.saliencymix import SaliencyMix, SaliencyMixParams
from dali_mix.mixers.splicemix import SpliceMix, SpliceMixParams

__all__ = [
    "MIXERS",
    "BoxPasteParams",
    "BoxResizeMix",
    "BoxSpliceMix",
    "BoxSpliceParams",
    "ChoiceParams",
    "CutMix",
    "Cutout",
    "CutoutParams",
    "FolderMaskParams",
    "FolderMasks",
    "FreeFormMasks",
    "FreeFormParams",
    "MixChoice",
    "MixUp",
    "MixUpParams",
    "MixedImage",
    "Mixer",
    "PasteParams",
    "ResizeMix",
    "ResizeMixPlus",
    "ResizeMixPlusParams",
    "SaliencyMix",
    "SaliencyMixParams",
    "SpliceMix",
    "SpliceMixParams",
    "Unmixed",
    "build",
    "check_named",
    "find",
    "fine_grained_saliency",
    "mask_out",
]
