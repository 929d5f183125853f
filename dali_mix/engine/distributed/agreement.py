"""Collect the values that must be equal on all ranks, as strings by name. They are compared before the first step."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dali_mix._code import code_digest
from dali_mix.engine.config.recipe_files import code_named
from dali_mix.engine.config.schema import RunConfig
from dali_mix.engine.provenance import versions
from dali_mix.engine.train.precision import Precision
from dali_mix.loading.loader import Dataset
from dali_mix.recordio.manifest import file_sha256

# Settings that are compared by content or in resolved form, or that do not affect the result.
_LEFT_OUT = {"train_set", "val_set", "visualizer", "device", "amp", "loader.num_threads", "loader.prefetch"}


def run_values(config: RunConfig, device: torch.device, sets: Mapping[str, Dataset]) -> dict[str, str]:
    """Return the values that determine a run, name → value: settings, versions, code, and content of sets and files.

    Ranks may use different paths for the same set or file, so the content is compared. A set is represented by the
    fingerprint in its manifest, and code or a file named in a setting by its sha256.

    Args:
        config: the run's settings.
        device: this rank's device.
        sets: the packed sets to compare, with the keys "train_set" and "val_set".
    """
    values = {"device": device.type, "amp": Precision(config.amp, device).name}
    values |= {name: _text(value) for name, value in _flat(config.resolved()) if name not in _LEFT_OUT}
    for name, dataset in sets.items():
        values[name] = f"{len(dataset)} records, sha256 {dataset.metainfo.get('fingerprint', 'unknown')[:16]}"
    values |= {f"the version of {name}": version for name, version in versions().items()}
    values["the code of dali_mix"] = code_digest("dali_mix", "dali_mix.pipelines")
    for kind in code_named(config.resolved()).values():
        values[f"the code of {kind}"] = _module_digest(kind.partition(":")[0])
    return values


def file_digest(path: str | Path) -> str:
    """Return the text "sha256 " followed by the first 16 hex digits of a file's digest."""
    return f"sha256 {file_sha256(Path(path))[:16]}"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _text(value: Any) -> str:
    """Return the text by which ranks compare a setting: `str(value)` or, for a file's path, `file_digest(value)`.

    A path is a string that contains a separator or has a suffix, and names an existing file.
    """
    is_path = isinstance(value, str) and (os.sep in value or bool(Path(value).suffix))
    return file_digest(value) if is_path and Path(value).is_file() else str(value)


def _module_digest(module: str) -> str:
    spec = importlib.util.find_spec(module)
    source = spec.origin if spec is not None else None
    return file_digest(source) if source and Path(source).is_file() else "not a file"
