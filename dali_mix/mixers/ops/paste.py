"""Paste a box from each image's partner, or erase a box."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dali_mix.mixers import kernels
from dali_mix.mixers.ops.partners import check_partners

Interpolation = Literal["nearest", "bilinear"]


def paste_boxes(images: Tensor, permutation: Tensor, boxes: Tensor, *, inplace: bool = False) -> Tensor:
    """Paste the pixels inside box i of image permutation[i] at the same position into image i.

    Args:
        images: (B,C,H,W), any dtype.
        permutation: (B,) int64.
        boxes: (B,4) int64, top, left, height, width, inside the image.
        inplace: modify `images` itself; partners are read with their original values.

    Returns:
        new images (B,C,H,W), in the memory format of `images`; or `images` itself with `inplace`.

    Raises:
        ValueError: shapes do not match, `inplace` with images that cannot be modified, or, on a CPU, partners or boxes
            out of range.
    """
    check_batch(images, permutation, inplace)
    _check_boxes(images, boxes)
    return kernels.pick("paste", images)(images, permutation, boxes, inplace)


def paste_resized(
    images: Tensor, permutation: Tensor, boxes: Tensor, interpolation: Interpolation, *, inplace: bool = False
) -> Tensor:
    """Paste all of image permutation[i], resized to box i, into box i of image i.

    Args:
        images: (B,C,H,W), any dtype.
        permutation: (B,) int64.
        boxes: (B,4) int64, top, left, height, width, inside the image; an empty box changes nothing.
        interpolation: "nearest" or "bilinear" (antialiased), as in torch's `interpolate`. Bilinear values are summed in
            float32 by the compiled loops and in float64 by the plain torch backend.
        inplace: modify `images` itself; partners are read with their original values.

    Returns:
        new images (B,C,H,W), in the memory format of `images`; or `images` itself with `inplace`.

    Raises:
        ValueError: as for `paste_boxes`.
    """
    check_batch(images, permutation, inplace)
    _check_boxes(images, boxes)
    return kernels.pick(f"paste_{interpolation}", images)(images, permutation, boxes, inplace)


def erase_boxes(images: Tensor, boxes: Tensor, *, inplace: bool = False) -> Tensor:
    """Return `images` with all pixels inside box i of image i set to zero.

    `boxes`, `inplace`, result and errors are those of `paste_boxes`.
    """
    if inplace:
        check_inplace(images)
    _check_boxes(images, boxes)
    return kernels.pick("erase", images)(images, boxes, inplace)


def check_batch(images: Tensor, permutation: Tensor, inplace: bool) -> None:
    """Raise ValueError unless `permutation` has one entry per image and passes `check_partners`.

    With `inplace`, also raise ValueError unless `images` passes `check_inplace`.
    """
    if inplace:
        check_inplace(images)
    if tuple(permutation.shape) != (len(images),):
        raise ValueError(
            f"permutation has shape {tuple(permutation.shape)} for {len(images)} images: must be ({len(images)},)"
        )
    check_partners(permutation, len(images))


def check_inplace(images: Tensor) -> None:
    """Raise ValueError if `images` cannot be modified in place.

    This is the case if they require gradients, are inference tensors used outside inference mode, or contain several
    values at the same memory address, as after `expand`.
    """
    if images.requires_grad:
        raise ValueError("images that require gradients cannot be mixed in place: leave inplace=False, or detach them")
    if not torch.compiler.is_compiling() and images.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError("inference tensors cannot be mixed in place outside of inference mode: leave inplace=False")
    reach = 1  # number of memory slots spanned by the dimensions seen so far, innermost first
    for stride, size in sorted(zip(images.stride(), images.shape, strict=True)) if images.numel() else ():
        if size > 1:
            if stride < reach:
                raise ValueError(
                    f"images of shape {tuple(images.shape)}, strides {images.stride()}, share memory, as after expand, "
                    "and cannot be mixed in place: leave inplace=False, or clone them"
                )
            reach += (size - 1) * stride


def _check_boxes(images: Tensor, boxes: Tensor) -> None:
    count, _, height, width = images.shape
    if tuple(boxes.shape) != (count, 4):
        raise ValueError(f"boxes have shape {tuple(boxes.shape)} for {count} images: must be ({count}, 4)")
    if not kernels.pick("boxes_inside", boxes)(boxes, height, width):
        raise ValueError(
            f"boxes (top, left, height, width) reach outside the images of {height}×{width}: {boxes.tolist()}"
        )
