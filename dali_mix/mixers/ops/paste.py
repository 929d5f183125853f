"""Changing a box, or all, of each image by its partner: the way that suits the batch is chosen here.

On a CPU loops compiled by numba (`numba_batch`), on a CUDA device one Triton kernel (`triton_batch`); plain torch
operations (`torch_paste`) where gradients are wanted, under torch.compile, and for what those two do not take. The
pixels are the same.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dali_mix.mixers.kernels import numba_batch, torch_paste, triton_batch
from dali_mix.mixers.ops.inplace import check_inplace

Interpolation = Literal["nearest", "bilinear"]


def paste_boxes(images: Tensor, permutation: Tensor, boxes: Tensor, *, inplace: bool = False) -> Tensor:
    """Image i with the pixels of image permutation[i] inside box i.

    Args:
        images: (B,C,H,W), any dtype.
        permutation: (B,) int64.
        boxes: (B,4) int64, top, left, height, width, inside the image.
        inplace: change `images` itself; every pixel pasted is the one that was there before.

    Returns:
        new images (B,C,H,W), in the memory format of `images`; or `images`.

    Raises:
        ValueError: shapes do not fit, `inplace` with images that cannot be changed, and on a CPU partners or boxes that
            do not exist.
    """
    _check(images, permutation, boxes, inplace)
    if numba_batch.takes(images):
        return numba_batch.paste(images, permutation, boxes, "same place", inplace)
    if triton_batch.takes(images):
        return triton_batch.paste(images, permutation, boxes, "same place", inplace)
    return _into(images, torch_paste.same_place(images, permutation, boxes), inplace)


def paste_resized(
    images: Tensor, permutation: Tensor, boxes: Tensor, interpolation: Interpolation, *, inplace: bool = False
) -> Tensor:
    """Image i with the whole image permutation[i], resized to box i, inside box i.

    Args:
        images: (B,C,H,W), any dtype.
        permutation: (B,) int64.
        boxes: (B,4) int64, top, left, height, width, inside the image; an empty one changes nothing.
        interpolation: "nearest" or "bilinear" (antialiased), as torch's `interpolate`; bilinear sums in float32.
        inplace: change `images` itself; every pixel pasted is made of those that were there before.

    Returns:
        new images (B,C,H,W), in the memory format of `images`; or `images`.

    Raises:
        ValueError: as `paste_boxes`.
    """
    _check(images, permutation, boxes, inplace)
    if interpolation == "nearest":
        if numba_batch.takes(images):
            return numba_batch.paste(images, permutation, boxes, "nearest", inplace)
        if triton_batch.takes(images):
            return triton_batch.paste(images, permutation, boxes, "nearest", inplace)
        return _into(images, torch_paste.nearest(images, permutation, boxes), inplace)
    if numba_batch.takes(images, (torch.float32, torch.uint8)):
        return numba_batch.paste(images, permutation, boxes, "bilinear", inplace)
    return _into(images, torch_paste.bilinear(images, permutation, boxes), inplace)


def erase_boxes(images: Tensor, boxes: Tensor, *, inplace: bool = False) -> Tensor:
    """Image i with zeros inside box i; arguments, result and errors as of `paste_boxes`."""
    _check(images, None, boxes, inplace)
    if numba_batch.takes(images):
        return numba_batch.paste(images, None, boxes, "zeros", inplace)
    if triton_batch.takes(images):
        return triton_batch.paste(images, None, boxes, "zeros", inplace)
    return _into(images, torch_paste.zeros(images, boxes), inplace)


def blend(images: Tensor, permutation: Tensor, lam: Tensor, *, inplace: bool = False) -> Tensor:
    """lam · image + (1 - lam) · partner, in float32; whole-number pixels are rounded.

    Args:
        images: (B,C,H,W), any real dtype.
        permutation: (B,) int64.
        lam: (B,) float32 in [0,1].
        inplace: change `images` itself; every partner is taken as it was before.

    Returns:
        new images (B,C,H,W), in the memory format of `images`; or `images`.

    Raises:
        ValueError: as `paste_boxes`.
    """
    _check(images, permutation, None, inplace)
    if tuple(lam.shape) != (len(images),):
        raise ValueError(f"lam has shape {tuple(lam.shape)} for {len(images)} images: one number an image is needed")
    wants_gradients = lam.requires_grad and torch.is_grad_enabled()
    if not wants_gradients and numba_batch.takes(images, (torch.float32,)):
        return numba_batch.blend(images, permutation, lam, inplace)
    if not wants_gradients and triton_batch.takes(images, triton_batch.BLENDED):
        return triton_batch.blend(images, permutation, lam, inplace)
    return _into(images, torch_paste.blend(images, permutation, lam), inplace)


def _into(images: Tensor, mixed: Tensor, inplace: bool) -> Tensor:
    return images.copy_(mixed) if inplace else mixed


def _check(images: Tensor, permutation: Tensor | None, boxes: Tensor | None, inplace: bool) -> None:
    if inplace:
        check_inplace(images)
    count, _, height, width = images.shape
    if permutation is not None and tuple(permutation.shape) != (count,):
        raise ValueError(f"permutation has shape {tuple(permutation.shape)} for {count} images: must be ({count},)")
    if boxes is not None and tuple(boxes.shape) != (count, 4):
        raise ValueError(f"boxes have shape {tuple(boxes.shape)} for {count} images: must be ({count}, 4)")
    # The numbers are looked at on a CPU only: on a GPU a look is a wait.
    if images.device.type != "cpu" or torch.compiler.is_compiling() or not count:
        return
    if numba_batch.inside(permutation, boxes, count, height, width):
        return
    if permutation is not None:
        partners = permutation.numpy()
        if not 0 <= partners.min() <= partners.max() < count:
            raise ValueError(f"permutation names images outside 0 … {count - 1}: {permutation.tolist()}")
    if boxes is not None:
        places = boxes.numpy()
        # A sum of corner and side would wrap around where they are near 2^63.
        if places.min() < 0 or (places[:, 2:] > np.array([height, width]) - places[:, :2]).any():
            raise ValueError(
                f"boxes (top, left, height, width) reach outside the images of {height}×{width}: {boxes.tolist()}"
            )
