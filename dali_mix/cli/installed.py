"""Checks for `dali-mix doctor`: packages, the DALI build and its codecs, and compiled functions."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dali_mix import caches

DALI = "nvidia-dali-cuda"
BUILDS = ("110", "120", "130")
# The builds of DALI for CUDA 12 and 13, and the codecs that they load. The two builds share folders and files, so
# uninstalling one breaks the other. Therefore all of these are removed before one build is installed.
SHARED = (
    "nvidia-dali-cuda120 nvidia-nvimgcodec-cu12 nvidia-nvjpeg-cu12 nvidia-nvjpeg2k-cu12 nvidia-nvtiff-cu12 "
    "nvidia-libnvcomp-cu12 nvidia-dali-cuda130 nvidia-nvimgcodec-cu13 nvidia-nvjpeg nvidia-nvjpeg2k-cu13 "
    "nvidia-nvtiff-cu13 nvidia-libnvcomp-cu13"
)
# MODULES: import names that differ from the distribution's name. ALSO: other distributions that provide the module.
MODULES = {"opencv-python": "cv2", "pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}
ALSO = {"opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")}


class Findings:
    """The results of checks, each printed as one line.

    Attributes:
        broken: number of failed checks.
    """

    broken = 0

    def ok(self, what: str, text: str) -> None:
        print(f"  ok      {what:<14} {text}")

    def note(self, what: str, text: str) -> None:
        print(f"  note    {what:<14} {text}")

    def bad(self, what: str, text: str) -> None:
        print(f"  BROKEN  {what:<14} {text}")
        self.broken += 1

    def guard(self, what: str, check: Callable[[Findings], None]) -> None:
        """Call `check` with these findings. If it raises an exception, report `what` as broken and do not raise."""
        try:
            check(self)
        except Exception as error:  # a broken installation can raise any error
            self.bad(what, f"{type(error).__name__}: {error}")


def switch_dali(cuda: str) -> str:
    """Return the command that removes DALI's builds for CUDA 12 and 13 and installs the one for `cuda`, e.g. "120"."""
    return f'pip uninstall -y {SHARED} && pip install "{DALI}{cuda}{dali_floor()}"'


def dali_floor() -> SpecifierSet:
    """Return the versions of DALI that dali_mix's requirements allow, as a specifier such as ">=2.4.0"."""
    return next(need.specifier for need in requirements() if need.name.startswith(DALI))


def requirements(distribution: str = "dali_mix") -> Iterator[Requirement]:
    """Yield the requirements of an installed distribution on this Python version, including those of its extras."""
    for line in metadata.requires(distribution) or ():
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": extra_of(need)}):
            yield need


def extra_of(need: Requirement) -> str:
    """Return the extra that includes a requirement, or "" if every installation needs it."""
    _, found, extra = str(need.marker or "").partition("extra == ")
    return extra.split()[0].strip("\"'") if found else ""


def version_of(name: str) -> str | None:
    """Return the version of an installed distribution, or of another that provides the same module (see `ALSO`).

    Return None if none is installed.
    """
    for each in (name, *ALSO.get(name, ())):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(each)
    return None


def check_packages(findings: Findings) -> None:
    """Check that the packages that setup.py names are installed in supported versions and can be imported.

    If a package of an extra is missing, print only a note. DALI (see `check_dali`) and the extras `dev` and `docs` are
    not checked.
    """
    findings.ok("python", f"{platform.python_version()} on {platform.platform()}")
    findings.ok("dali_mix", metadata.version("dali_mix"))
    missing: dict[str, list[str]] = {}
    caches.for_matplotlib()
    for need in requirements():
        extra = extra_of(need)
        if need.name.startswith(DALI) or extra in ("dev", "docs"):
            continue
        version, wanted = version_of(need.name), f'pip install "{need.name}{need.specifier}"'
        if version is None and extra:
            missing.setdefault(extra, []).append(need.name)
        elif version is None:
            findings.bad(need.name, f"not installed: {wanted}")
        elif not need.specifier.contains(version, prereleases=True):
            findings.bad(need.name, f"{version} does not satisfy {need.specifier}: {wanted}")
        elif error := failed_import(MODULES.get(need.name, need.name)):
            findings.bad(need.name, f"{version} cannot be imported: {error}")
        else:
            findings.ok(need.name, f"{version} ({need.specifier})")
    for extra, names in missing.items():
        findings.note(f"[{extra}]", f'{", ".join(names)} not installed, optional: pip install -e ".[{extra}]"')


def failed_import(module: str) -> str:
    """Return why a module cannot be imported, or "" if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # ImportError, OSError of a missing library, RuntimeError of mismatched builds
        return str(error) or type(error).__name__
    return ""


def dali_builds() -> list[str]:
    """Return the CUDA suffixes ("110", "120", "130") of the installed DALI builds."""
    return [cuda for cuda in BUILDS if version_of(f"{DALI}{cuda}") is not None]


def check_dali(findings: Findings) -> None:
    """Check that exactly one DALI build is installed, in a supported version and with the codecs it needs.

    If DALI and torch are built for different major versions of CUDA, print a note. This is not a failure, since both
    work with a driver for the newer version.
    """
    builds = dali_builds()
    if len(builds) != 1:
        names = " and ".join(f"{DALI}{cuda}" for cuda in builds)
        why = f"{names} share one folder, keep one" if builds else "not installed"
        findings.bad("DALI", f"{why}: {switch_dali('120')}")
        return
    cuda = builds[0]
    name, version, floor = f"{DALI}{cuda}", version_of(f"{DALI}{cuda}"), dali_floor()
    old = [] if floor.contains(str(version), prereleases=True) else [f"{version} does not satisfy {floor}"]
    if wrong := old + codecs(cuda):
        findings.bad("DALI", f"{name}: {'; '.join(wrong)}: {switch_dali(cuda)}")
        return
    importlib.import_module("nvidia.dali")
    findings.ok("DALI", f"{name} {version} ({floor})")
    import torch

    built_for = torch.version.cuda
    if built_for is None:
        findings.note("CUDA", "this torch is built for CPUs only")
    elif built_for.split(".")[0] == cuda[:2]:
        findings.ok("CUDA", f"torch {built_for} and {name} agree")
    else:
        text = f"torch is for CUDA {built_for}, {name} for {cuda[:2]}: both work on a driver for the newer one"
        findings.note("CUDA", f"{text}; to match them see docs/install.md")


def codecs(cuda: str) -> list[str]:
    """Return one text for each problem with the codec libraries of DALI's build for `cuda`, such as "120".

    A problem is a required library that is missing or of an unsupported version, or an installed library for another
    CUDA version.
    """
    wrong = []
    for need in (need for need in requirements(f"{DALI}{cuda}") if need.name.startswith("nvidia-")):
        version = version_of(need.name)
        if version is None:
            wrong.append(f"{need.name} is not installed")
        elif not need.specifier.contains(version, prereleases=True):
            wrong.append(f"{need.name} {version} does not satisfy {need.specifier}")
    other = {"12": "-cu13", "13": "-cu12"}.get(cuda[:2], "-cu")
    wrong += [f"{name} is for another CUDA" for name in SHARED.split() if name.endswith(other) and version_of(name)]
    return wrong


def check_compiling(findings: Findings) -> None:
    """Report where compiled functions are cached, or why they are not cached or not compiled."""
    from dali_mix import compiled

    if not compiled.available():
        findings.note("numba", "nothing is compiled (NUMBA_DISABLE_JIT): slower on a CPU")
        return
    from dali_mix.mixers.kernels import numba_paste_loops

    if (folder := numba_paste_loops.chain.stats.cache_path) is None:
        text = "no writable folder for compiled functions, so every process compiles again: set NUMBA_CACHE_DIR"
        findings.note("numba", f"{text} to a folder that only you can write")
        return
    moved = folder.startswith(str(caches.fallback() or "/dev/null"))
    why = "; the home folder is not writable; set NUMBA_CACHE_DIR for another" if moved else ""
    findings.ok("numba", f"compiled functions are kept in {folder}{why}")
