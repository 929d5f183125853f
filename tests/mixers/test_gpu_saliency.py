"""On a GPU: saliency to the last grey level, SaliencyMix of normalized images, kornia's RandAugment, masks."""

import numpy as np
import pytest
import torch

from dali_mix.mixers import FreeFormMasks, ResizeMixPlus, SaliencyMix, fine_grained_saliency, mask_out
from tests.mixers.pictures import drawn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("size", [(32, 32), (97, 61), (1, 40), (270, 330)])
def test_saliency_as_on_the_cpu(size):
    # The last size is where float32 sums round.
    images = torch.from_numpy(np.stack([drawn(*size, seed) for seed in range(5)])).permute(0, 3, 1, 2)
    moved = images.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        maps = fine_grained_saliency(moved)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(maps.cpu(), fine_grained_saliency(images))


@pytest.mark.parametrize("per_batch", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_saliencymix_as_on_the_cpu(dtype, per_batch):
    mixer = SaliencyMix(4, per_batch=per_batch, mean=(0.5, 0.4, 0.45), std=(0.2, 0.25, 0.23))
    levels = torch.from_numpy(np.stack([drawn(33, 21, seed) for seed in range(9)])).permute(0, 3, 1, 2).contiguous()
    mean, std = (torch.tensor(values)[:, None, None] for values in (mixer.mean, mixer.std))
    images = levels if dtype == torch.uint8 else ((levels / 255 - mean) / std).to(dtype)
    labels = torch.arange(9) % 4
    on_cpu, targets = mixer(images, labels, torch.Generator().manual_seed(2))
    moved, moved_labels = images.cuda(), labels.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu, gpu_targets = mixer(moved, moved_labels, torch.Generator().manual_seed(2))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(on_gpu.cpu(), on_cpu)
    torch.testing.assert_close(gpu_targets.cpu(), targets, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(20))  # over seeds every operation comes up
def test_resizemix_plus_as_on_the_cpu(seed):
    images = torch.rand(6, 3, 20, 28, generator=torch.Generator().manual_seed(1))
    labels, mixer = torch.arange(6) % 4, ResizeMixPlus(4, mean=(0.5,) * 3, std=(0.25,) * 3)
    on_cpu, targets = mixer(images, labels, torch.Generator().manual_seed(seed))
    moved, moved_labels = images.cuda(), labels.cuda()
    on_gpu, gpu_targets = mixer(moved, moved_labels, torch.Generator().manual_seed(seed))
    # Bilinear weights differ in the last digit, and a value on a threshold may fall to either side.
    assert ((on_gpu.cpu() - on_cpu).abs() > 1e-3).float().mean() < 0.01
    torch.testing.assert_close(gpu_targets.cpu(), targets)


def test_free_form_masks_as_on_the_cpu():
    images, source = torch.rand(4, 3, 30, 44), FreeFormMasks()
    on_cpu = source(images, torch.Generator().manual_seed(3))
    moved = images.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu = source(moved, torch.Generator().manual_seed(3))
        masked = mask_out(moved, on_gpu, (0.1, 0.2, 0.3))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (on_gpu.cpu() != on_cpu).float().mean() < 1e-3
    assert masked.device.type == "cuda"
