"""The nearest-pixel indices equal those of torch's interpolate."""

import pytest
import torch

from dali_mix.mixers.kernels import torch_paste


@pytest.mark.parametrize("full", [26, 62, 224, 256])
def test_nearest_source_equals_torch_interpolate(full):
    # For some of these sides, torch's float32 ratio and the integer quotient differ.
    ramp = torch.arange(full, dtype=torch.float32)
    for size in range(1, full + 1):
        wanted = torch.nn.functional.interpolate(ramp[None, None], size=size, mode="nearest")[0, 0]
        ours = torch_paste.nearest_source(torch.arange(size), torch.tensor(size), full)
        assert torch.equal(ramp[ours], wanted), (full, size)
