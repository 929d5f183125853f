"""The weighted mean of each image and its partner."""

from __future__ import annotations

from torch import Tensor

from dali_mix.mixers import kernels
from dali_mix.mixers.ops.paste import check_batch


def blend(images: Tensor, permutation: Tensor, lam: Tensor, *, inplace: bool = False) -> Tensor:
    """Return lam · images + (1 - lam) · images[permutation]; integer pixels are rounded.

    Computed in float32 (float64 for float64 images).

    Args:
        images: (B,C,H,W), any real dtype.
        permutation: (B,) int64, the partner of each image.
        lam: (B,) float32 in [0,1].
        inplace: modify `images` itself; partners are read with their original values.

    Returns:
        new images (B,C,H,W), in the memory format of `images`; or `images` itself with `inplace`.

    Raises:
        ValueError: shapes do not match, `inplace` with images that cannot be modified, or, on a CPU, partners out of
            range.
    """
    check_batch(images, permutation, inplace)
    if tuple(lam.shape) != (len(images),):
        raise ValueError(f"lam has shape {tuple(lam.shape)} for {len(images)} images: must be one number per image")
    return kernels.pick("blend", images, lam)(images, permutation, lam, inplace)
