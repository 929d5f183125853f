"""`dali-mix doctor [PREFIX]`: check what is installed and whether versions are compatible, and load one batch.

The exit status is 1 if anything is broken, else 0.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import io
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from dali_mix.cli import installed
from dali_mix.cli.installed import Findings

LOW_DISK = 5 << 30  # bytes
LOW_SHARED = 1 << 30  # bytes


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prefix", nargs="?", metavar="PREFIX", help="also open this packed set and load a batch from it"
    )


def run(args: argparse.Namespace) -> int:
    findings = Findings()
    findings.guard("packages", installed.check_packages)
    findings.guard("DALI", installed.check_dali)
    findings.guard("numba", installed.check_compiling)
    findings.guard("GPU", check_gpu)
    findings.guard("disk", check_disk)
    findings.guard("shared memory", check_shared_memory)
    findings.guard("one batch", check_batch)
    if args.prefix is not None:
        findings.guard(args.prefix, lambda f: check_set(f, args.prefix))
    print(f"{findings.broken} broken" if findings.broken else "all is well")
    return 1 if findings.broken else 0


def check_gpu(findings: Findings) -> None:
    """Report the GPUs torch sees, and whether the driver is new enough for both torch and DALI."""
    import torch

    driver = driver_cuda()
    if driver is None:
        findings.note("GPU", "none found: everything runs on the CPU")
        return
    if not torch.cuda.is_available():
        why = f"there is a driver (CUDA {driver}), but torch {torch.__version__} cannot use it"
        findings.bad("GPU", f"{why}: update the driver")
        return
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
        findings.ok(f"GPU {index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, {bf16}")
    needs = max((int(cuda[:2]) for cuda in installed.dali_builds()), default=0)
    if int(driver.split(".")[0]) < needs:
        how = installed.switch_dali("120")
        findings.bad("driver", f"it is for CUDA {driver}, DALI needs {needs}: update it, or {how}")
    else:
        findings.ok("driver", f"CUDA {driver}")


def driver_cuda() -> str | None:
    """Return the newest CUDA version that the installed driver supports ("13.0"), or None without a driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def check_disk(findings: Findings) -> None:
    """Report the free space on the disk of the current folder, as a note if it is less than `LOW_DISK` bytes."""
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 2**30:.1f} GiB free in {Path.cwd()}"
    if free < LOW_DISK:
        findings.note("disk", f"{text}: little for sets and runs")
    else:
        findings.ok("disk", text)


def check_shared_memory(findings: Findings) -> None:
    """Print a note if Ray is installed and less than `LOW_SHARED` bytes are free in /dev/shm.

    Worker pools keep images there. Docker's default size is 64 MB.
    """
    if importlib.util.find_spec("ray") is not None and (free := shutil.disk_usage("/dev/shm").free) < LOW_SHARED:
        text = (
            f"{free >> 20} MB free in /dev/shm: little for `dali-mix serve`; in a container, docker run --shm-size=4g"
        )
        findings.note("shared memory", text)


def check_batch(findings: Findings) -> None:
    """Pack generated images in a temporary folder, load a batch, and check its shape, labels, ids and brightness."""
    import numpy as np
    from PIL import Image

    from dali_mix.loading import build_loader
    from dali_mix.recordio import Sample, write_set

    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "doctor"
        samples = []
        for row in range(4):
            buffer = io.BytesIO()
            Image.fromarray(np.full((48, 64, 3), 30 + 200 * (row % 2), np.uint8)).save(buffer, "JPEG")
            samples.append(Sample(buffer.getvalue(), row % 2))
        write_set(prefix, samples, classes=("dark", "bright"))
        small = {"image_size": 32}
        with closing(build_loader("imagenet", prefix, batch_size=4, train=False, pipeline_options=small)) as loader:
            images, targets, ids = next(iter(loader))
    found = (tuple(images.shape), targets.tolist(), ids.tolist())
    mean = images.float().mean((1, 2, 3)).tolist()
    if found != ((4, 3, 32, 32), [0, 1, 0, 1], [0, 1, 2, 3]):
        findings.bad("one batch", f"wrong shape, labels or ids: {found}")
    elif not max(mean[0], mean[2]) < min(mean[1], mean[3]):
        findings.bad("one batch", f"bright images are not brighter after loading: {mean}")
    else:
        findings.ok("one batch", f"packed, decoded and normalized on {images.device}")


def check_set(findings: Findings, prefix: str) -> None:
    """Open the set at `prefix`, load a batch, and report the numbers of records and classes, and the batch's shape."""
    from dali_mix.loading import build_loader
    from dali_mix.recordio import RecordSet

    records = RecordSet(prefix)
    with closing(build_loader("imagenet", records, batch_size=min(8, len(records)), train=False)) as loader:
        batch = next(iter(loader))
    text = f"{prefix}: {len(records)} records, {len(records.info.classes)} classes, {records.info.task}; a batch"
    objects = records.task.count(batch.targets)
    findings.ok("set", f"{text} {tuple(batch.images.shape)}" + (f" with {objects}" if objects else ""))
