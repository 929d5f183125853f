"""Triton kernels for saliency without a GPU: interpreted and compared with the CPU, and compiled to PTX."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_mix.mixers import SaliencyMix, fine_grained_saliency, kernels
from dali_mix.mixers.kernels import torch_saliency
from dali_mix.mixers.kernels.torch_saliency import RADII
from tests.mixers.pictures import drawn, drawn_pictures
from tests.mixers.ties import MEAN, STD, grey_levels, near_ties

pytest.importorskip("triton", reason="Triton is not installed")

SETS = {
    "small": [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (1, 40), (40, 1), (33, 21), (65, 31)],
    "middle": [(97, 61), (34, 300), (3, 1100)],
    "large": [(224, 224)],
}


def batch(height, width, count=2):
    images = torch.from_numpy(np.stack([drawn(height, width, seed) for seed in range(count)]))
    return images.permute(0, 3, 1, 2).contiguous()


def check_sizes(name):
    from dali_mix.mixers.kernels import triton_saliency

    for size in SETS[name]:
        images = batch(*size, count=2 if name == "small" else 1)
        noise = torch.randint(256, images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        for given in (images, noise.contiguous(memory_format=torch.channels_last)):
            assert triton_saliency.fits(given)
            maps = triton_saliency.saliency(given)
            assert maps.is_contiguous()
            assert torch.equal(maps, torch_saliency.saliency(given)), size
            assert torch.equal(maps, fine_grained_saliency(given)), size


def check_extremes():
    from dali_mix.mixers.kernels import triton_saliency

    pictures = drawn_pictures()
    for name in ("black_9x14", "white_14x9", "half_20x30", "bowl_180x200"):
        images = torch.from_numpy(pictures[name])[None].permute(0, 3, 1, 2).contiguous()
        maps = triton_saliency.saliency(images)
        assert torch.equal(maps, fine_grained_saliency(images)), name
        assert maps.any() == ("x14" not in name and "x9" not in name), "only constant images have no saliency"
    assert (maps == 255).sum() > 10, "no sum above 255"
    for shape in ((0, 3, 20, 30), (0, 3, 1, 1)):
        assert triton_saliency.saliency(torch.empty(shape)).shape == (0, *shape[2:])


def check_normalized():
    """Compare the maps of normalized images with those of the CPU's operations.

    On CUDA, normalized images are never converted to a batch of grey levels.
    """
    mixer = SaliencyMix(4, mean=MEAN, std=STD)
    levels = batch(33, 21)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    normalized = (levels / 255 - mean) / std
    halves = torch.randint(-20, 520, (2, 3, 21, 33), generator=torch.Generator().manual_seed(2)) / 2
    cases = [(given, mixer) for given in (normalized, normalized + 0.5 / 255, near_ties(), 9 * torch.randn(2, 3, 9, 8))]
    cases.append((halves, SaliencyMix(4, mean=(0, 0, 0), std=(1 / 255,) * 3)))  # exactly k + 1/2
    cases = [
        (given.to(dtype).contiguous(memory_format=memory_format), mixer)
        for given, mixer in cases
        for dtype, memory_format in (
            (torch.float32, torch.contiguous_format),
            (torch.float32, torch.channels_last),
            (torch.float16, torch.channels_last),
            (torch.bfloat16, torch.contiguous_format),
        )
    ]
    wanted = [
        (mixer.saliency(given), torch_saliency.saliency(grey_levels(given, mixer.mean, mixer.std)))
        for given, mixer in cases
    ]
    on_cuda = kernels.OPERATIONS["saliency"].compiled[-1]
    assert on_cuda.module == "triton_saliency"
    here = kernels.Operation(None, (on_cuda._replace(device="cpu"),))
    kernels.OPERATIONS.clear()
    kernels.OPERATIONS["saliency"] = here
    for (given, mixer), on_cpu in zip(cases, wanted, strict=True):
        maps = mixer.saliency(given.requires_grad_())
        assert all(torch.equal(maps, other) for other in on_cpu), (given.dtype, given.shape)


@pytest.mark.parametrize(
    "call", [*(f"check_sizes({name!r})" for name in SETS), "check_extremes()", "check_normalized()"]
)
def test_triton_interpreter_matches_cpu(call):
    """Triton reads TRITON_INTERPRET when a kernel is defined, so the test runs in a subprocess."""
    code = (
        f"import torch; torch.set_num_threads(1); from tests.mixers.kernels import test_triton_saliency as t; t.{call}"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[3],
        check=True,
        timeout=280,
    )


def test_unsupported_sizes_and_float64_fall_back_to_torch():
    from dali_mix.mixers.kernels import triton_saliency

    assert triton_saliency.fits(batch(256, 257))
    assert not triton_saliency.fits(torch.zeros(1, 3, 257, 257, dtype=torch.uint8)), "float32 would round the sums"
    assert not triton_saliency.fits(torch.zeros(1, 3, 2, 2049, dtype=torch.uint8))
    assert torch.float64 not in kernels.OPERATIONS["saliency"].compiled[-1].dtypes


def test_float32_quotients_truncate_like_integer_division():
    """float32 quotients truncate to the integer quotient for every possible sum and maximum."""
    for most in range(1, 6 * 255 + 1):
        values = np.arange(most + 1)
        quotients = (255 * values).astype(np.float32) / np.float32(most)
        assert np.array_equal(quotients.astype(np.int32), 255 * values // most)


def compile_ptx(kernel, pointers, sizes, constants, floats=(), **options):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {
        name: pointers.get(name)
        or ("i32" if name in sizes else "fp32" if name in floats else "constexpr")
        for name in kernel.arg_names
    }  # fmt: skip
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if name in pointers or name in sizes
    }
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "u8"])
def test_grey_level_kernel_has_no_fused_multiply_add(dtype, channels_last):
    from dali_mix.mixers.kernels import triton_saliency

    floats = ["s0", "s1", "s2", "m0", "m1", "m2"]
    sizes, strides = (["size"], {"channel": 1}) if channels_last else (["size", "channel"], {"pixel": 1})
    constants = {"pixel": 3, **strides, "FLOATS": dtype != "u8", "BLOCK": 512}
    pointers = {"images": f"*{dtype}", "grey": "*u8"}
    ptx = compile_ptx(triton_saliency.grey_levels, pointers, sizes, constants, floats, **triton_saliency.UNFUSED)
    assert "fma" not in ptx
    if dtype != "u8":
        # "rn" also prevents ptxas from fusing them.
        assert "mul.rn.f32" in ptx
        assert "add.rn.f32" in ptx
        assert "mul.f32" not in ptx
        assert "add.f32" not in ptx
        assert "fma.rn.f32" in compile_ptx(triton_saliency.grey_levels, pointers, sizes, constants, floats), (
            "by default it fuses"
        )
    if not channels_last:
        assert ("ld.global.b32" if dtype == "u8" else "ld.global.v") in ptx, "four pixels per load"


@pytest.mark.parametrize("one", [None, "height", "width"])
def test_other_kernels_compile_with_exact_division(one):
    """A side of length 1 is passed as a constant."""
    from dali_mix.mixers.kernels import triton_saliency

    sides = [name for name in ("height", "width") if name != one]
    fixed = {one: 1} if one else {}
    compile_ptx(
        triton_saliency.blur,
        {"grey": "*u8", "blurred": "*u8", "columns": "*i16"},
        sides,
        {"STRIP": 32, "COLS": 128, **fixed},
        num_warps=2,
    )
    compile_ptx(
        triton_saliency.integral,
        {"columns": "*i16", "table": "*i32", "most": "*i32"},
        sides,
        {"STRIP": 32, "ROWS": 16, "COLS": 256, **fixed},
        num_warps=8,
    )
    ptx = compile_ptx(
        triton_saliency.on_and_off,
        {"blurred": "*u8", "table": "*i32", "sums": "*i32", "most": "*i32"},
        sides,
        {"RADII": RADII, "ROWS": 4, "COLS": 256, **fixed},
        num_warps=8,
    )
    # Division rounds correctly. The only fused operation is a product of integers below 2^24, minus 1.
    assert "div.rn" in ptx
    assert "div.full" not in ptx
    assert "div.approx" not in ptx
    assert "local" not in ptx
    if one is None:
        ptx = compile_ptx(
            triton_saliency.to_bytes, {"sums": "*i32", "most": "*i32", "maps": "*u8"}, ["size"], {"BLOCK": 512}
        )
        assert "div.rn" in ptx
        assert "div.full" not in ptx
