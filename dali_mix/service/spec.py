"""Versions and spec names that guarantee that workers' answers are equal."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version

from dali_mix._version import __version__
from dali_mix.loading.workers import Spec

PACKAGES = ("nvidia-dali-cuda120", "nvidia-dali-cuda130", "numba", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of the packages that affect decoded pixels."""
    found = {"dali_mix": __version__}
    for name in PACKAGES:
        try:
            found[name.partition("-cuda")[0]] = version(name)
        except PackageNotFoundError:
            continue
    return found


def differences(ours: dict[str, str], theirs: dict[str, str]) -> str:
    """Return the differences as "numba 0.61.0 here, 0.62.0 there; …", or ""."""
    names = sorted({*ours, *theirs})
    differ = [name for name in names if ours.get(name) != theirs.get(name)]
    return "; ".join(f"{name} {ours.get(name, 'none')} here, {theirs.get(name, 'none')} there" for name in differ)


def key_of(spec: Spec, fingerprint: str) -> str:
    """Return a key that identifies a spec on the set with that fingerprint. Raise ValueError for options that cannot be
    serialized.
    """
    values = [fingerprint, spec.pipeline, dict(spec.options), spec.train, spec.seed]
    try:
        text = json.dumps(values, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"pipeline options for workers must be plain values: {error}") from None
    return hashlib.sha256(text.encode()).hexdigest()
