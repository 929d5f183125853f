"""Construct pipelines and steps by name.

A name refers to a bundled pipeline, to an entry point of an installed package (NAME = module:Class), or to any class
("module:Class"). Bundled steps have no short names.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from dali_mix.pipelines.base import Step
from dali_mix.pipelines.pipeline import Pipeline

from dali_mix import _factories
from dali_mix.options import did_you_mean

GROUPS = {"pipeline": "dali_mix.pipelines", "step": "dali_mix.pipeline_steps"}
BUILTIN = {
    "imagenet": "dali_mix.pipelines.imagenet:ImageNet",
    "cifar": "dali_mix.pipelines.cifar:Cifar",
    "detection": "dali_mix.pipelines.detection:Detection",
    "multilabel": "dali_mix.pipelines.multilabel:MultiLabel",
}
"""The bundled pipelines: name → "module:Class"."""


def get(name: str) -> type[Pipeline]:
    """Return the class of a pipeline. Raise ValueError if it is unknown, cannot be imported, or is not a `Pipeline`."""
    return _find("pipeline", BUILTIN.get(name, name), Pipeline)


def build(name: str, train: bool, options: Mapping[str, Any] | None = None) -> Pipeline:
    """Construct a pipeline by name. Raise ValueError for an unknown name or option, or an invalid value."""
    return _construct(f"pipeline {name!r}", get(name), options or {}, train=train)


def build_steps(steps: Sequence[Step | Mapping[str, Any]]) -> list[Step]:
    """Return copies of a user's steps, the first on branch 16, the next on 17, and so on.

    `steps` are `Step` objects, or dicts of `type` and the type's options; a single one need not be in a list. Raise
    ValueError for anything else, an unknown type or option, or an invalid value.
    """
    made = []
    for branch, step in enumerate(steps if isinstance(steps, (list, tuple)) else [steps], 16):
        if not isinstance(step, Step):
            if not isinstance(step, Mapping) or not isinstance(step.get("type"), str):
                raise ValueError(f"steps has {step!r}: must be steps, or dicts of a type and options")
            options = {name: value for name, value in step.items() if name != "type"}
            step = _construct(f"step {step['type']!r}", _find("step", step["type"], Step), options)
        made.append(step.on_branch(branch))
    return made


def _find(what: str, name: str, base: type) -> Any:
    if ":" in name:
        found, origin = _factories.resolve(name, what), f"{what} {name!r}"
    else:
        ours = BUILTIN if what == "pipeline" else ()
        found, origin = _factories.installed(GROUPS[what], what, name, ours, "your own as module:Class")
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{origin} is not a subclass of dali_mix.pipelines.{base.__name__}")
    return found


def _construct(what: str, kind: Any, options: Mapping[str, Any], **fixed: bool) -> Any:
    known = [option for option in inspect.signature(kind).parameters if option not in fixed]
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known)
            raise ValueError(f"{what} has no option {option!r}{hint}: its options are {', '.join(known)}")
    try:
        inspect.signature(kind).bind(**fixed, **options)
    except TypeError as error:
        raise ValueError(f"{what}: {error}; it takes {', '.join(known)}") from None
    return kind(**fixed, **options)
