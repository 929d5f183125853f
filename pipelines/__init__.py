"""Pipelines: what a task draws at random and its DALI graph.

`get(name)` finds a pipeline's class among ours and among those that installed packages offer by an entry point of the
group "dali_mix.pipelines" (NAME = module:Class); `build(name, train, options)` makes one.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from dali_mix.pipelines.base import Step
from dali_mix.pipelines.pipeline import CachedPipeline, Pipeline
from dali_mix.pipelines.random import SampleRandom

from dali_mix.options import did_you_mean

__all__ = ["BUILTIN", "CachedPipeline", "Pipeline", "SampleRandom", "Step", "build", "get"]

ENTRY_POINT_GROUP = "dali_mix.pipelines"
BUILTIN = {
    "imagenet": "dali_mix.pipelines.imagenet:ImageNet",
    "cifar": "dali_mix.pipelines.cifar:Cifar",
    "multilabel": "dali_mix.pipelines.multilabel:MultiLabel",
}


def get(name: str) -> type[Pipeline]:
    """The class of a pipeline. Raises ValueError when no such pipeline is known, or an installed one does not load."""
    if name in BUILTIN:
        module, _, attribute = BUILTIN[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    offered = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in offered:
        known = sorted({*BUILTIN, *offered})
        raise ValueError(f"pipeline {name!r} is not known{did_you_mean(name, known)}: choose one of {', '.join(known)}")
    try:
        found = offered[name].load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"pipeline {name!r} ({offered[name].value}) does not load: {error}; reinstall its package"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Pipeline)):
        raise ValueError(f"pipeline {name!r} ({offered[name].value}) is not a subclass of dali_mix.pipelines.Pipeline")
    return found


def build(name: str, train: bool, options: Mapping[str, Any] | None = None) -> Pipeline:
    """Constructs a pipeline by name. Raises ValueError for an unknown name or option, or a value that does not fit."""
    kind = get(name)
    options = dict(options or {})
    known = [option for option in inspect.signature(kind).parameters if option != "train"]
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known)
            raise ValueError(f"pipeline {name!r} has no option {option!r}{hint}: it knows {', '.join(known)}")
    return kind(train=train, **options)
