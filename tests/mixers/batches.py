"""Batches of any dtype and memory format, boxes for them, and a lookup of the backend used."""

import numpy as np
import torch

from dali_mix.mixers import kernels

HEIGHT, WIDTH = 13, 9


def batch(count, dtype=torch.float32, channels_last=False, height=HEIGHT, width=WIDTH, channels=3):
    images = torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(count)) * 255
    images = images.to(dtype)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def boxes_for(count, height=HEIGHT, width=WIDTH):
    generator = np.random.default_rng(count)
    top, left = generator.integers(0, height, count), generator.integers(0, width, count)
    boxes = np.stack([top, left, generator.integers(0, height - top + 1), generator.integers(0, width - left + 1)], 1)
    return torch.from_numpy(boxes)


def backend(operation, *tensors):
    function = kernels.pick(operation, *tensors)
    return getattr(function, "func", function).__module__.rpartition(".")[2]  # unwraps a partial
