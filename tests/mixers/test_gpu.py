"""Mixers on a GPU: same results as on the CPU, no synchronization, CUDA graphs and torch.compile.

The tests iterate over `MIXERS`, so a newly registered mixer is tested automatically.
"""

import dataclasses
import inspect

import pytest
import torch

from dali_mix.mixers import MIXERS, CutMix, ResizeMix
from dali_mix.mixers.kernels import torch_paste
from dali_mix.mixers.ops import paste
from tests.mixers.test_boxes import batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Arguments without a default, by mixer; num_classes is 4 for all.
OPTIONS = {
    "Cutout": {"size": 9},
    "MixChoice": {"mixers": [CutMix(4), ResizeMix(4)], "probs": [0.5, 0.5]},
    "SaliencyMix": {"mean": (0, 0, 0), "std": (1, 1, 1)},
}
WITH_BOXES = [name for name, kind in MIXERS.items() if kind.takes_boxes]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.uint8]
STEPS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.uint8: 1}
# These only move pixels, so both devices agree bit for bit; the others may round differently.
EXACT = {"CutMix", "ResizeMix", "Cutout", "MixChoice", "SaliencyMix"}


def make(name):
    options = dict(OPTIONS.get(name, {}))
    if "num_classes" in inspect.signature(MIXERS[name]).parameters:
        options["num_classes"] = 4
    return MIXERS[name](**options)


def cases():
    for name in MIXERS:
        if name in WITH_BOXES:
            continue
        yield pytest.param(make(name), name in EXACT, id=name)
    yield pytest.param(ResizeMix(4, interpolation="bilinear"), False, id="ResizeMix-bilinear")


# kornia's RandAugment reads its parameters on the host and has thresholds; see test_gpu_saliency.
HOST_BOUND = {"ResizeMixPlus"}
parametrize_mixers = pytest.mark.parametrize(
    ("mixer", "exact"), [case for case in cases() if case.id not in HOST_BOUND]
)


def pictures(dtype=torch.float32, channels_last=False, count=9, height=33, width=21):
    # Integer grey levels, so mixers that use grey levels get the same input on both devices.
    grey = torch.randint(256, (count, 3, height, width), generator=torch.Generator().manual_seed(1))
    images = grey.to(dtype) if dtype == torch.uint8 else (grey / 255).to(dtype)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def labels_of(count=9):
    return torch.arange(count) % 4


def on_gpu(params):
    """Return params drawn on the CPU with all tensors on the GPU."""
    if torch.is_tensor(params):
        return params.cuda()
    if type(params) in (tuple, list):
        return type(params)(on_gpu(member) for member in params)
    if dataclasses.is_dataclass(params):
        fields = {field.name: on_gpu(getattr(params, field.name)) for field in dataclasses.fields(params)}
        return dataclasses.replace(params, **fields)
    return params


def forbid_synchronization():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")


def takes_inplace(mixer):
    """Return whether the mixer supports in-place mixing; SpliceMix, which extends the batch, does not."""
    try:
        mixer(pictures(), labels_of(), torch.Generator().manual_seed(2), inplace=True)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@parametrize_mixers
def test_gpu_matches_cpu(mixer, exact, dtype, channels_last):
    images, labels = pictures(dtype, channels_last), labels_of()
    drawn = mixer.sample(*images[:, 0].shape, torch.Generator().manual_seed(2))
    on_cpu, targets = mixer.apply(images, labels, drawn)
    moved, moved_labels, moved_drawn = images.cuda(), labels.cuda(), on_gpu(drawn)
    before = moved.clone()
    mixed, gpu_targets = mixer.apply(moved, moved_labels, moved_drawn)
    assert torch.equal(moved, before), "the input was changed"
    assert mixed.dtype == on_cpu.dtype
    assert mixed.stride() == on_cpu.stride()
    within = 0 if exact else STEPS[dtype]
    torch.testing.assert_close(mixed.cpu().double(), on_cpu.double(), rtol=0, atol=within)
    torch.testing.assert_close(gpu_targets.cpu(), targets, rtol=0, atol=1e-6)
    if takes_inplace(mixer):
        own, _ = mixer.apply(moved, moved_labels, moved_drawn, inplace=True)
        assert own is moved
        assert torch.equal(own, mixed)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_bilinear_does_not_use_tf32(precision):
    images = pictures(height=64, width=48).cuda()
    mixer = ResizeMix(4, interpolation="bilinear")
    drawn = mixer.sample(9, 64, 48, torch.Generator().manual_seed(2))
    wanted, _ = mixer.apply(images.cpu(), labels_of(), drawn)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cuda", torch.bfloat16):
            mixed, _ = mixer.apply(images, labels_of().cuda(), on_gpu(drawn))
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(mixed.cpu(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(224, 160, 3), (37, 23, 3), (1, 5, 1), (6, 1, 2), (3, 1100, 1)]
)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.int64, torch.bool])
def test_triton_and_torch_paste_agree(dtype, channels_last, height, width, channels):
    generator = torch.Generator().manual_seed(3)
    images = (torch.rand(7, channels, height, width, generator=generator) * 255).to(dtype).cuda()
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    partners = torch.tensor([3, 3, 2, 6, 5, 4, 1], device="cuda")
    sides = torch.tensor([height, width], dtype=torch.float64)
    first = (torch.rand(7, 2, generator=generator, dtype=torch.float64) * sides).long()
    extent = (torch.rand(7, 2, generator=generator, dtype=torch.float64) * (sides - first + 1)).long()
    boxes = torch.cat([first, extent], 1).cuda()
    for change, wanted in (
        (
            lambda x, **how: paste.paste_boxes(x, partners, boxes, **how),
            torch_paste.paste(images, partners, boxes),
        ),
        (
            lambda x, **how: paste.paste_resized(x, partners, boxes, "nearest", **how),
            torch_paste.paste_nearest(images, partners, boxes),
        ),
        (lambda x, **how: paste.erase_boxes(x, boxes, **how), torch_paste.erase(images, boxes)),
    ):
        mixed = change(images)
        assert torch.equal(mixed, wanted)
        assert mixed.stride() == images.stride()
        own = images.clone()
        assert change(own, inplace=True) is own
        assert torch.equal(own, wanted)


@parametrize_mixers
def test_apply_does_not_synchronize(mixer, exact):
    images, labels = pictures().cuda(), labels_of().cuda()
    drawn = on_gpu(mixer.sample(9, 33, 21, torch.Generator().manual_seed(2)))
    mixer.apply(images, labels, drawn)  # compiles kernels and fills caches
    forbid_synchronization()
    try:
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        ) as profiler:
            mixer.apply(images, labels, drawn)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    names = {event.name for event in profiler.events()}
    assert any("aten::" in name for name in names), "the profiler recorded nothing"
    copies = [name for name in names if "memcpy" in name.lower() and ("dtoh" in name.lower() or "htod" in name.lower())]
    # The profiler synchronizes the device when it stops, so device synchronization is not counted.
    waits = [name for name in names if "streamsynchronize" in name.lower() or "eventsynchronize" in name.lower()]
    assert not copies
    assert not waits
    assert not names & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero"}


@parametrize_mixers
def test_sample_and_apply_do_not_synchronize(mixer, exact):
    images, labels = pictures().cuda(), labels_of().cuda()
    mixer(images, labels, torch.Generator().manual_seed(2))
    forbid_synchronization()
    try:
        mixer(images, labels, torch.Generator().manual_seed(2))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@parametrize_mixers
def test_apply_works_in_cuda_graph(mixer, exact):
    images, labels = pictures().cuda(), labels_of().cuda()
    drawn = on_gpu(mixer.sample(9, 33, 21, torch.Generator().manual_seed(2)))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        mixer.apply(images, labels, drawn)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mixed, targets = mixer.apply(images, labels, drawn)
    images.copy_(pictures().flip(0))
    labels.copy_(labels_of().flip(0))
    graph.replay()
    wanted, wanted_targets = mixer.apply(images, labels, drawn)
    assert torch.equal(mixed, wanted)
    assert torch.equal(targets, wanted_targets)


@parametrize_mixers
def test_compiled_apply_matches_eager(mixer, exact):
    images, labels = pictures().cuda(), labels_of().cuda()
    drawn = on_gpu(mixer.sample(9, 33, 21, torch.Generator().manual_seed(2)))
    wanted, wanted_targets = mixer.apply(images, labels, drawn)
    mixed, targets = torch.compile(mixer.apply, fullgraph=True)(images, labels, drawn)
    torch.testing.assert_close(mixed, wanted, rtol=0, atol=0 if exact else 1e-5)
    torch.testing.assert_close(targets, wanted_targets, rtol=0, atol=1e-6)


@parametrize_mixers
def test_gradients_match_cpu(mixer, exact):
    images, labels = pictures().cuda().requires_grad_(), labels_of().cuda()
    drawn = on_gpu(mixer.sample(9, 33, 21, torch.Generator().manual_seed(2)))
    mixed, _ = mixer.apply(images, labels, drawn)
    with torch.no_grad():
        torch.testing.assert_close(mixed, mixer.apply(images, labels, drawn)[0], rtol=0, atol=1e-5)
    mixed.sum().backward()
    on_cpu = pictures().requires_grad_()
    back = mixer.sample(9, 33, 21, torch.Generator().manual_seed(2))
    mixer.apply(on_cpu, labels_of(), back)[0].sum().backward()
    torch.testing.assert_close(images.grad.cpu(), on_cpu.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in MIXERS if name not in {"MixChoice", *HOST_BOUND, *WITH_BOXES}])
def test_gpu_generator_is_reproducible(name):
    mixer, images, labels = make(name), pictures().cuda(), labels_of().cuda()
    first = mixer(images, labels, torch.Generator("cuda").manual_seed(3))
    again = mixer(images, labels, torch.Generator("cuda").manual_seed(3))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


@pytest.mark.parametrize("name", WITH_BOXES)
def test_gpu_images_with_cpu_boxes_match_cpu(name):
    images, targets = batch()
    mixer = MIXERS[name]()
    params = mixer.sample(len(images), *images.shape[2:], torch.Generator().manual_seed(1), "cuda")
    wanted, boxes = mixer.apply(images, targets, params)
    found, moved = mixer.apply(images.cuda(), targets, params)
    torch.testing.assert_close(found.cpu(), wanted, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(one["boxes"], two["boxes"]) for one, two in zip(moved, boxes, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_batch_on_other_than_current_device():
    images, labels = pictures(), labels_of()
    wanted, _ = CutMix(4)(images, labels, torch.Generator().manual_seed(2))
    mixed, _ = CutMix(4)(images.to("cuda:1"), labels.to("cuda:1"), torch.Generator().manual_seed(2))
    assert torch.equal(mixed.cpu(), wanted)
