"""Recipe files: found by name or path, read as plain values, changed by `--cfg-options`.

A recipe is a Python module of plain values (mmengine's config style, `with read_base(): from .base import *`). It is
imported like any module, so only files a person names as recipes ever run; nothing from a data set, a checkpoint or a
work directory does. YAML and JSON are not read.

A file of several recipes that differ in a few values lists them in `VARIANTS`, variant → {dotted key: value}; each is
named "FILE:VARIANT". Its key "about" holds the texts of the "{fields}" in the file's header.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import importlib
import json
import re
import sys
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dali_mix import _factories
from dali_mix.engine.config.objects import TAKE_OBJECTS, copied, is_object
from dali_mix.engine.config.schema import FIELDS, RunConfig, make_config
from dali_mix.options import did_you_mean

# Values to set in a recipe: by dotted key, as pairs of one and a value, or as the texts of `--cfg-options`.
Options = Mapping[str, Any] | Iterable[str | tuple[str, Any]]
RECIPES = Path(__file__).parents[2] / "recipes"
# What a recipe may give as a name alone: `"resnet18"` is short for `{"type": "resnet18"}`.
_NAMED = (("model", "backbone"), ("model", "head"))
_TYPED = (*TAKE_OBJECTS, "objective", "schedule", "pipeline")


def list_recipes() -> list[str]:
    """Return the names of the bundled recipes, sorted, each variant of a file as "FILE:VARIANT".

    Files that begin with an underscore are bases of others.
    """
    names = []
    for path in RECIPES.rglob("[!_]*.py"):
        file = path.relative_to(RECIPES).with_suffix("").as_posix()
        names += [f"{file}:{variant}" for variant in _variants(path)] or [file]
    return sorted(names)


@functools.cache
def former_names() -> dict[str, str]:
    """Return every accepted spelling of each bundled recipe → its name.

    "cifar10/wrn28_10:cutmix" is also "cifar10/wrn28_10_cutmix" and "cifar10/cutmix_wrn28_10": names of before files had
    variants, as users' files import them and older runs' config.json holds them.
    """
    joined = (r"\1_\2", r"\2_\1", r"\g<0>")
    return {re.sub(r"(\w+):(\w+)", text, name): name for name in list_recipes() for text in joined}


def find_recipe(name: str | Path) -> tuple[Path, str]:
    """Return (file, variant) of a bundled recipe, or of a path "FILE.py" or "FILE.py:VARIANT"; variant "" if none.

    Raises:
        FileNotFoundError: no such recipe (the message names close ones).
        ValueError: a file that is not Python.
    """
    name = str(name)
    if bundled := former_names().get(name):
        file, _, variant = bundled.partition(":")
        return RECIPES / f"{file}.py", variant
    file, _, variant = name.rpartition(":") if ".py:" in name else (name, "", "")
    path = Path(file)
    if path.suffix in (".yaml", ".yml", ".json"):
        raise ValueError(f"{name}: recipes are Python files (.py); YAML and JSON are not read")
    if path.suffix == ".py":
        if not path.is_file():
            raise FileNotFoundError(f"{file}: no such recipe file")
        return path.resolve(), variant
    hint = did_you_mean(name, list_recipes(), cutoff=0.4)
    raise FileNotFoundError(
        f"no recipe {name!r}{hint}: it is neither bundled nor a .py file; `dali-mix recipes` lists all"
    )


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """Return the public plain variables of a recipe, as a deep copy, with the values of its variant merged.

    Raises:
        FileNotFoundError, ValueError: as `find_recipe`; also a file that does not import, a variable that is not a
            plain value, or a variant that is missing or unknown.
    """
    path, variant = find_recipe(recipe)
    module = _import(path)
    values = {}
    for name, value in vars(module).items():
        if name.startswith("_") or isinstance(value, types.ModuleType) or callable(value):
            continue
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {name} is not made of plain values (numbers, text, lists, dicts)") from error
        values[name] = copy.deepcopy(value)
    variants = values.pop("VARIANTS", {})
    if variant not in (variants or [""]):
        known = f"one of {path.name}:{', :'.join(variants)}" if variants else f"{path.name} alone: it has no variants"
        raise ValueError(f"{recipe}: name {known}")
    own = variants.get(variant, {})
    own.pop("about", None)
    return merge_options(values, own.items())


def recipe_text(recipe: str) -> str:
    """Return the text of a recipe's file; fields of its header ("{title}") are filled in from the variant's "about"."""
    path, variant = find_recipe(recipe)
    header, quotes, body = path.read_text(encoding="utf-8").partition('\n"""\n')
    if variant:
        for field, text in {**_variants(path)[variant].get("about", {}), "variant": variant}.items():
            header = header.replace(f"{{{field}}}", str(text))
    return header + quotes + body


def _variants(path: Path) -> dict[str, dict[str, Any]]:
    return getattr(_import(path), "VARIANTS", {})


def _import(path: Path) -> types.ModuleType:
    try:
        if path.is_relative_to(RECIPES):
            dotted = ".".join(("dali_mix.recipes", *path.relative_to(RECIPES).with_suffix("").parts))
            return importlib.import_module(dotted)
        # `from dali_mix.recipes.cifar10.wrn28_10_cutmix import *` imports a variant.
        for spelling, name in former_names().items():
            if spelling != name:
                variant = types.ModuleType("dali_mix.recipes." + spelling.replace("/", "."))
                vars(variant).update(read_recipe(name))
                sys.modules[variant.__name__] = variant
        # A package of its own around the file's folder, so that `from .base import *` finds its neighbours; removed
        # again, so that the next recipe of that name is read from its file.
        package = types.ModuleType("_dali_mix_user_recipes")
        package.__path__ = [str(path.parent)]
        sys.modules[package.__name__] = package
        try:
            return importlib.import_module(f"{package.__name__}.{path.stem}")
        finally:
            for name in [n for n in sys.modules if n.split(".")[0] == package.__name__]:
                del sys.modules[name]
    except Exception as error:  # whatever a recipe's own code raises is a mistake in the recipe
        raise ValueError(f"{path}: the recipe does not import: {type(error).__name__}: {error}") from error


def parse_option(text: str, option: str = "--cfg-options") -> tuple[str, Any]:
    """Return ("a.b", value) for "a.b=value": the value is a Python literal, true/false/none, or else text."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"{option} takes KEY=VALUE, not {text!r}")
    words = {"true": True, "false": False, "none": None, "null": None}
    value: Any = words.get(raw.lower(), raw)
    if value is raw:
        with suppress(ValueError, SyntaxError):
            value = ast.literal_eval(raw)
    return key.strip(), value


def to_pairs(options: Options = (), values: Mapping[str, Any] | None = None, **parts: Any) -> list[tuple[str, Any]]:
    """Return the (dotted key, value) pairs of options, of a recipe's keys, and of those `parts` that are not None.

    A name or an object for what has a type ("model", "mixer", …) is put where the type stands, a path becomes text.
    """
    listed = options.items() if isinstance(options, Mapping) else options
    pairs = [parse_option(option) if isinstance(option, str) else option for option in listed]
    given = {**(values or {}), **{name: value for name, value in parts.items() if value is not None}}
    for name, value in given.items():
        typed = (name in _TYPED and isinstance(value, str)) or (name in TAKE_OBJECTS and is_object(value))
        pairs.append((name, {"type": value} if typed else dict(value) if isinstance(value, Mapping) else value))
    return [(name, str(value) if isinstance(value, Path) else value) for name, value in pairs]


def change(config: RunConfig, pairs: Iterable[tuple[str, Any]]) -> RunConfig:
    """Return `config` with dotted keys set. Raise ValueError as `make_config`."""
    return make_config(merge_options({name: getattr(config, name) for name in FIELDS}, pairs))


def merge_options(values: dict[str, Any], options: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return `values` with dotted keys set; missing dicts on the path are made. List items are named by their index.

    Raises:
        ValueError: a path through something that is neither dict nor list, or past a list's end.
    """
    merged = copied(values)
    for dotted, value in options:
        *path, last = dotted.split(".")
        parent: Any = merged
        for depth, part in enumerate(path):
            if isinstance(parent, dict) and parent.get(part) is None:
                parent[part] = _default(part) if depth == 0 else {}
            elif isinstance(parent, dict) and isinstance(parent[part], str) and tuple(path[: depth + 1]) in _NAMED:
                parent[part] = {"type": parent[part]}
            parent = parent[_key(parent, part, dotted)]
        parent[_key(parent, last, dotted)] = value
    return merged


def _default(name: str) -> Any:
    item = FIELDS.get(name)
    made = item.default_factory() if item and item.default_factory is not dataclasses.MISSING else {}
    return made if isinstance(made, dict) else {}


def _key(parent: Any, part: str, dotted: str) -> Any:
    if isinstance(parent, dict):
        return part
    if isinstance(parent, list) and part.isdigit() and int(part) < len(parent):
        return int(part)
    raise ValueError(f"--cfg-options {dotted}: {part!r} leads nowhere: the value there is {parent!r}")


def recipe_name(recipe: str | Path) -> str:
    """Return what a run's config.json calls its recipe: a bundled one's name, or "/path/mine.py", then ":VARIANT"."""
    path, variant = find_recipe(recipe)
    bundled = path.is_relative_to(RECIPES)
    file = path.relative_to(RECIPES).with_suffix("").as_posix() if bundled else str(path)
    return f"{file}:{variant}" if variant else file


def code_named(value: Any, where: str = "") -> dict[str, str]:
    """Return dotted key → text of every `type` of "module:name", at any depth."""
    if isinstance(value, str):
        return {where: value} if ":" in value and where.rpartition(".")[2] == "type" else {}
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    found: dict[str, str] = {}
    for key, part in inner:
        found |= code_named(part, f"{where}.{key}".lstrip("."))
    return found


def find_modules(recipe: str | Path, values: dict[str, Any]) -> None:
    """Let "module:name" find modules in the folder of a recipe file of the user's own."""
    path, _ = find_recipe(recipe)
    if not path.is_relative_to(RECIPES):
        _factories.import_from(path.parent, list(code_named(values).values()))


def load_config(recipe: str | Path, options: Options = (), **values: Any) -> RunConfig:
    """Read, merge and check a recipe.

    Args:
        recipe: name of a bundled recipe ("cifar10/wrn28_10:resizemix"), or path ("mine.py", "mine.py:variant").
        options: values to set by dotted key, {"optimizer.lr": 0.05}, or "key=value" strings as `--cfg-options` takes
            them.
        values: the same for whole keys of the recipe, `epochs=3`; as `dali_mix.train`.

    Raises:
        FileNotFoundError, ValueError: no such recipe; a key that is unknown, or a value that cannot be.
    """
    merged = merge_options(read_recipe(recipe), to_pairs(options, values))
    find_modules(recipe, merged)
    return make_config(merged, where=str(recipe))
