"""`dali-mix doctor [PREFIX]`: what is installed, whether it fits together, and one batch through the loader."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import platform
import shutil
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

PACKAGES = ("dali_mix", "torch", "torchvision", "numpy", "mmengine", "kornia", "timm", "opencv-python", "pillow")
DALI = "nvidia-dali-cuda"
LOW_DISK = 5 << 30  # bytes


class Findings:
    """Prints one line a check and counts what is broken."""

    def __init__(self) -> None:
        self.broken = 0

    def ok(self, what: str, text: str) -> None:
        print(f"  ok      {what:<14} {text}")

    def note(self, what: str, text: str) -> None:
        print(f"  note    {what:<14} {text}")

    def bad(self, what: str, text: str) -> None:
        print(f"  BROKEN  {what:<14} {text}")
        self.broken += 1

    def guard(self, what: str, check: Callable[[Findings], None]) -> None:
        """Runs a check; whatever it raises is a finding, so that the other checks still run."""
        try:
            check(self)
        except Exception as error:  # a broken installation can raise anything, and that is the news here
            self.bad(what, f"{type(error).__name__}: {error}")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", nargs="?", metavar="PREFIX", help="a packed set: also open it and load a batch of it")


def run(args: argparse.Namespace) -> int:
    findings = Findings()
    findings.guard("packages", check_packages)
    findings.guard("DALI", check_dali)
    findings.guard("GPU", check_gpu)
    findings.guard("disk", check_disk)
    findings.guard("one batch", check_batch)
    if args.prefix is not None:
        findings.guard(args.prefix, lambda f: check_set(f, args.prefix))
    print(f"{findings.broken} broken" if findings.broken else "all is well")
    return 1 if findings.broken else 0


def check_packages(findings: Findings) -> None:
    """Versions, and whether each package imports."""
    findings.ok("python", f"{platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name == "opencv-python" and importlib.util.find_spec("cv2"):
                version = "another build of cv2"
            else:
                findings.bad(name, f"not installed: pip install {name}")
                continue
        module = {"opencv-python": "cv2", "pillow": "PIL"}.get(name, name)
        try:
            importlib.import_module(module)
        except Exception as error:  # ImportError, OSError of a missing library, RuntimeError of mismatched builds
            findings.bad(name, f"{version} does not import: {error}")
        else:
            findings.ok(name, version)


def check_dali(findings: Findings) -> None:
    """One build of DALI, recent enough, for the CUDA that torch is for."""
    builds = {f"{DALI}{cuda}": metadata.version(f"{DALI}{cuda}") for cuda in dali_builds()}
    if len(builds) > 1:
        names = " ".join(builds)
        findings.bad("DALI", f"two builds share one folder ({names}): pip uninstall {names}, then install one of them")
        return
    if not builds:
        findings.bad("DALI", "not installed: pip install 'nvidia-dali-cuda120>=2.4' (or nvidia-dali-cuda130)")
        return
    ((name, version),) = builds.items()
    if tuple(int(part) for part in version.split(".")[:2]) < (2, 4):
        findings.bad("DALI", f"{name} {version}: at least 2.4 is needed, older ones do not check record lengths")
        return
    importlib.import_module("nvidia.dali")
    findings.ok("DALI", f"{name} {version}")
    import torch

    if torch.version.cuda is None:
        findings.note("CUDA", "this torch is built for CPUs only")
    elif torch.version.cuda.split(".")[0] != name.removeprefix(DALI)[:2]:
        other = f"nvidia-dali-cuda{torch.version.cuda.split('.')[0]}0"
        text = f"torch is for CUDA {torch.version.cuda}, {name} is not: both work on a driver for the newer one"
        findings.note("CUDA", f"{text}; to match them: pip uninstall {name}, pip install {other}")
    else:
        findings.ok("CUDA", f"torch {torch.version.cuda} and {name} agree")


def dali_builds() -> list[str]:
    """The CUDA suffixes ("120", "130") of the DALI builds that are installed."""
    return [cuda for cuda in ("110", "120", "130") if _installed(f"{DALI}{cuda}")]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def check_gpu(findings: Findings) -> None:
    """The GPUs torch sees, and whether the driver is new enough for both torch and DALI."""
    import torch

    driver = driver_cuda()
    if not torch.cuda.is_available():
        if driver is not None:
            findings.bad(
                "GPU",
                f"there is a driver (CUDA {driver}), but torch {torch.__version__} cannot use it: update the driver",
            )
        else:
            findings.note("GPU", "none found: everything runs on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
        findings.ok(f"GPU {index}", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, {bf16}")
    needs = max((int(cuda[:2]) for cuda in dali_builds()), default=0)
    if driver is not None and int(driver.split(".")[0]) < needs:
        findings.bad(
            "driver", f"it is for CUDA {driver}, DALI needs {needs}: update it, or install nvidia-dali-cuda120"
        )
    elif driver is not None:
        findings.ok("driver", f"CUDA {driver}")


def driver_cuda() -> str | None:
    """The newest CUDA the installed driver supports ("13.0"), or None without a driver."""
    import ctypes

    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def check_disk(findings: Findings) -> None:
    """Room where runs and sets are written."""
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 2**30:.1f} GiB free in {Path.cwd()}"
    (findings.note if free < LOW_DISK else findings.ok)(
        "disk", text + (": little for sets and runs" if free < LOW_DISK else "")
    )


def check_batch(findings: Findings) -> None:
    """Packs pictures made here, loads a batch through the pipeline, and compares labels, shapes and pixels."""
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
        loader = build_loader("imagenet", prefix, batch_size=4, train=False, pipeline_options={"image_size": 32})
        try:
            images, targets, ids = next(iter(loader))
            found = (tuple(images.shape), targets.tolist(), ids.tolist())
            if found != ((4, 3, 32, 32), [0, 1, 0, 1], [0, 1, 2, 3]):
                findings.bad("one batch", f"wrong shape, labels or ids: {found}")
                return
            mean = images.float().mean((1, 2, 3)).tolist()
            if not max(mean[0], mean[2]) < min(mean[1], mean[3]):
                findings.bad("one batch", f"bright pictures do not come out brighter: {mean}")
                return
            findings.ok("one batch", f"packed, decoded and normalized on {images.device}")
        finally:
            loader.close()


def check_set(findings: Findings, prefix: str) -> None:
    """Opens a packed set and loads one batch of it."""
    from dali_mix.loading import build_loader
    from dali_mix.recordio import RecordSet

    records = RecordSet(prefix)
    info = records.info
    loader = build_loader("imagenet", records, batch_size=min(8, len(records)), train=False)
    try:
        batch = next(iter(loader))
    finally:
        loader.close()
    text = f"{prefix}: {len(records)} records, {len(info.classes)} classes, {info.task}; a batch"
    text += f" {tuple(batch.images.shape)}"
    if info.task == "detection":
        text += f" with {sum(len(target['boxes']) for target in batch.targets)} boxes carried along"
    elif info.task == "multilabel":
        text += f" with {int((batch.targets == 1).sum())} positive labels"
    findings.ok("set", text)
