"""Find recipe files by name or path, read them as plain values, and apply `--cfg-options`.

A recipe is a Python module of plain values (mmengine's config style, `with read_base(): from .base import *`). It is
imported like any module, so only bundled recipes, files that the user names as recipes, and their imports are executed,
never code from a dataset, a checkpoint or a run's config.json. YAML and JSON are not supported.

A file with several similar recipes lists them in the dict `VARIANTS`, variant → {dotted key: value}. Each variant is a
recipe with the name "FILE:VARIANT". A variant's key "about" holds the values for the "{field}" placeholders in the
file's docstring.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import importlib
import json
import os
import re
import sys
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dali_mix import _factories
from dali_mix._keywords import keywords
from dali_mix.engine.config.objects import TAKE_OBJECTS, copied, is_object
from dali_mix.engine.config.schema import FIELDS, RunConfig, make_config
from dali_mix.options import did_you_mean

# Values to set in a recipe: a dict by dotted key, (key, value) pairs, or strings as in `--cfg-options`.
Options = Mapping[str, Any] | Iterable[str | tuple[str, Any]]
RECIPES = Path(__file__).parents[2] / "recipes"
# Nested values that may be just a name: `"resnet18"` is short for `{"type": "resnet18"}`.
_NAMED = (("model", "backbone"), ("model", "head"))
_TYPED = (*TAKE_OBJECTS, "objective", "schedule", "pipeline")


def list_recipes() -> list[str]:
    """Return the sorted names of the bundled recipes, each variant as "FILE:VARIANT".

    Files whose names begin with an underscore are bases and are not listed.
    """
    names = []
    for path in RECIPES.rglob("[!_]*.py"):
        file = path.relative_to(RECIPES).with_suffix("").as_posix()
        names += [f"{file}:{variant}" for variant in _variants(path)] or [file]
    return sorted(names)


@functools.cache
def former_names() -> dict[str, str]:
    """Return a dict from every accepted spelling of each bundled recipe to its name.

    "cifar10/wrn28_10:cutmix" can also be spelled "cifar10/wrn28_10_cutmix" and "cifar10/cutmix_wrn28_10". These
    spellings date from before files had variants. Users' recipes and the config.json of older runs still contain them.
    """
    joined = (r"\1_\2", r"\2_\1", r"\g<0>")
    return {re.sub(r"(\w+):(\w+)", text, name): name for name in list_recipes() for text in joined}


def find_recipe(name: str | Path) -> tuple[Path, str]:
    """Return (file, variant) of a bundled recipe, or of a path "FILE.py" or "FILE.py:VARIANT".

    The variant is "" if `name` contains none.

    Raises:
        FileNotFoundError: no such recipe (the message suggests similar names).
        ValueError: a YAML or JSON file, or `name` is neither a string nor a path.
    """
    if not isinstance(name, (str, os.PathLike)):
        wanted = "must be a name (`dali-mix recipes` lists them) or the path of a .py file"
        raise ValueError(f"recipe={name!r:.40}: {wanted}")
    name = str(name)
    if bundled := former_names().get(name):
        file, _, variant = bundled.partition(":")
        return RECIPES / f"{file}.py", variant
    file, _, variant = name.rpartition(":") if ".py:" in name else (name, "", "")
    path = Path(file)
    if path.suffix in (".yaml", ".yml", ".json"):
        raise ValueError(f"{name}: recipes are Python files (.py); YAML and JSON are not supported")
    if path.suffix == ".py":
        if not path.is_file():
            raise FileNotFoundError(f"{file}: no such recipe file")
        return path.resolve(), variant
    hint = did_you_mean(name, list_recipes(), cutoff=0.4)
    raise FileNotFoundError(
        f"no recipe {name!r}{hint}: it is neither bundled nor a .py file; `dali-mix recipes` lists them"
    )


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """Return a deep copy of a recipe's public variables, merged with the values of its variant.

    Raises:
        FileNotFoundError, ValueError: as `find_recipe`; ValueError also for a file that cannot be imported, a variable
            that is not a plain value, or a missing or unknown variant.
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
        known = f"one of {path.name}:{', :'.join(variants)}" if variants else f"{path.name}, which has no variants"
        raise ValueError(f"{recipe}: choose {known}")
    own = variants.get(variant, {})
    own.pop("about", None)
    return merge_options(values, own.items())


def recipe_text(recipe: str) -> str:
    """Return the text of a recipe's file. For a variant, fill in the "{field}" placeholders in the file's docstring.

    The values are the entries of the variant's "about" and, for "{variant}", its name. Raise the errors of
    `find_recipe`, and KeyError for an unknown variant.
    """
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
        # Register each variant as a module under its old names: a user's recipe may contain
        # `from dali_mix.recipes.cifar10.wrn28_10_cutmix import *`.
        for spelling, name in former_names().items():
            if spelling != name:
                variant = types.ModuleType("dali_mix.recipes." + spelling.replace("/", "."))
                vars(variant).update(read_recipe(name))
                sys.modules[variant.__name__] = variant
        # Import the file as part of a temporary package, in which `from .base import *` finds files next to it. Remove
        # the package afterwards: another recipe of the same name must be read from its own file.
        package = types.ModuleType("_dali_mix_user_recipes")
        package.__path__ = [str(path.parent)]
        sys.modules[package.__name__] = package
        try:
            return importlib.import_module(f"{package.__name__}.{path.stem}")
        finally:
            for name in [n for n in sys.modules if n.split(".")[0] == package.__name__]:
                del sys.modules[name]
    except Exception as error:  # any error raised by a recipe is a mistake in the recipe
        raise ValueError(f"{path}: the recipe cannot be imported: {type(error).__name__}: {error}") from error


def parse_option(text: str, option: str = "--cfg-options") -> tuple[str, Any]:
    """Parse "a.b=value" into ("a.b", value). The value is a Python literal, true/false/none/null, or else a string.

    Raise ValueError, naming `option`, if `text` is not of the form KEY=VALUE.
    """
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
    """Return (dotted key, value) pairs from `options`, then `values`, then those `parts` that are not None.

    For keys whose value has a type ("model", "mixer", …), a name or an object in `values` or `parts` becomes the dict
    {"type": name or object}. Values that are `Path`s become strings.

    Args:
        options: see `Options`.
        values: values of top-level recipe keys.
        parts: like `values`; None means that the recipe's value is kept.

    Raises:
        ValueError: `options` is a single string, or sets (part of) a key that is in `values` or `parts`.
    """
    if isinstance(options, str):
        raise ValueError(f'options={options!r:.60}: must be a dict of keys and values, or a list of "KEY=VALUE"')
    listed = options.items() if isinstance(options, Mapping) else options
    pairs = [parse_option(option) if isinstance(option, str) else option for option in listed]
    given = {**(values or {}), **{name: value for name, value in parts.items() if value is not None}}
    for key, _ in pairs:
        if (name := key.partition(".")[0]) in given:
            raise ValueError(f"options set {key}, and {name}=… replaces it: leave one of them out")
    for name, value in given.items():
        typed = (name in _TYPED and isinstance(value, str)) or (name in TAKE_OBJECTS and is_object(value))
        pairs.append((name, {"type": value} if typed else dict(value) if isinstance(value, Mapping) else value))
    return [(name, str(value) if isinstance(value, Path) else value) for name, value in pairs]


def change(config: RunConfig, pairs: Iterable[tuple[str, Any]]) -> RunConfig:
    """Return a copy of `config` with the values of `pairs`, (dotted key, value), set.

    Raise the errors of `merge_options` and `make_config`.
    """
    return make_config(merge_options({name: getattr(config, name) for name in FIELDS}, pairs))


def merge_options(values: dict[str, Any], options: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a copy of `values` in which the values of `options`, (dotted key, value) pairs, are set in order.

    List items are addressed by index. A dict on the path that is missing or None is created, at the top level with the
    key's default. If the model's backbone or head is only a name, it becomes {"type": name} before a key in it is set.

    Raise ValueError if a key passes through a value that is neither a dict nor a list, or has an invalid list index.
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
    raise ValueError(f"--cfg-options {dotted}: cannot set {part!r} in {parent!r}")


def recipe_name(recipe: str | Path) -> str:
    """Return the recipe name for config.json: a bundled name or an absolute path, with ":VARIANT" for a variant."""
    path, variant = find_recipe(recipe)
    bundled = path.is_relative_to(RECIPES)
    file = path.relative_to(RECIPES).with_suffix("").as_posix() if bundled else str(path)
    return f"{file}:{variant}" if variant else file


def code_named(value: Any, where: str = "") -> dict[str, str]:
    """Return dotted key → value of every `type` of the form "module:name" in `value`. Keys begin with `where`."""
    if isinstance(value, str):
        return {where: value} if ":" in value and where.rpartition(".")[2] == "type" else {}
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    found: dict[str, str] = {}
    for key, part in inner:
        found |= code_named(part, f"{where}.{key}".lstrip("."))
    return found


def find_modules(recipe: str | Path, values: dict[str, Any]) -> None:
    """Append the folder of a user's recipe file to `sys.path`, for the "module:name" types in `values`.

    Do nothing for a bundled recipe. Raise ValueError if the folder has a module named in `values`, but Python finds or
    has loaded another module of that name.
    """
    path, _ = find_recipe(recipe)
    if not path.is_relative_to(RECIPES):
        _factories.import_from(path.parent, list(code_named(values).values()))


@keywords
def load_config(recipe: str | Path, options: Options = (), **values: Any) -> RunConfig:
    """Read a recipe, apply `options` and `values`, and check the result.

    Args:
        recipe: name of a bundled recipe ("cifar10/wrn28_10:resizemix"), or a path ("mine.py", "mine.py:variant").
        options: values by dotted key, {"optimizer.lr": 0.05}, or "key=value" strings as for `--cfg-options`.
        values: top-level keys of the recipe, such as `epochs=3`, as in `dali_mix.train`.

    Raises:
        FileNotFoundError: no such recipe.
        ValueError: a recipe that cannot be read, an unknown key or an invalid value.
    """
    merged = merge_options(read_recipe(recipe), to_pairs(options, values))
    find_modules(recipe, merged)
    return make_config(merged, where=str(recipe))
