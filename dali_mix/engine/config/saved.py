"""Recipes of existing runs: the values in their config.json, changed by new options."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path

from dali_mix.engine.config.recipe_files import (
    code_named,
    find_modules,
    former_names,
    load_config,
    merge_options,
    parse_option,
    read_recipe,
    recipe_name,
)
from dali_mix.engine.config.schema import RunConfig, make_config


def load_resumed(recipe: str, work_dir: Path, options: Iterable[str] = ()) -> RunConfig:
    """Return the config of a run to resume: the values in its config.json, changed by `options`.

    Without checkpoints, or without a config.json, it is `load_config`. Values of config.json are plain and checked; a
    "module:name" among them, which names code, counts only if the recipe or `options` name the same.

    Raises:
        FileNotFoundError, ValueError: as `load_config`; also a config.json that is damaged or of another recipe.
    """
    path, pairs = work_dir / "config.json", [parse_option(option) for option in options]
    if not path.is_file() or not any((work_dir / "checkpoints").glob("*.pt")):
        return load_config(recipe, options)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        values = copy.deepcopy(values)  # as all that follows: an object nested too deeply ends here
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({error}); with it deleted, the recipe's own values count") from None
    if isinstance(loader := values.get("loader"), dict) and loader.get("source") == "exact":
        del loader["source"]  # which runs of version 0.1 could name
    name, before = recipe_name(recipe), values.pop("recipe", None)
    before = former_names().get(str(before), before)
    values.pop("made_by", None)
    if before not in (None, name):
        raise ValueError(f"{path}: this run is of the recipe {before}, not {name}: name that one to resume it")
    base = read_recipe(recipe)
    values["resume_strict"] = base.get("resume_strict", True)  # resuming in spite of differences is asked for each time
    merged, trusted = merge_options(values, pairs), set(code_named(base).values())
    for key, value in pairs:
        trusted |= set(code_named(value, key).values())
    for where, kind in code_named(merged).items():
        if kind not in trusted:
            raise ValueError(
                f"{path}: {where}={kind} is code the recipe does not name: add {where}={kind} to --cfg-options if you "
                "trust it"
            )
    find_modules(recipe, merged)
    try:
        return make_config(merged, where=recipe)
    except ValueError:
        make_config(values, where=str(path))  # the file is to blame only if it is wrong without the options
        raise


def load_evaluated(recipe: str, checkpoint: Path, options: Iterable[str] = ()) -> tuple[RunConfig, Path | None]:
    """Return the config to evaluate `checkpoint` with, and the config.json it was read from, if any.

    A checkpoint in a run of this recipe is evaluated with the values of the run, so that its figures are reproduced;
    any other with the recipe's. Both are changed by `options`.

    Raises:
        FileNotFoundError, ValueError: as `load_resumed`.
    """
    work_dir = checkpoint.absolute().parent.parent
    try:
        before = json.loads((work_dir / "config.json").read_text(encoding="utf-8")).get("recipe")
    except (OSError, ValueError, AttributeError, RecursionError):
        before = None
    of_this_recipe = former_names().get(str(before), before) == recipe_name(recipe)
    if of_this_recipe and checkpoint.absolute().parent.name == "checkpoints":
        return load_resumed(recipe, work_dir, options), work_dir / "config.json"
    return load_config(recipe, options), None
