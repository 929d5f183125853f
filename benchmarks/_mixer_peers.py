"""Other projects' mixers as functions (images, labels) → (images, targets), for `benchmarks/mixers.py`.

Installed packages are called directly. Code that cannot be installed alongside dali_mix is reimplemented with the steps
that take time: what is gathered, copied and resized, and for how many images at once. These mixers are marked
"published logic". Targets are mixed one-hot rows, unless a package returns something else.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
_GRIDS = ((1, 2), (2, 2), (2, 3))


def packages(classes: int, own: Tensor) -> dict[str, Mix]:
    """Return the mixers of torchvision, timm and kornia by name; those of packages that are not installed are omitted.

    timm's mix the batch `own` in place and ignore the images that they are called with.
    """
    peers: dict[str, Mix] = {}
    if importlib.util.find_spec("torchvision"):
        from torchvision.transforms import v2

        peers["torchvision CutMix"] = v2.CutMix(num_classes=classes)
        peers["torchvision MixUp"] = v2.MixUp(num_classes=classes)
    if importlib.util.find_spec("timm"):
        from timm.data import Mixup

        for mode in ("batch", "elem"):
            for name, alphas in (("CutMix", (0.0, 1.0)), ("MixUp", (0.2, 0.0))):
                mixup = Mixup(*alphas, mode=mode, label_smoothing=0.0, num_classes=classes)
                peers[f"timm {name} {mode} (in place)"] = lambda images, labels, mixup=mixup: mixup(own, labels)
    if importlib.util.find_spec("kornia"):
        import kornia.augmentation as K

        cutmix = K.RandomCutMixV2(data_keys=["input", "class"], use_correct_lambda=True)
        mixup = K.RandomMixUpV2(data_keys=["input", "class"])
        peers["kornia CutMix"], peers["kornia MixUp"] = cutmix, mixup
    return peers


def published(classes: int) -> dict[str, Mix]:
    """Return, by name, the reimplemented mixers: openmixup's CutMix, ResizeMix and SaliencyMix, and SpliceMix.

    SaliencyMix is omitted if cv2 lacks the contrib modules.
    """
    peers: dict[str, Mix] = {
        "openmixup CutMix (published logic)": lambda images, labels: _cutmix(images, labels, classes),
        "openmixup ResizeMix (published logic)": lambda images, labels: _resizemix(images, labels, classes),
        "SpliceMix released (published logic)": lambda images, labels: _splicemix(images, labels, classes),
    }
    if saliency_detector() is not None:
        peers["openmixup SaliencyMix (published logic)"] = lambda images, labels: _saliencymix(images, labels, classes)
    return peers


def saliency_detector() -> Callable[[], object] | None:
    """Return the factory of OpenCV's StaticSaliencyFineGrained, or None if cv2 lacks the contrib modules."""
    try:
        from cv2 import saliency
    except ImportError:
        return None
    return saliency.StaticSaliencyFineGrained_create


def _targets(labels: Tensor, order: Tensor, lam: float, classes: int) -> Tensor:
    rows = F.one_hot(labels, classes).float()
    return lam * rows + (1 - lam) * rows[order]


def _box(height: int, width: int, centre_y: int, centre_x: int, lam: float) -> tuple[int, int, int, int]:
    half_h, half_w = int(height * math.sqrt(1 - lam)) // 2, int(width * math.sqrt(1 - lam)) // 2
    top, left = max(centre_y - half_h, 0), max(centre_x - half_w, 0)
    return top, min(centre_y + half_h, height), left, min(centre_x + half_w, width)


def _pick(count: int) -> int:
    return int(torch.randint(count, ()))


def _cutmix(images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Apply CutMix with one box per batch; only the partners' pixels in the box are gathered."""
    height, width = images.shape[2:]
    order = torch.randperm(len(images), device=images.device)
    top, bottom, left, right = _box(height, width, _pick(height), _pick(width), float(torch.rand(())))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[order, :, top:bottom, left:right]
    return mixed, _targets(labels, order, 1 - (bottom - top) * (right - left) / (height * width), classes)


def _saliencymix(images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Apply SaliencyMix with one box per batch, centred where OpenCV finds the first partner most salient."""
    make = saliency_detector()
    assert make is not None
    height, width = images.shape[2:]
    order = torch.randperm(len(images), device=images.device)
    first = images[order[0]].permute(1, 2, 0).cpu().numpy()
    grey = ((first - first.min()) / max(float(first.max() - first.min()), 1e-6) * 255).astype("uint8")
    _, found = make().computeSaliency(grey)  # type: ignore[attr-defined]
    peak = int(found.argmax())
    top, bottom, left, right = _box(height, width, peak // width, peak % width, float(torch.rand(())))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[order, :, top:bottom, left:right]
    return mixed, _targets(labels, order, 1 - (bottom - top) * (right - left) / (height * width), classes)


def _resizemix(images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Apply ResizeMix with one τ and one box per batch; all partners are gathered, then resized together."""
    height, width = images.shape[2:]
    order = torch.randperm(len(images), device=images.device)
    tau = 0.1 + 0.7 * float(torch.rand(()))
    box_h, box_w = int(height * tau), int(width * tau)
    small = F.interpolate(images[order], (box_h, box_w), mode="nearest")
    top, left = _pick(height - box_h + 1), _pick(width - box_w + 1)
    mixed = images.clone()
    mixed[:, :, top : top + box_h, left : left + box_w] = small
    return mixed, _targets(labels, order, 1 - box_h * box_w / (height * width), classes)


def _splicemix(images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Append ⌊B/4⌋ tiled images as in the released code.

    All sources are gathered, dropped cells are multiplied by 0, and all cells are resized at once. The cells are copied
    one by one into one tall image. It is split and stacked, and the tiled images are resized if their size differs from
    that of the batch.
    """
    count, channels, height, width = images.shape
    rows, cols = _GRIDS[int(torch.multinomial(torch.tensor([0.3, 0.4, 0.3]), 1))]
    if rows != cols and torch.rand(()) < 0.5:
        rows, cols = cols, rows
    cells, appended = rows * cols, count // 4
    targets = F.one_hot(labels, classes).float()
    orders = torch.cat([torch.randperm(count) for _ in range(10)])[: appended * cells].to(images.device)
    shown, seen = images[orders], targets[orders]
    if torch.rand(()) < 0.3:
        drops = 1 + _pick(cells - 1)
        kept = (torch.rand(appended, cells).argsort(1) >= drops).float().flatten().to(images.device)
        shown, seen = shown * kept[:, None, None, None].to(images.dtype), seen * kept[:, None]
    cell_h, cell_w = height // rows, width // cols
    shown = F.interpolate(shown, (cell_h, cell_w), mode="bilinear", align_corners=True)
    tall = shown.new_zeros(channels, appended * rows * cell_h, cols * cell_w)
    for place, cell in enumerate(shown):
        top, left = place // cols * cell_h, place % cols * cell_w
        tall[:, top : top + cell_h, left : left + cell_w] = cell
    tiled = torch.stack(tall.split(rows * cell_h, dim=1))
    if tiled.shape[2:] != images.shape[2:]:
        tiled = F.interpolate(tiled, (height, width), mode="bilinear", align_corners=True)
    union = (seen.view(appended, cells, -1).sum(1) > 0).float()
    return torch.cat([images, tiled]), torch.cat([targets, union])


def quiet() -> None:
    """Hide kornia's warning about λ, which it repeats at every call."""
    warnings.filterwarnings("ignore", module="kornia")
