"""GPU results compared with the CPU: saliency maps, SaliencyMix, ResizeMixPlus and free-form masks."""

import numpy as np
import pytest
import torch

from dali_mix.mixers import FreeFormMasks, ResizeMixPlus, SaliencyMix, fine_grained_saliency, kernels, mask_out
from dali_mix.mixers.kernels import torch_saliency
from tests.mixers.pictures import drawn, drawn_pictures
from tests.mixers.ties import MEAN, STD, fused_levels, grey_levels, near_ties

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


# The last two fall back to torch operations: float32 would round the sums, or the rows are too long.
SIZES = [(1, 1), (1, 2), (2, 1), (1, 40), (40, 1), (32, 32), (97, 61), (224, 224), (65, 1012), (270, 330), (3, 2100)]


def batch(height, width, count=5):
    images = torch.from_numpy(np.stack([drawn(height, width, seed) for seed in range(count)]))
    return images.permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_gpu_saliency_equals_cpu(size, channels_last):
    images = batch(*size)
    moved = images.cuda()
    if channels_last:
        moved = moved.contiguous(memory_format=torch.channels_last)
    torch.cuda.set_sync_debug_mode("error")
    try:
        maps = fine_grained_saliency(moved)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(maps.cpu(), fine_grained_saliency(images))
    assert torch.equal(maps, torch_saliency.saliency(moved))
    by_torch = kernels.pick("saliency", moved) is torch_saliency.saliency
    assert by_torch == (size in SIZES[-2:])


@pytest.mark.parametrize("name", drawn_pictures())
def test_gpu_saliency_of_drawn_pictures_equals_cpu(name):
    images = torch.from_numpy(drawn_pictures()[name])[None].permute(0, 3, 1, 2).contiguous()
    assert torch.equal(fine_grained_saliency(images.cuda()).cpu(), fine_grained_saliency(images))


def test_gpu_saliency_of_large_and_empty_batches():
    images = torch.randint(256, (3000, 3, 8, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(fine_grained_saliency(images.cuda()).cpu(), fine_grained_saliency(images))
    assert fine_grained_saliency(images[:0].cuda()).shape == (0, 8, 9)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_gpu_saliency_of_normalized_images_equals_cpu(dtype, channels_last):
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    for images in ((batch(97, 61) / 255 - mean) / std, near_ties(), 9 * torch.randn(3, 3, 20, 30)):
        images = images.to(dtype)
        moved = images.cuda()
        if channels_last:
            moved = moved.contiguous(memory_format=torch.channels_last)
        by_torch = kernels.pick("saliency", moved) is torch_saliency.saliency
        assert by_torch == (dtype == torch.float64)
        assert torch.equal(fine_grained_saliency(moved, MEAN, STD).cpu(), fine_grained_saliency(images, MEAN, STD))


def test_grey_level_kernel_rounds_products_before_adding():
    """With one channel repeated in all planes, the grey picture reveals each level."""
    from dali_mix.mixers.kernels import triton_saliency

    images = near_ties()
    assert (grey_levels(images) != fused_levels(images)).sum() > 50
    scale, shift = [255 * value for value in STD], [255 * value for value in MEAN]
    for channel in range(3):
        plane = images[:, channel : channel + 1].expand(-1, 3, -1, -1).contiguous().cuda()
        grey = torch.empty(plane[:, 0].shape, dtype=torch.uint8, device="cuda")
        size = grey.numel()
        triton_saliency.grey_levels[-(-size // triton_saliency.BLOCK), 1](
            plane, grey, size, size, 1, *[scale[channel]] * 3, *[shift[channel]] * 3,
            FLOATS=True, BLOCK=triton_saliency.BLOCK, **triton_saliency.UNFUSED,
        )  # fmt: skip
        assert torch.equal(grey.cpu()[0], grey_levels(images)[0, channel])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_saliency_works_in_cuda_graph(dtype):
    def maps(images):
        return fine_grained_saliency(images, MEAN, STD)

    images = batch(33, 61).cuda()
    images = images if dtype == torch.uint8 else ((images / 255 - 0.45) / 0.22).to(dtype)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        maps(images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = maps(images)
    for turn in range(3):
        images.copy_(images.flip(turn % 2 + 2))
        graph.replay()
        assert torch.equal(captured, maps(images))
        assert torch.equal(captured.cpu(), maps(images.cpu()))


@pytest.mark.parametrize("per_batch", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_gpu_saliencymix_equals_cpu(dtype, per_batch):
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


@pytest.mark.parametrize("seed", range(20))  # the seeds cover every operation
def test_gpu_resizemix_plus_matches_cpu(seed):
    images = torch.rand(6, 3, 20, 28, generator=torch.Generator().manual_seed(1))
    labels, mixer = torch.arange(6) % 4, ResizeMixPlus(4, mean=(0.5,) * 3, std=(0.25,) * 3)
    on_cpu, targets = mixer(images, labels, torch.Generator().manual_seed(seed))
    moved, moved_labels = images.cuda(), labels.cuda()
    on_gpu, gpu_targets = mixer(moved, moved_labels, torch.Generator().manual_seed(seed))
    # Bilinear weights differ in the last digit, and values at a threshold may fall on either side.
    assert ((on_gpu.cpu() - on_cpu).abs() > 1e-3).float().mean() < 0.01
    torch.testing.assert_close(gpu_targets.cpu(), targets)


def test_gpu_free_form_masks_match_cpu():
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
