"""Five small non-square images, and boxes at every border."""

import torch

from dali_mix.mixers import PasteParams

HEIGHT, WIDTH = 11, 7
PERMUTATION = [2, 0, 1, 3, 4]
# A corner, a full-width band, the complete image, one pixel, an empty box.
BOXES = [[0, 0, 4, 3], [5, 0, 3, 7], [0, 0, 11, 7], [10, 6, 1, 1], [3, 2, 0, 0]]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.uint8]


def pictures(count=5, dtype=torch.float32, channels_last=False):
    images = torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))
    images = (images * 255).to(dtype) if dtype == torch.uint8 else (images * 4 - 2).to(dtype)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def params(boxes=BOXES):
    boxes = torch.tensor(boxes)
    lam = 1 - (boxes[:, 2] * boxes[:, 3]).double() / (HEIGHT * WIDTH)
    return PasteParams(torch.tensor(PERMUTATION), boxes, lam.float())
