"""`RunConfig`: a recipe, checked. Unknown keys and impossible values are named before anything starts."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dali_mix.options import did_you_mean
from dali_mix.recordio.manifest import set_prefix
from dali_mix.tasks import Task, trainable

_SCHEDULE_KEYS = {
    "cosine": {"min_lr"},
    "step": {"milestones", "gamma"},
    "onecycle": {"pct_start", "div_factor", "final_div_factor"},
    "constant": set(),
}
_LOADER_KEYS = {"num_threads", "on_bad_record", "drop_last", "prefetch"}


@dataclass(frozen=True)
class RunConfig:
    """Everything a run is made from, in plain values; the names are the recipe's variables.

    Paths are relative to the current directory. `batch_size` is global: it is shared evenly by ranks and accumulation
    steps. `type` in `model`, `mixer`, `loss` is a name of ours or "module:attribute", in `optimizer` torch.optim's, in
    `objective` one of `dali_mix.engine.train.objectives.OBJECTIVES`. `metrics`: {"protocol": …, "ties": …} of
    `MultiLabelMetrics`.
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
    objective: dict[str, Any] = field(default_factory=lambda: {"type": "Plain"})
    metrics: dict[str, Any] = field(default_factory=dict)
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
    find_unused_parameters: bool = False
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
        """`checkpoint` with its defaults: interval_epochs 1, interval_steps None, keep 2, best "auto": top1 or mAP."""
        return {"interval_epochs": 1, "interval_steps": None, "keep": 2, "best": "auto", **self.checkpoint}

    def best_score(self, *tasks: Task) -> str:
        """Return the score whose best model is kept, "" for none. Raise ValueError if none of `tasks` measures it."""
        prefixes = ("",) if self.ema is None else ("", "ema_")
        measured = list(dict.fromkeys(prefix + name for prefix in prefixes for task in tasks for name in task.measured))
        name = self.checkpoints["best"] or ""
        if name not in (*measured, "auto", ""):
            raise ValueError(
                f"checkpoint.best={name!r} is not measured in {' or '.join(task.name for task in tasks)}: choose "
                f"'auto', None or one of {', '.join(measured)}"
            )
        return measured[0] if name == "auto" else name

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
    sets: dict[str, Any] = {name: getattr(config, name) for name in ("train_set", "val_set")}
    sets = {name: path and str(set_prefix(path)) for name, path in sets.items()}  # P.json is P
    return dataclasses.replace(config, **sets)


def _known(key: str, names: Iterable[str], where: str) -> None:
    names = sorted(names)
    if key not in names:
        hint = did_you_mean(key, names)
        raise ValueError(f"{where}: unknown key {key!r}{hint}; known: {', '.join(names) or 'none'}")


def _whole(name: str, value: Any, least: int, optional: bool = False) -> None:
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 63:
        raise ValueError(f"{name} must be a whole number of at least {least} and below 2^63, not {value!r:.40}")


def is_number(value: Any) -> bool:
    """Return True for a finite int or float that a float64 can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1 << 1023 if isinstance(value, int) else math.isfinite(value)


def _check(config: RunConfig) -> None:
    for name in ("batch_size", "epochs", "accumulate", "log_interval", "evaluate_epochs"):
        _whole(name, getattr(config, name), 1)
    for name in ("num_classes", "val_batch_size", "max_steps"):
        _whole(name, getattr(config, name), 1, optional=True)
    _whole("seed", config.seed, 0)
    for name, optional in (("train_set", False), ("val_set", True), ("weights", True)):
        value = getattr(config, name)
        if not (isinstance(value, str) and value) and not (optional and value is None):
            raise ValueError(f"{name} must be a path, not {value!r}")
    for name in ("channels_last", "compile", "sync_bn", "find_unused_parameters", "log_ids", "resume_strict"):
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"{name} must be True or False, not {getattr(config, name)!r}")
    for name in ("pipeline", "model", "loss", "objective", "optimizer", "schedule", "mixer"):
        value = getattr(config, name)
        if name == "mixer" and value is None:
            continue
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            hint = f" ({name}.type={value})" if isinstance(value, str) else ""
            raise ValueError(f"{name} must be a dict with a 'type', not {value!r}{hint}")
        if "num_classes" in value:
            raise ValueError(f"{name}.num_classes: num_classes stands by itself in a recipe, or is taken from the set")
    for name in ("train_pipeline", "val_pipeline", "paramwise", "loader", "checkpoint", "metrics"):
        if not isinstance(getattr(config, name), dict):
            raise ValueError(f"{name} must be a dict, not {getattr(config, name)!r}")
    for name, choices in (("amp", ("auto", "bf16", "fp16", "off")), ("device", ("auto", "cpu", "cuda"))):
        if getattr(config, name) not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(config, name)!r}")
    if config.ema is not None and not (is_number(config.ema) and 0 <= config.ema < 1):
        raise ValueError(f"ema is a decay in [0, 1) or None, not {config.ema!r}")
    if config.clip_grad_norm is not None and not (is_number(config.clip_grad_norm) and config.clip_grad_norm > 0):
        raise ValueError(f"clip_grad_norm must be above 0 or None, not {config.clip_grad_norm!r}")
    lr: Any = config.optimizer.get("lr")
    if not (is_number(lr) and lr > 0):
        raise ValueError(f"optimizer.lr must be a rate above 0, not {lr!r}")
    names = config.visualizer if isinstance(config.visualizer, list) else [config.visualizer]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(
            f"visualizer must be a name or a list of names ('auto'; [] for none), not {config.visualizer!r}"
        )
    _check_groups(config)


def _check_groups(config: RunConfig) -> None:
    kind = config.schedule["type"]
    _known(kind, _SCHEDULE_KEYS, "schedule.type")
    for key in config.schedule:
        _known(key, {"type", "warmup_epochs", "warmup_factor", *_SCHEDULE_KEYS[kind]}, f"schedule ({kind})")
    for key, value in config.schedule.items():
        if key not in ("type", "milestones"):
            least = 1e-9 if key in ("pct_start", "div_factor", "final_div_factor") else 0
            most = 1 if key in ("pct_start", "warmup_factor") else math.inf
            if not (is_number(value) and least <= value <= most):
                raise ValueError(f"schedule.{key} must be a number from {least} to {most}, not {value!r}")
    if kind == "step":
        milestones = config.schedule.get("milestones")
        if not isinstance(milestones, (list, tuple)) or not all(map(is_number, milestones)):
            raise ValueError("schedule (step): give milestones, the epochs at which the rate falls")
    for key in config.loader:
        _known(key, _LOADER_KEYS, "loader")
    for key, value in config.loader.items():
        if key in ("num_threads", "prefetch"):
            _whole(f"loader.{key}", value, 1, optional=key == "num_threads")
        elif key == "drop_last":
            if not isinstance(value, bool):
                raise ValueError(f"loader.drop_last must be True or False, not {value!r}")
        elif value not in (choices := ("raise", "skip")):
            raise ValueError(f"loader.{key} must be {' or '.join(choices)}, not {value!r}")
    for key in config.checkpoint:
        _known(key, {"interval_epochs", "interval_steps", "keep", "best"}, "checkpoint")
    for key in config.metrics:
        _known(key, {"protocol", "ties"}, "metrics")
    config.best_score(*trainable().values())
    for key, value in config.paramwise.items():
        _known(key, {"norm_decay", "bias_decay", "custom"}, "paramwise")
        if key == "custom":
            if not isinstance(value, dict):
                raise ValueError(f"paramwise.custom must be a dict, not {value!r}")
        elif value is not None and not (is_number(value) and value >= 0):
            raise ValueError(f"paramwise.{key} must be a number from 0, not {value!r}")
    for key in ("interval_epochs", "interval_steps", "keep"):
        _whole(f"checkpoint.{key}", config.checkpoints[key], 1, optional=key != "keep")
    if config.early_stopping is not None:
        if not isinstance(config.early_stopping, dict) or set(config.early_stopping) != {"patience"}:
            raise ValueError("early_stopping takes dict(patience=N): evaluations without a new best score")
        _whole("early_stopping.patience", config.early_stopping["patience"], 1)
        if config.val_set is None or not config.checkpoints["best"]:
            raise ValueError("early_stopping needs a val_set and checkpoint.best, the score to watch")


def check_kinds(parameters: Mapping[str, inspect.Parameter], what: str, options: dict[str, Any]) -> None:
    """Where an option's default is a number, or True or False, its value must be one too.

    Raises:
        ValueError: naming `what` and the option.
    """
    for key, value in options.items():
        default = parameters[key].default if key in parameters else None
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise ValueError(f"{what}: {key} must be True or False, not {value!r}")
        elif isinstance(default, (int, float)) and not is_number(value):
            raise ValueError(f"{what}: {key} must be a number, not {value!r}")


def call_with(factory: Any, what: str, options: dict[str, Any]) -> Any:
    """`factory(**options)`, with options it does not know reported as a ValueError naming `what`."""
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(factory).parameters
    init = tuple(getattr(factory.__init__, name, "") for name in ("__module__", "__qualname__"))
    if init == ("torch.nn.modules.module", "Module.__init__"):  # takes any, to refuse them all
        parameters = {}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in options:
            _known(key, parameters, what)
    try:
        return factory(**options)
    except TypeError as error:
        raise ValueError(f"{what}: {error}") from error
