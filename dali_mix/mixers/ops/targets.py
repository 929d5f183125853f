"""Mix targets, by area or by union.

A mixed target is a row of K float32 values.

| targets | meaning | mixed by area | mixed by union |
|---|---|---|---|
| (B,) integers | class | rows sum to 1 | 1 for each class shown |
| (B,K) float, rows sum to 1 | soft label | rows sum to 1 | largest share of each class |
| (B,K) of {1, 0, -1} | multi-hot, -1 = ignore | shares, -1 where unknown | 1 for each class shown, -1 where unknown |
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dali_mix.mixers import kernels
from dali_mix.mixers.kernels.torch_per_image import zeros
from dali_mix.mixers.ops.partners import check_partners, of_partners

Combine = Literal["area", "union"]
TargetKind = Literal["class", "soft", "multi-hot", "soft multi-hot"]


def mixed_kind(kind: TargetKind, combine: Combine | None) -> TargetKind:
    """Return the kind of targets that a mixer makes from targets of `kind`.

    `combine` is the attribute of the mixer. It is None if there is no mixer, or if the mixer returns targets unchanged.

    The union of class indices is multi-hot, with the classes of all visible images. The union of soft labels keeps the
    largest share of each class, so rows no longer sum to 1.
    """
    if combine is None:
        return kind
    single = kind in ("class", "soft")
    if combine == "area":
        return "soft" if single else "soft multi-hot"
    return "multi-hot" if kind in ("class", "multi-hot") else "soft multi-hot"


def to_soft(targets: Tensor, num_classes: int | None) -> Tensor:
    """Convert targets to (B,K) float32: class indices become one-hot rows, (B,K) targets keep their values.

    Args:
        targets: (B,) of an integer dtype, 0 … num_classes - 1, or (B,K) of any dtype.
        num_classes: K; may be None only if targets are already (B,K).

    Raises:
        ValueError: wrong shape, dtype, class index or K. Class indices are checked on the CPU only, since on a GPU the
            check would synchronize, and not under torch.compile.
    """
    _check(targets, num_classes)
    if targets.ndim == 2:
        return targets.float()
    assert num_classes is not None
    return zeros(targets, len(targets), num_classes).scatter_(1, targets.long()[:, None], 1.0)


def _check(targets: Tensor, num_classes: int | None) -> None:
    if targets.ndim == 2:
        if num_classes is not None and targets.shape[1] == 1 < num_classes and not targets.is_floating_point():
            raise ValueError("targets are (B,1): class indices must be (B,); squeeze(1) them")
        if num_classes is not None and targets.shape[1] != num_classes:
            raise ValueError(
                f"targets have {targets.shape[1]} columns, the mixer has num_classes={num_classes}: "
                "build it with the dataset's number of classes"
            )
        return
    if targets.ndim != 1 or targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(
            f"targets are {tuple(targets.shape)} {targets.dtype}: a mixer takes (B,) class indices of an integer "
            "dtype, or (B,K) soft or multi-hot rows"
        )
    if num_classes is None:
        raise ValueError("class indices cannot be mixed without num_classes: give it to the mixer")
    if not kernels.pick("in_range", targets)(targets, num_classes):
        low, high = (int(end) for end in targets.aminmax())
        raise ValueError(f"class indices span {low} … {high}, outside 0 … {num_classes - 1} (num_classes)")


def mix_area(targets: Tensor, permutation: Tensor, lam: Tensor, num_classes: int | None = None) -> Tensor:
    """Return lam · targets + (1 - lam) · targets[permutation].

    An entry is -1 (ignored) where a target with a weight above 0 is -1.

    Args:
        targets: (B,) class indices or (B,K), as for `to_soft`.
        permutation: (B,) int64.
        lam: (B,) float32 in [0,1], the image's own share.
        num_classes: K; may be None only if targets are already (B,K).

    Returns:
        (B,K) float32. If an image and its partner have the same class index, its entry is exactly 1.

    Raises:
        ValueError: as for `to_soft`; also shapes that do not match or, on a CPU, partners out of range.
    """
    if not permutation.shape == lam.shape == targets.shape[:1]:
        raise ValueError(
            f"permutation {tuple(permutation.shape)} and lam {tuple(lam.shape)} do not fit {len(targets)} targets: "
            "both need one number per sample"
        )
    _check(targets, num_classes)
    if targets.ndim == 1:
        check_partners(permutation, len(targets))
        return kernels.pick("mix_classes", targets, lam)(targets, permutation, lam, num_classes)
    own, other, share = targets.float(), of_partners(targets, permutation).float(), lam[:, None]
    unknown = ((own < 0) & (share > 0)) | ((other < 0) & (share < 1))
    return (share * own + (1 - share) * other).masked_fill(unknown, -1.0)


def unite(targets: Tensor, soft: Tensor, sources: Tensor, dropped: Tensor) -> Tensor:
    """Return the targets of tiled images, each the union of the targets of its cells.

    For each class, the union is the largest target if that is above 0, else -1 if any target is ignored, else 0.

    Args:
        targets: (B,) class indices or (B,K).
        soft: (B,K) float32, `targets` converted by `to_soft`.
        sources: (n,cells) int64, the image in each cell.
        dropped: (n,cells) bool, True for a cell that does not count.

    Returns:
        (n,K) float32; 0 for an image with all cells dropped.
    """
    if targets.ndim == 2:
        shown = soft[sources].masked_fill(dropped[:, :, None], 0.0)
        most, least = shown.amax(1), shown.amin(1)
        return torch.where(most > 0, most, least)
    # Class indices are written directly to their columns; dropped cells go to an extra column that is cut off.
    classes = soft.shape[1]
    hot = zeros(targets, len(sources), classes + 1)
    return hot.scatter_(1, targets.long()[sources].masked_fill(dropped, classes), 1.0)[:, :classes].contiguous()
