"""Per-pixel reference implementations of the mixers in plain Python."""

import math

import numpy as np
import torch


def cutmix(images, permutation, boxes):
    mixed = images.clone()
    count, _, height, width = images.shape
    for i in range(count):
        top, left, box_h, box_w = boxes[i]
        for y in range(height):
            for x in range(width):
                if top <= y < top + box_h and left <= x < left + box_w:
                    mixed[i, :, y, x] = images[permutation[i], :, y, x]
    return mixed


def nearest_index(pixel, size, full):
    # Like torch's interpolate, multiply by the ratio in float32.
    return math.floor(np.float32(pixel) * (np.float32(full) / np.float32(size)))


def resizemix_nearest(images, permutation, boxes):
    mixed = images.clone()
    count, _, height, width = images.shape
    for i in range(count):
        top, left, box_h, box_w = boxes[i]
        for y in range(box_h):
            for x in range(box_w):
                from_y, from_x = nearest_index(y, box_h, height), nearest_index(x, box_w, width)
                mixed[i, :, top + y, left + x] = images[permutation[i], :, from_y, from_x]
    return mixed


def triangle(pixel, size, full):
    """Return the weights of all `full` source pixels for output `pixel` of an antialiased bilinear downscaling."""
    ratio = full / size
    centre = (pixel + 0.5) * ratio
    weights = [max(0.0, 1 - abs((source + 0.5 - centre) / ratio)) for source in range(full)]
    return [weight / sum(weights) for weight in weights]


def resizemix_bilinear(images, permutation, boxes):
    mixed = images.double().clone()
    count, channels, height, width = images.shape
    for i in range(count):
        top, left, box_h, box_w = boxes[i]
        for y in range(box_h):
            weights_y = triangle(y, box_h, height)
            for x in range(box_w):
                weights_x = triangle(x, box_w, width)
                for c in range(channels):
                    source = images[permutation[i], c].double().tolist()
                    mixed[i, c, top + y, left + x] = sum(
                        weights_y[v] * weights_x[u] * source[v][u] for v in range(height) for u in range(width)
                    )
    return mixed


def mixup(images, permutation, lam):
    mixed = torch.empty_like(images, dtype=torch.float64)
    for i in range(images.shape[0]):
        mixed[i] = lam[i] * images[i].double() + (1 - lam[i]) * images[permutation[i]].double()
    return mixed


def cutout(images, boxes):
    mixed = images.clone()
    for i, (top, left, box_h, box_w) in enumerate(boxes):
        for y in range(top, top + box_h):
            for x in range(left, left + box_w):
                mixed[i, :, y, x] = 0
    return mixed


def targets_area(labels, permutation, lam, num_classes):
    mixed = torch.zeros(len(labels), num_classes, dtype=torch.float64)
    for i, label in enumerate(labels):
        mixed[i, label] += lam[i]
        mixed[i, labels[permutation[i]]] += 1 - lam[i]
    return mixed


def resize_aligned(image, height, width):
    """Resize a (C,H,W) image bilinearly with aligned corners, pixel by pixel, in float64."""
    channels, from_h, from_w = image.shape
    source = image.double()
    out = torch.empty(channels, height, width, dtype=torch.float64)
    for y in range(height):
        at_y = y * (from_h - 1) / (height - 1) if height > 1 else 0.0
        top = min(int(at_y), from_h - 1)
        below = min(top + 1, from_h - 1)
        for x in range(width):
            at_x = x * (from_w - 1) / (width - 1) if width > 1 else 0.0
            left = min(int(at_x), from_w - 1)
            right = min(left + 1, from_w - 1)
            share_y, share_x = at_y - top, at_x - left
            upper = (1 - share_x) * source[:, top, left] + share_x * source[:, top, right]
            lower = (1 - share_x) * source[:, below, left] + share_x * source[:, below, right]
            out[:, y, x] = (1 - share_y) * upper + share_y * lower
    return out


def splicemix(images, rows, cols, sources, dropped):
    """Return one appended image: fill its cells one by one, then resize the tiling if it is too small."""
    _, channels, height, width = images.shape
    cell_h, cell_w = height // rows, width // cols
    tiling = torch.zeros(channels, rows * cell_h, cols * cell_w, dtype=torch.float64)
    for cell, (source, drop) in enumerate(zip(sources, dropped, strict=True)):
        row, col = cell // cols, cell % cols
        if drop:
            continue
        small = resize_aligned(images[source], cell_h, cell_w)
        for y in range(cell_h):
            for x in range(cell_w):
                tiling[:, row * cell_h + y, col * cell_w + x] = small[:, y, x]
    return tiling if tiling.shape[1:] == (height, width) else resize_aligned(tiling, height, width)


def targets_union(rows, seen):
    """Return the union of the multi-hot targets of the images flagged in `seen`, entry by entry."""
    shown = [row for row, is_seen in zip(rows, seen, strict=True) if is_seen]
    return [1.0 if 1 in entries else -1.0 if -1 in entries else 0.0 for entries in zip(*shown, strict=True)]
