"""Mixers under torch.compile."""

import shutil

import pytest
import torch

from dali_mix.mixers import CutMix, Cutout, MixUp, ResizeMix, SaliencyMix
from tests.mixers.batches import HEIGHT, WIDTH, batch


@pytest.mark.parametrize(
    "mixer",
    [
        CutMix(4),
        ResizeMix(4),
        ResizeMix(4, interpolation="bilinear"),
        MixUp(4),
        Cutout(5),
        SaliencyMix(4, mean=(0.5, 0.5, 0.5), std=(1, 1, 1)),
    ],
)
def test_torch_compile_traces_apply_without_graph_break(mixer):
    images, labels = batch(4), torch.tensor([0, 1, 2, 3])
    drawn = mixer.sample(4, HEIGHT, WIDTH, torch.Generator().manual_seed(1))
    wanted, wanted_targets = mixer.apply(images, labels, drawn)
    compiled = torch.compile(mixer.apply, fullgraph=True, backend="aot_eager")
    mixed, targets = compiled(images, labels, drawn)
    torch.testing.assert_close(mixed, wanted, rtol=1e-6, atol=1e-4)
    assert torch.equal(targets, wanted_targets)
    own = images.clone()
    assert compiled(own, labels, drawn, inplace=True)[0].data_ptr() == own.data_ptr()
    torch.testing.assert_close(own, wanted, rtol=1e-6, atol=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("mixer", [CutMix(4), ResizeMix(4)])
def test_inductor_output_equals_eager(mixer):
    images, labels = batch(6, channels_last=True, height=37, width=53), torch.arange(6) % 4
    drawn = mixer.sample(6, 37, 53, torch.Generator().manual_seed(1))
    wanted, _ = mixer.apply(images, labels, drawn)
    mixed, _ = torch.compile(mixer.apply, fullgraph=True)(images, labels, drawn)
    assert torch.equal(mixed, wanted)
    assert mixed.stride() == images.stride()
