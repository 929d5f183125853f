"""Triton kernels for pasting and blending without a GPU: interpreted, and compiled to PTX."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def test_fits_refuses_batches_beyond_launch_limits():
    triton_paste = pytest.importorskip("dali_mix.mixers.kernels.triton_paste", reason="Triton is not installed")
    assert triton_paste.fits(torch.empty(65535, 1, 1, 1))
    assert not triton_paste.fits(torch.empty(65536, 1, 1, 1))
    assert not triton_paste.fits(torch.empty(2, 2, 2**15, 2**15, dtype=torch.uint8, device="meta"))


INTERPRETED = """
import torch
from dali_mix.mixers.kernels import torch_paste, triton_paste
from tests.mixers.batches import batch, boxes_for
partners, lam = torch.tensor([3, 3, 2, 6, 5, 4, 1]), torch.tensor([0.3, 1.0, 0.0, 0.75, 0.5, 0.9, 0.1])
steps = {torch.float32: 1e-4, torch.bfloat16: 1, torch.uint8: 1}
dtypes = [torch.float32, torch.bfloat16, torch.uint8, torch.int64]
for height, width, channels in ((13, 9, 3), (37, 23, 2), (1, 5, 1), (6, 1, 2), (3, 1100, 1)):
    boxes = boxes_for(7, height, width)
    for dtype in dtypes if height == 13 else dtypes[:1]:
        for channels_last in (False, True):
            images = batch(7, dtype, channels_last, height, width, channels)
            assert triton_paste.fits(images)
            for way, given in (("paste", (partners, boxes)), ("paste_nearest", (partners, boxes)), ("erase", (boxes,))):
                change, wanted = getattr(triton_paste, way), getattr(torch_paste, way)(images, *given)
                mixed = change(images, *given, False)
                assert torch.equal(mixed, wanted), (way, dtype, height)
                assert mixed.stride() == images.stride()
                own = images.clone()
                assert change(own, *given, True) is own
                assert torch.equal(own, wanted), (way, dtype, height)
            if dtype != torch.int64:
                mixed = triton_paste.blend(images, partners, lam, False)
                wanted = torch_paste.blend(images, partners, lam)
                assert (mixed.double() - wanted.double()).abs().max() <= steps[dtype], dtype
                assert torch.equal(mixed[1], images[1]) and torch.equal(mixed[2], images[2]), "lam 0 and 1 are exact"
                own = images.clone()
                assert torch.equal(triton_paste.blend(own, partners, lam, True), mixed)
empty = torch.empty(0, 3, 4, 5)
assert triton_paste.paste(empty, partners[:0], boxes[:0], False).shape == empty.shape
assert triton_paste.blend(empty, partners[:0], lam[:0], True) is empty
print("all equal")
"""


def test_triton_interpreter_matches_torch():
    """Triton reads TRITON_INTERPRET when a kernel is defined, so the test runs in a subprocess."""
    pytest.importorskip("triton", reason="Triton is not installed")
    result = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.stdout == "all equal\n", result.stderr


@pytest.mark.parametrize(
    ("mode", "own", "boxes_only"),
    [("SAME_POSITION", False, False), ("NEAREST", False, True), ("ZEROS", True, False)],
)
def test_paste_kernel_compiles_for_sm80(mode, own, boxes_only):
    """Compiling to PTX for sm_80 needs no GPU. Rows without a box must be copied with 16-byte loads."""
    pytest.importorskip("triton", reason="Triton is not installed")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dali_mix.mixers.kernels import triton_paste

    pointers = {"images": "*i16", "out": "*i16", "partners": "*i64", "boxes": "*i64"}
    sizes = dict.fromkeys(["image_rows", "height", "width", "row"], "i32")
    mode = getattr(triton_paste, mode)
    constants = {"pixel": 1, "MODE": mode, "OWN": own, "BOXES_ONLY": boxes_only, "ROWS": 8, "COLS": 256}
    signature = {**pointers, **sizes, **dict.fromkeys(constants, "constexpr")}
    aligned = {(index,): [["tt.divisibility", 16]] for index in range(8)}
    source = ASTSource(triton_paste.paste_kernel, signature, constants, aligned)
    ptx = triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]
    assert ("ld.global.v4" in ptx) == (not boxes_only)
