"""`keep_freed_memory`: freed memory stays in the process, and later steps request few new pages."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from dali_mix.malloc import keep_freed_memory

if {keep}:
    assert keep_freed_memory()

def step():
    blocks = [torch.ones(2 << 20) for _ in range(8)]  # 8 MiB each
    return len(blocks)

step(), step(), step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    # glibc adapts its thresholds to the blocks freed. Fixed at their defaults, every block returns to the kernel.
    fixed = {} if keep else {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(keep=keep)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, **fixed},
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc has no such setting")
def test_keep_freed_memory_reduces_page_faults() -> None:
    kept, returned = faults(True), faults(False)
    assert kept < returned / 4
