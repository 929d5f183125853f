"""Load the configs of existing runs from config.json or a checkpoint, and override them with new options."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from dali_mix.engine.config.recipe_files import (
    Options,
    code_named,
    find_modules,
    former_names,
    load_config,
    merge_options,
    read_recipe,
    recipe_name,
    to_pairs,
)
from dali_mix.engine.config.schema import RunConfig, make_config

# Keys whose values affect scores. Sets, device and precision are read from the recipe, since they may differ between
# machines.
EVALUATED = (
    *("model", "pipeline", "train_pipeline", "val_pipeline", "num_classes"),
    *("loss", "objective", "metrics", "val_batch_size"),
)


def load_resumed(recipe: str | Path, work_dir: Path, options: Options = ()) -> RunConfig:
    """Return the config of a run to resume: the values in its config.json, overridden by `options`.

    If there are no checkpoints or no config.json, return the result of `load_config`.

    Values in config.json are validated. A "module:name" among them refers to code, so it must also be in the recipe or
    `options`. `resume_strict` is always read from the recipe or `options`.

    Raises:
        FileNotFoundError, ValueError: as `load_config`; ValueError also for a config.json that is damaged, belongs to a
            different recipe, or names code that neither the recipe nor `options` contain.
    """
    path, pairs = work_dir / "config.json", to_pairs(options)
    if not path.is_file() or not any((work_dir / "checkpoints").glob("*.pt")):
        return load_config(recipe, pairs)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        values = copy.deepcopy(values)  # raises for objects nested too deeply
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({error}); delete it to use the recipe's own values") from None
    if isinstance(loader := values.get("loader"), dict) and loader.get("source") == "exact":
        del loader["source"]  # an option of version 0.1
    if not _of_recipe(before := values.pop("recipe", None), recipe, moved=False):
        raise ValueError(
            f"{path}: this run uses the recipe {former_names().get(str(before), before)}, not {recipe_name(recipe)}:"
            " pass that recipe to resume it"
        )
    values.pop("made_by", None)
    values["resume_strict"] = read_recipe(recipe).get("resume_strict", True)  # not inherited: it must be set each time
    return _merged(recipe, values, pairs, path)


def _of_recipe(before: object, recipe: str | Path, *, moved: bool) -> bool:
    """Return True if `before`, the recipe name stored by a run, is None or refers to `recipe`.

    If `moved` is True, a recipe file of the same name in another folder counts as the same recipe.
    """
    name, before = recipe_name(recipe), former_names().get(str(before), before)
    if before in (None, name):
        return True
    return moved and all(".py" in str(one) for one in (before, name)) and Path(str(before)).name == Path(name).name


def _merged(recipe: str | Path, values: dict[str, Any], pairs: list[tuple[str, Any]], path: Path) -> RunConfig:
    """Return the config made from `values`, with `pairs` applied.

    For a user's recipe file, the folder of the file is appended to `sys.path` (see `find_modules`).

    Args:
        recipe: name or path of the recipe.
        values: recipe values, at least some of which were read from the file `path`.
        pairs: (dotted key, value) pairs, which override `values`.
        path: the file to name in messages.

    Raises:
        ValueError: a "module:name" that neither the recipe nor `pairs` contain, or an invalid config. The message for
            an invalid config names `path` if `values` are invalid without `pairs`, and the recipe otherwise.
    """
    merged, trusted = merge_options(values, pairs), set(code_named(read_recipe(recipe)).values())
    for key, value in pairs:
        trusted |= set(code_named(value, key).values())
    for where, kind in code_named(merged).items():
        if kind not in trusted:
            raise ValueError(
                f"{path}: {where}={kind} is code that the recipe does not name: if you trust it, add {where}={kind} to "
                "--cfg-options"
            )
    find_modules(recipe, merged)
    try:
        return make_config(merged, where=str(recipe))
    except ValueError:
        make_config(values, where=str(path))  # blame the file only if it is invalid without the options
        raise


def load_evaluated(recipe: str | Path, checkpoint: Path, options: Options = ()) -> tuple[RunConfig, Path | None]:
    """Return the config for evaluating `checkpoint`, and the file that the run's values were read from.

    The values are read from the first of these sources that exists and belongs to `recipe`:

    - config.json in the work directory that contains the checkpoint: all values, as in `load_resumed`;
    - the checkpoint: only the values that affect scores (`EVALUATED`); all others come from the recipe file. The
      checkpoint also belongs to `recipe` if it stores no recipe name, or a file of the same name in another folder;
    - the recipe file. The returned file is then None.

    `options` override all of these.

    Raises:
        FileNotFoundError, ValueError: as `load_resumed`.
    """
    work_dir, pairs = checkpoint.absolute().parent.parent, to_pairs(options)
    try:
        before = json.loads((work_dir / "config.json").read_text(encoding="utf-8")).get("recipe")
    except (OSError, ValueError, AttributeError, RecursionError):
        before = None
    in_run = checkpoint.absolute().parent.name == "checkpoints" and before is not None
    if in_run and _of_recipe(before, recipe, moved=False):
        return load_resumed(recipe, work_dir, pairs), work_dir / "config.json"
    if in_run and not _of_recipe(before, recipe, moved=True):
        return load_config(recipe, pairs), None
    from dali_mix.engine.checkpoint.trained import run_values

    values = copy.deepcopy(run_values(checkpoint))
    if not values or not _of_recipe(values.pop("recipe"), recipe, moved=True):
        return load_config(recipe, pairs), None
    values["val_batch_size"] = values.get("val_batch_size") or values.get("batch_size")
    ours = read_recipe(recipe)
    merged = {**ours, **{key: values[key] for key in EVALUATED if key in values}}
    return _merged(recipe, merged, pairs, checkpoint), checkpoint
