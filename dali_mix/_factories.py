"""Load classes and functions of other packages, by entry point or as "module:attribute", and list their parameters."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from dali_mix.options import did_you_mean

_ANY = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def resolve(kind: str, what: str) -> Any:
    """Return the class or function named by `kind`, "package.module:attribute"; `what` describes it in messages.

    Raise ValueError if `kind` is malformed, or if the object cannot be imported, does not exist, or is not callable.
    """
    module, _, attribute = kind.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise ValueError(f"{what} type {kind!r}: write it as module:name, e.g. my_package.my_module:MyClass")
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # the module's own code runs, and may raise anything
        top, advice = module.partition(".")[0], ""
        if isinstance(error, ModuleNotFoundError) and error.name == top:
            advice = f": put {top}.py in the folder of the recipe file, or install its package"
        raise ValueError(f"{what} type {kind!r} cannot be imported: {type(error).__name__}: {error}{advice}") from error
    found = getattr(loaded, attribute, None)
    if found is None:
        raise ValueError(f"{what} type {kind!r} cannot be imported: {_where(loaded)} defines no {attribute}")
    if not callable(found):
        raise ValueError(f"{what} type {kind!r} is not a class or a function")
    return found


def installed(group: str, what: str, name: str, ours: Iterable[str], *others: str) -> tuple[Any, str]:
    """Load the entry point `name` of `group` and return (loaded object, origin).

    The origin is a text for messages: `what`, the name, and the module and attribute that define the object.

    Raise ValueError if no installed package registers `name`, or if loading it raises ImportError or AttributeError.
    The message for an unregistered name lists the registered names, the built-in names `ours`, and the texts `others`.
    """
    offered = {point.name: point for point in entry_points(group=group)}
    if name not in offered:
        known = [*sorted({*ours, *offered}), *others]
        raise ValueError(f"{what} {name!r} is not known{did_you_mean(name, known)}: choose one of {', '.join(known)}")
    origin = f"{what} {name!r} ({offered[name].value})"
    try:
        return offered[name].load(), origin
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{origin} cannot be imported: {error}; reinstall its package") from error


def parameters(factory: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class or function by name, without *args and **kwargs.

    If a class's `__init__` has **kwargs, add the parameters of the next base class that defines `__init__`, and so on.
    A parameter of a derived class takes precedence over one of the same name in a base class.
    """
    found: dict[str, inspect.Parameter] = {}
    for part in factory.__mro__[:-1] if isinstance(factory, type) else (factory,):
        if isinstance(part, type) and "__init__" not in vars(part):
            continue
        named = inspect.signature(part).parameters
        found = {name: p for name, p in named.items() if p.kind not in _ANY} | found
        if not any(p.kind is p.VAR_KEYWORD for p in named.values()):
            break
    return found


def import_from(folder: Path, kinds: list[str]) -> None:
    """Append `folder` to `sys.path` if it is missing there, so that modules in it can be imported.

    Raise ValueError if a top-level module named in `kinds`, "module:attribute" strings, is in `folder`, but Python
    finds, or has loaded, another module of that name.
    """
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()
    for name in sorted({kind.partition(":")[0].partition(".")[0] for kind in kinds}):
        here = importlib.machinery.PathFinder.find_spec(name, [str(folder)])
        if here is None or here.origin is None:
            continue
        loaded = sys.modules.get(name)
        other = importlib.util.find_spec(name) if loaded is None else None
        used = _where(loaded) if loaded is not None else str(other and other.origin)
        if Path(used).resolve() != Path(here.origin).resolve():
            raise ValueError(f"two modules have the name {name}: {here.origin} and {used}; rename the first")


def _where(module: Any) -> str:
    return getattr(module, "__file__", None) or f"{module.__name__} (built in)"
