"""`apply` on a simulated GPU: torch's fake tensors have a device but no values, so reading one fails.

Covers every registered mixer without boxes except ResizeMixPlus, because kornia reads its parameters on the host.
"""

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dali_mix import mixers
from dali_mix.mixers import MIXERS, CutMix, ResizeMix, SaliencyMix, SpliceMix

COUNT, HEIGHT, WIDTH = 9, 33, 21
OPTIONS = {
    "Cutout": {"size": 9},
    "MixChoice": {"mixers": [SpliceMix(["2x3-1"], [2], 4)], "probs": [1.0]},
}
CASES = [
    *(
        pytest.param(
            mixers.build(name, num_classes=4, mean=(0.5,) * 3, std=(0.2,) * 3, **OPTIONS.get(name, {})), id=name
        )
        for name, kind in MIXERS.items()
        if name != "ResizeMixPlus" and not kind.takes_boxes
    ),
    pytest.param(ResizeMix(4, interpolation="bilinear"), id="ResizeMix-bilinear"),
    pytest.param(SaliencyMix(4, per_batch=True, mean=(0.5,) * 3, std=(0.2,) * 3), id="SaliencyMix-per_batch"),
]


class DeviceCopies(TorchDispatchMode):
    """A mode that collects operations with tensors on both devices, that is, copies to or from the host."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if len({tensor.device.type for tensor in tensors}) > 1:
            self.found.append(str(function))
        return result


def on_fake_gpu(params):
    """Return params drawn on the CPU as tensors on the fake GPU."""
    if torch.is_tensor(params):
        return torch.empty(params.shape, dtype=params.dtype, device="cuda")
    if type(params) in (tuple, list):
        return type(params)(map(on_fake_gpu, params))
    if dataclasses.is_dataclass(params):
        return dataclasses.replace(
            params, **{f.name: on_fake_gpu(getattr(params, f.name)) for f in dataclasses.fields(params)}
        )
    return params


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("mixer", CASES)
def test_apply_does_not_synchronize_or_copy_from_host(mixer, dtype):
    drawn = mixer.sample(COUNT, HEIGHT, WIDTH, torch.Generator().manual_seed(0))
    grows = mixer.combine == "union"  # SpliceMix appends two images
    with FakeTensorMode():
        images = torch.empty(COUNT, 3, HEIGHT, WIDTH, dtype=dtype, device="cuda")
        labels = torch.empty(COUNT, dtype=torch.int64, device="cuda")
        params = on_fake_gpu(drawn)
        with DeviceCopies() as crossings:
            mixed, targets = mixer.apply(images, labels, params)
            own = images if grows else mixer.apply(images, labels, params, inplace=True)[0]
    assert crossings.found == []
    assert (mixed.device.type, mixed.dtype, len(mixed)) == ("cuda", dtype, COUNT + 2 * grows)
    assert own is images
    assert targets.device.type == "cuda" or not mixer.changes_targets


def test_fake_gpu_detects_reads_and_copies():
    drawn = CutMix(4).sample(COUNT, HEIGHT, WIDTH, torch.Generator().manual_seed(0))
    with FakeTensorMode():
        params = on_fake_gpu(drawn)
        with pytest.raises(Exception, match=r"item|aten\._local_scalar_dense|data-dependent"):
            int(params.boxes.max())
        with DeviceCopies() as crossings:
            torch.zeros(3).to("cuda", non_blocking=True)
    assert crossings.found
