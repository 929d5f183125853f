"""Versions, digests of user-defined code and keys of specs, to ensure that all workers give equal answers."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dali_mix._code import code_digest
from dali_mix._version import __version__
from dali_mix.loading.workers import Spec
from dali_mix.pipelines import Pipeline

PACKAGES = ("nvidia-dali-cuda120", "nvidia-dali-cuda130", "numba", "numpy")
CODE = (
    "dali_mix.loading",
    "dali_mix.pipelines",
    "dali_mix.recordio",
    "dali_mix.tasks",
    "dali_mix.compiled",
    "dali_mix._labels",
)


def versions() -> dict[str, str]:
    """Return the versions of the packages, and the digests of our own modules, that affect decoded pixels, by name.

    Packages that are not installed are omitted.
    """
    found = {"dali_mix": __version__} | {name: code_digest(name) for name in CODE}
    for name in PACKAGES:
        try:
            found[name.partition("-cuda")[0]] = version(name)
        except PackageNotFoundError:
            continue
    return found


def differences(ours: dict[str, str], theirs: dict[str, str]) -> str:
    """Describe how two results of `versions` differ: "numba 0.61.0 here, 0.62.0 there; …"; "" if they do not."""
    names = sorted({*ours, *theirs})
    differ = [name for name in names if ours.get(name) != theirs.get(name)]
    return "; ".join(f"{name} {ours.get(name, 'none')} here, {theirs.get(name, 'none')} there" for name in differ)


Code = dict[str, tuple[str, str]]  # "module.Class" → (file, sha256 of the file)

_digests: dict[str, tuple[ModuleSpec | None, str]] = {}  # module → (its spec, sha256 of its file at first use)


def code_of(pipeline: Pipeline) -> Code:
    """Return the `Code` of the user-defined classes of a pipeline and its steps, including base classes."""
    kinds = {base for part in (pipeline, *pipeline.steps) for base in type(part).__mro__[:-1]}
    own = [kind for kind in kinds if kind.__module__.partition(".")[0] not in ("dali_mix", *sys.stdlib_module_names)]
    return {f"{kind.__module__}.{kind.__qualname__}": _source(kind.__module__) for kind in own}


def _source(name: str) -> tuple[str, str]:
    """Return the file of an imported module and the file's sha256.

    The sha256 is cached until the module is reloaded, since later edits do not change the imported module. It is
    "unknown" if the file cannot be read. For a module without a file, return "no file" and "unknown".
    """
    module = sys.modules.get(name)
    file, imported = getattr(module, "__file__", None) or "no file", getattr(module, "__spec__", None)
    kept = _digests.get(name)
    if kept is None or kept[0] is not imported:  # a reloaded module has a new spec
        try:
            digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        except OSError:
            digest = "unknown"
        kept = _digests[name] = imported, digest
    return file, kept[1]


def code_differences(ours: Code, theirs: Mapping[str, tuple[str, str]], host: str) -> str:
    """Describe how two results of `code_of` differ, ours and that of `host`; "" if they do not.

    The description is "my_steps.Flip differs: FILE here, FILE on HOST; …". A class differs if only one result has it,
    or if the sha256 of its file differs.
    """

    def text(code: Mapping[str, tuple[str, str]], name: str) -> str:
        file, digest = code.get(name, ("none", ""))
        return f"{file} (sha256 {digest[:12]})" if digest else file

    differ = [name for name in sorted({*ours, *theirs}) if ours.get(name, "")[1:] != theirs.get(name, "")[1:]]
    return "; ".join(f"{name} differs: {text(ours, name)} here, {text(theirs, name)} on {host}" for name in differ)


def key_of(spec: Spec, fingerprint: str, code: Mapping[str, tuple[str, str]] | None = None) -> str:
    """Return a key for a spec and a set's fingerprint; equal keys mean equal pixels.

    Raise ValueError for options that cannot be serialized. `code`: see `code_of`.
    """
    digests = {name: digest for name, (_, digest) in (code or {}).items()}
    values = [fingerprint, spec.pipeline, dict(spec.options), spec.train, spec.seed, digests, versions()]
    try:
        text = json.dumps(values, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"pipeline options for workers must be plain values: {error}") from None
    return hashlib.sha256(text.encode()).hexdigest()
