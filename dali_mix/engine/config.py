"""Recipes: found by name or path, read into one plain, checked `RunConfig`.

A recipe is a Python module of plain values (mmengine's config style, `with read_base(): from .base import *`). It is
imported like any module, so only files a person names as recipes ever run; nothing from a data set, a checkpoint or a
work directory does. YAML and JSON are not read.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import json
import sys
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dali_mix

RECIPES = Path(dali_mix.__file__).parent / "recipes"

_SCHEDULE_KEYS = {
    "cosine": {"min_lr"},
    "step": {"milestones", "gamma"},
    "onecycle": {"pct_start", "div_factor", "final_div_factor"},
    "constant": set(),
}
_LOADER_KEYS = {"num_threads", "source", "on_bad_record", "drop_last", "prefetch"}


@dataclass(frozen=True)
class RunConfig:
    """Everything a run is made from, in plain values; the names are the recipe's variables.

    Paths are relative to the current directory. `batch_size` is global: it is shared evenly by ranks and accumulation
    steps. `type` in `model`, `mixer`, `loss` is a name of ours or "module:attribute", in `optimizer` one of torch.optim.
    """

    train_set: str
    val_set: str | None
    pipeline: dict[str, Any]
    batch_size: int
    epochs: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    train_pipeline: dict[str, Any] = field(default_factory=dict)
    val_pipeline: dict[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    val_batch_size: int | None = None
    seed: int = 0
    weights: str | None = None
    mixer: dict[str, Any] | None = None
    loss: dict[str, Any] = field(default_factory=lambda: {"type": "SoftCrossEntropy"})
    paramwise: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=lambda: {"type": "constant"})
    device: str = "auto"
    amp: str = "auto"
    channels_last: bool = True
    compile: bool = False
    accumulate: int = 1
    ema: float | None = None
    clip_grad_norm: float | None = None
    sync_bn: bool = False
    loader: dict[str, Any] = field(default_factory=dict)
    log_interval: int = 50
    log_ids: bool = False
    evaluate_epochs: int = 1
    checkpoint: dict[str, Any] = field(default_factory=dict)
    early_stopping: dict[str, Any] | None = None
    max_steps: int | None = None
    visualizer: str | list[str] = "auto"
    resume_strict: bool = True

    def resolved(self) -> dict[str, Any]:
        """Every value, as plain JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @property
    def checkpoints(self) -> dict[str, Any]:
        """`checkpoint` with its defaults: interval_epochs 1, interval_steps None, keep 2, best "top1"."""
        return {"interval_epochs": 1, "interval_steps": None, "keep": 2, "best": "top1", **self.checkpoint}

    def pipeline_options(self, train: bool) -> tuple[str, dict[str, Any]]:
        """(pipeline name, its options) for training or evaluation."""
        options = {**self.pipeline, **(self.train_pipeline if train else self.val_pipeline)}
        return options.pop("type"), options

    def per_rank(self, world_size: int) -> int:
        """Records in one rank's micro-batch.

        Raises:
            ValueError: `batch_size` does not divide by ranks × accumulation steps.
        """
        share, rest = divmod(self.batch_size, world_size * self.accumulate)
        if rest or not share:
            raise ValueError(
                f"batch_size={self.batch_size} is global and must divide by ranks × accumulate "
                f"({world_size} × {self.accumulate}); choose a multiple of {world_size * self.accumulate}"
            )
        return share


FIELDS = {item.name: item for item in dataclasses.fields(RunConfig)}


def list_recipes() -> list[str]:
    """Names of the bundled recipes, sorted; files that begin with an underscore are bases of others."""
    files = (p.relative_to(RECIPES).with_suffix("") for p in RECIPES.rglob("*.py"))
    return sorted(f.as_posix() for f in files if not any(part.startswith("_") for part in f.parts))


def recipe_file(name: str) -> Path:
    """The file of a bundled recipe, or of a recipe given as a path to a .py file.

    Raises:
        FileNotFoundError: no such recipe (the message names close ones).
        ValueError: a file that is not Python.
    """
    bundled = RECIPES / f"{name}.py"
    if bundled.is_file() and name in list_recipes():
        return bundled
    path = Path(name)
    if path.suffix in (".yaml", ".yml", ".json"):
        raise ValueError(f"{name}: recipes are Python files (.py); YAML and JSON are not read")
    if path.suffix == ".py":
        if path.is_file():
            return path.resolve()
        raise FileNotFoundError(f"{name}: no such recipe file")
    near = difflib.get_close_matches(name, list_recipes(), n=3, cutoff=0.4)
    raise FileNotFoundError(
        f"no recipe {name!r}: it is neither bundled nor a .py file. "
        f"Close: {', '.join(near) or 'none'}; `dali-mix recipes` lists all"
    )


def read_recipe(path: Path) -> dict[str, Any]:
    """The public plain variables of a recipe, as a deep copy.

    Raises:
        ValueError: the file does not import, or a variable is not a plain value.
    """
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
    return values


def _import(path: Path) -> types.ModuleType:
    try:
        if path.is_relative_to(RECIPES):
            dotted = ".".join(("dali_mix.recipes", *path.relative_to(RECIPES).with_suffix("").parts))
            return importlib.import_module(dotted)
        # A package of its own around the file's folder, so that `from .base import *` finds its neighbours; taken away
        # again, so that the next recipe of that name is read afresh.
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


def parse_option(text: str) -> tuple[str, Any]:
    """("a.b", value) from "a.b=value"; the value is a Python literal, true/false/none, or else text.

    Raises:
        ValueError: no "=" in it.
    """
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"--cfg-options takes KEY=VALUE, not {text!r}")
    words = {"true": True, "false": False, "none": None, "null": None}
    if raw.lower() in words:
        return key.strip(), words[raw.lower()]
    try:
        return key.strip(), ast.literal_eval(raw)
    except (ValueError, SyntaxError):
        return key.strip(), raw


def merge_options(values: dict[str, Any], options: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """`values` with dotted keys set; a dict is made where the path has none. List items are reached by number.

    Raises:
        ValueError: a path through something that is neither dict nor list, or past a list's end.
    """
    merged = copy.deepcopy(values)
    for dotted, value in options:
        *path, last = dotted.split(".")
        place: Any = merged
        for depth, part in enumerate(path):
            if isinstance(place, dict) and place.get(part) is None:
                place[part] = _default(part) if depth == 0 else {}
            place = place[_key(place, part, dotted)]
        if isinstance(place, dict):
            place[last] = value
        else:
            place[_key(place, last, dotted)] = value
    return merged


def _default(name: str) -> Any:
    item = FIELDS.get(name)
    made = item.default_factory() if item and item.default_factory is not dataclasses.MISSING else {}
    return made if isinstance(made, dict) else {}


def _key(place: Any, part: str, dotted: str) -> Any:
    if isinstance(place, dict):
        return part
    if isinstance(place, list) and part.isdigit() and int(part) < len(place):
        return int(part)
    raise ValueError(f"--cfg-options {dotted}: {part!r} leads nowhere: the value there is {place!r}")


def load_config(recipe: str, options: Iterable[str] = ()) -> RunConfig:
    """Reads, merges and checks a recipe.

    Args:
        recipe: name of a bundled recipe ("cifar10/wrn28_10_resizemix") or path of a .py file.
        options: "key=value" strings, as `--cfg-options` takes them.

    Raises:
        FileNotFoundError, ValueError: see `recipe_file`, `read_recipe`, `parse_option`, `make_config`.
    """
    path = recipe_file(recipe)
    values = merge_options(read_recipe(path), (parse_option(option) for option in options))
    return make_config(values, where=str(recipe))


def make_config(values: dict[str, Any], where: str = "config") -> RunConfig:
    """A checked `RunConfig` of plain values.

    Raises:
        ValueError: unknown or missing keys, or a value that cannot be; with `where`, the key, and close matches.
    """
    for key in values:
        _known(key, FIELDS, where)
    required = [n for n, f in FIELDS.items() if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{where}: {', '.join(missing)} missing; every recipe gives {', '.join(required)}")
    config = RunConfig(**copy.deepcopy(values))
    try:
        _check(config)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return config


def _known(key: str, names: Iterable[str], where: str) -> None:
    names = sorted(names)
    if key not in names:
        near = difflib.get_close_matches(key, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
        raise ValueError(f"{where}: unknown key {key!r}; {hint}")


def _whole(config: RunConfig, name: str, least: int, optional: bool = False) -> None:
    value = getattr(config, name)
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


def _check(config: RunConfig) -> None:
    for name in ("batch_size", "epochs", "accumulate", "log_interval", "evaluate_epochs"):
        _whole(config, name, 1)
    for name in ("num_classes", "val_batch_size", "max_steps"):
        _whole(config, name, 1, optional=True)
    _whole(config, "seed", 0)
    for name in ("channels_last", "compile", "sync_bn", "log_ids", "resume_strict"):
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"{name} must be True or False, not {getattr(config, name)!r}")
    for name in ("pipeline", "model", "loss", "optimizer", "schedule", "mixer"):
        value = getattr(config, name)
        if name == "mixer" and value is None:
            continue
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise ValueError(f"{name} must be a dict with a 'type', not {value!r}")
    for name in ("train_pipeline", "val_pipeline", "paramwise", "loader", "checkpoint"):
        if not isinstance(getattr(config, name), dict):
            raise ValueError(f"{name} must be a dict, not {getattr(config, name)!r}")
    for name, choices in (("amp", ("auto", "bf16", "fp16", "off")), ("device", ("auto", "cpu", "cuda"))):
        if getattr(config, name) not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(config, name)!r}")
    if config.ema is not None and not 0 <= config.ema < 1:
        raise ValueError(f"ema is a decay in [0, 1) or None, not {config.ema!r}")
    if config.clip_grad_norm is not None and not config.clip_grad_norm > 0:
        raise ValueError(f"clip_grad_norm must be above 0 or None, not {config.clip_grad_norm!r}")
    lr = config.optimizer.get("lr")
    if not isinstance(lr, (int, float)) or not lr > 0:
        raise ValueError(f"optimizer.lr must be a rate above 0, not {lr!r}")
    if config.visualizer != "auto" and not isinstance(config.visualizer, list):
        raise ValueError(f"visualizer must be 'auto' or a list of names, not {config.visualizer!r}")
    _check_groups(config)


def _check_groups(config: RunConfig) -> None:
    kind = config.schedule["type"]
    _known(kind, _SCHEDULE_KEYS, "schedule.type")
    for key in config.schedule:
        _known(key, {"type", "warmup_epochs", "warmup_factor", *_SCHEDULE_KEYS[kind]}, f"schedule ({kind})")
    if kind == "step" and not isinstance(config.schedule.get("milestones"), (list, tuple)):
        raise ValueError("schedule (step): give milestones, the epochs at which the rate falls")
    for key in config.loader:
        _known(key, _LOADER_KEYS, "loader")
    for key in config.checkpoint:
        _known(key, {"interval_epochs", "interval_steps", "keep", "best"}, "checkpoint")
    for key in config.paramwise:
        _known(key, {"norm_decay", "bias_decay", "custom"}, "paramwise")
    for key in ("interval_epochs", "interval_steps", "keep"):
        value = config.checkpoints[key]
        if (value is None and key != "keep") or (isinstance(value, int) and value >= 1):
            continue
        raise ValueError(f"checkpoint.{key} must be a whole number of at least 1, not {value!r}")
    if config.early_stopping is not None:
        if set(config.early_stopping) != {"patience"} or not config.early_stopping["patience"] >= 1:
            raise ValueError("early_stopping takes dict(patience=N): evaluations without a new best score")
        if config.val_set is None or not config.checkpoints["best"]:
            raise ValueError("early_stopping needs a val_set and checkpoint.best, the score to watch")


def resolve_type(kind: str, what: str) -> Any:
    """The object "module:attribute" names, from a recipe.

    Raises:
        ValueError: it cannot be imported or is not callable.
    """
    module, _, attribute = kind.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{what} type {kind!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"{what} type {kind!r} is not a class or a function")
    return found


def call_with(factory: Any, what: str, options: dict[str, Any]) -> Any:
    """`factory(**options)`, with options it does not know reported as a ValueError naming `what`."""
    parameters = inspect.signature(factory).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in options:
            _known(key, parameters, what)
    try:
        return factory(**options)
    except TypeError as error:
        raise ValueError(f"{what}: {error}") from error
