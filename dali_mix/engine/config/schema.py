"""`RunConfig`: a validated recipe. Unknown keys and invalid values are reported before anything starts."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dali_mix._keywords import from_python
from dali_mix.engine.config.groups import (
    CheckpointOptions,
    EarlyStopping,
    LoaderOptions,
    Paramwise,
    ProfileOptions,
    ServiceOptions,
    checked,
    make,
    mapping,
)
from dali_mix.engine.config.objects import RECORDED, TAKE_OBJECTS, copied, is_object, recorded
from dali_mix.engine.train.lr_schedules import check_schedule
from dali_mix.options import check_keys, choice, did_you_mean, flag, is_finite, number, whole
from dali_mix.recordio.manifest import set_prefix
from dali_mix.tasks import Task, trainable

DEFAULT_LOSS = {"type": "SoftCrossEntropy"}


def _path(name: str, value: Any) -> None:
    if not (isinstance(value, str) and value):
        raise ValueError(f"{name} must be a path, not {value!r}")


def _set(name: str, value: Any) -> None:
    if not is_object(value):
        _path(name, value)


def _typed(name: str, value: Any) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    if not (isinstance(kind, str) or (name in TAKE_OBJECTS and is_object(kind))):
        hint = f" ({name}.type={value})" if isinstance(value, str) else ""
        raise ValueError(f"{name} must be a dict with a 'type', not {value!r}{hint}")
    if "num_classes" in value:
        raise ValueError(f"{name}.num_classes: set num_classes at the top level of the recipe, or omit it")


def _decay(name: str, value: Any) -> None:
    if not is_finite(value) or not 0 <= value < 1:
        raise ValueError(f"{name} is a decay in [0, 1) or None, not {value!r}")


def _above_zero(name: str, value: Any) -> None:
    if not is_finite(value) or value <= 0:
        raise ValueError(f"{name}={value!r}: must be a number above 0")


def _names(name: str, value: Any) -> None:
    if not all(isinstance(item, str) and item for item in (value if isinstance(value, list) else [value])):
        raise ValueError(f"{name} must be a name or a list of names ('auto'; [] for none), not {value!r}")
    if isinstance(value, list) and len(set(value)) < len(value):
        raise ValueError(f"{name}={value!r}: contains a duplicate")


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run as plain values; the field names are the recipe's variables.

    Paths are relative to the current directory. `batch_size` is global: it is divided among ranks and accumulation
    steps. `metrics` is a dict of options for `MultiLabelMetrics` or `DetectionMetrics`.

    The value of `type` depends on the field:

    - in `model`, `mixer` and `loss`, a bundled name or "module:attribute"; in `model` also "timm/NAME" or
      "torchvision/NAME";
    - in `optimizer`, the name of a class of torch.optim;
    - in `objective`, a key of `dali_mix.engine.train.objectives.OBJECTIVES`.

    A config built in Python may contain objects instead of names and paths; see `config.objects`.
    """

    train_set: Any = field(metadata=checked(_set))  # a prefix, or a loader
    val_set: Any | None = field(metadata=checked(_set))
    pipeline: dict[str, Any] = field(metadata=checked(_typed))
    batch_size: int = field(metadata=checked(whole, 1))
    epochs: int = field(metadata=checked(whole, 1))
    model: dict[str, Any] = field(metadata=checked(_typed))
    optimizer: dict[str, Any] = field(metadata=checked(_typed))
    train_pipeline: dict[str, Any] = field(default_factory=dict, metadata=checked(mapping))
    val_pipeline: dict[str, Any] = field(default_factory=dict, metadata=checked(mapping))
    num_classes: int | None = field(default=None, metadata=checked(whole, 1))
    val_batch_size: int | None = field(default=None, metadata=checked(whole, 1))
    seed: int = field(default=0, metadata=checked(whole, 0))
    weights: str | None = field(default=None, metadata=checked(_path))
    mixer: dict[str, Any] | None = field(default=None, metadata=checked(_typed))
    mixer_until: float | None = field(default=None, metadata=checked(number, 0.0, 1.0))
    loss: dict[str, Any] = field(default_factory=lambda: dict(DEFAULT_LOSS), metadata=checked(_typed))
    objective: dict[str, Any] = field(default_factory=lambda: {"type": "Plain"}, metadata=checked(_typed))
    metrics: dict[str, Any] = field(default_factory=dict, metadata=checked(mapping))
    paramwise: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=lambda: {"type": "constant"}, metadata=checked(_typed))
    device: str = field(default="auto", metadata=checked(choice, ("auto", "cpu", "cuda")))
    amp: str = field(default="auto", metadata=checked(choice, ("auto", "bf16", "fp16", "off")))
    channels_last: bool = field(default=True, metadata=checked(flag))
    compile: bool = field(default=False, metadata=checked(flag))
    accumulate: int = field(default=1, metadata=checked(whole, 1))
    ema: float | None = field(default=None, metadata=checked(_decay))
    clip_grad_norm: float | None = field(default=None, metadata=checked(_above_zero))
    sync_bn: bool = field(default=False, metadata=checked(flag))
    find_unused_parameters: bool = field(default=False, metadata=checked(flag))
    loader: dict[str, Any] = field(default_factory=dict)
    service: str | dict[str, Any] | None = None
    profile: dict[str, Any] | None = None
    log_interval: int = field(default=50, metadata=checked(whole, 1))
    log_ids: bool = field(default=False, metadata=checked(flag))
    evaluate_epochs: int = field(default=1, metadata=checked(whole, 1))
    checkpoint: dict[str, Any] = field(default_factory=dict)
    early_stopping: dict[str, Any] | None = None
    max_steps: int | None = field(default=None, metadata=checked(whole, 1))
    visualizer: str | list[str] = field(default="auto", metadata=checked(_names))
    resume_strict: bool = field(default=True, metadata=checked(flag))

    def resolved(self) -> dict[str, Any]:
        """Return all values but `service` and `profile`, which do not affect the result, as plain JSON types.

        Objects and loaders become text, as in `recorded`.
        """
        values = {name: recorded(getattr(self, name)) for name in FIELDS if name not in ("service", "profile")}
        return json.loads(json.dumps(values))

    @cached_property
    def checkpoints(self) -> CheckpointOptions:
        """Return `checkpoint` as `CheckpointOptions` with defaults filled in. Raise ValueError if it is invalid."""
        return make(CheckpointOptions, self.checkpoint, "checkpoint", "checkpoint.")

    @cached_property
    def loading(self) -> LoaderOptions:
        """Return `loader` as `LoaderOptions` with defaults filled in. Raise ValueError if it is invalid."""
        return make(LoaderOptions, self.loader, "loader", "loader.")

    @cached_property
    def stopping(self) -> EarlyStopping | None:
        """Return `early_stopping` as an `EarlyStopping`, or None."""
        if self.early_stopping is None:
            return None
        return make(EarlyStopping, self.early_stopping, "early_stopping", "early_stopping.")

    @cached_property
    def pool(self) -> ServiceOptions | None:
        """Return `service`, a dict or an address, as `ServiceOptions`, with defaults filled in; None if it is None."""
        if self.service is None:
            return None
        values = {"address": self.service} if isinstance(self.service, str) else self.service
        return make(ServiceOptions, values, "service", "service.")

    @cached_property
    def profiling(self) -> ProfileOptions | None:
        """Return the dict `profile` as `ProfileOptions`, with defaults filled in; None if `profile` is None."""
        return None if self.profile is None else make(ProfileOptions, self.profile, "profile", "profile.")

    def best_score(self, *tasks: Task) -> str:
        """Return the name of the score that selects best.pt; "" if `checkpoint.best` is None.

        "auto" stands for the first score of the first task. With `ema`, each score also has a variant "ema_NAME".

        Raise ValueError if `checkpoint.best` is not a score of any of `tasks`.
        """
        prefixes = ("",) if self.ema is None else ("", "ema_")
        measured = list(dict.fromkeys(prefix + name for prefix in prefixes for task in tasks for name in task.measured))
        name = "" if self.checkpoints.best is None else self.checkpoints.best
        if name not in (*measured, "auto", ""):
            hint = did_you_mean(name, measured) if isinstance(name, str) else ""
            raise ValueError(
                f"checkpoint.best={name!r} is not measured in {' or '.join(task.name for task in tasks)}{hint}: choose "
                f"'auto', None or one of {', '.join(measured)}"
            )
        return measured[0] if name == "auto" else name

    def pipeline_options(self, train: bool) -> tuple[str, dict[str, Any]]:
        """Return (name, options) of the pipeline for training or, if `train` is False, for evaluation.

        They are the "type" and all other entries of `pipeline`, overridden by `train_pipeline` or `val_pipeline`.
        """
        options = {**self.pipeline, **(self.train_pipeline if train else self.val_pipeline)}
        return options.pop("type"), options

    def per_rank(self, world_size: int) -> int:
        """Return the number of records in one rank's micro-batch.

        Raise ValueError unless `batch_size` is divisible by `world_size` · `accumulate`.
        """
        share, rest = divmod(self.batch_size, world_size * self.accumulate)
        if rest or not share:
            raise ValueError(
                f"batch_size={self.batch_size} is global and must be divisible by ranks × accumulate "
                f"({world_size} × {self.accumulate}); choose a multiple of {world_size * self.accumulate}"
            )
        return share


FIELDS = {item.name: item for item in dataclasses.fields(RunConfig)}


def make_config(values: dict[str, Any], where: str = "config") -> RunConfig:
    """Build a validated `RunConfig` from recipe values, which may contain objects (see `config.objects`).

    Raises:
        ValueError: an unknown or missing key, or an invalid value; the message starts with `where`.
    """
    try:
        _check_names(values)
        config = make(RunConfig, copied(values), where)
        if isinstance(kind := config.optimizer["type"], str) and not kind.startswith(RECORDED):
            _above_zero("optimizer.lr", config.optimizer.get("lr"))
        check_schedule(config.schedule)
        make(Paramwise, config.paramwise, "paramwise", "paramwise.")
        check_keys("metrics", config.metrics, ("protocol", "ties", "threshold"))
        _ = config.loading, config.pool
        if config.profiling is not None and config.profiling.last < config.profiling.first:
            raise ValueError(f"profile.last={config.profiling.last} is before profile.first={config.profiling.first}")
        config.best_score(*trainable().values())
        if config.stopping is not None and (config.val_set is None or not config.checkpoints.best):
            raise ValueError("early_stopping needs a val_set and checkpoint.best, the score to watch")
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None
    sets: dict[str, Any] = {name: getattr(config, name) for name in ("train_set", "val_set")}
    sets = {
        name: str(set_prefix(path)) if isinstance(path, str) else path for name, path in sets.items()
    }  # PREFIX.json means PREFIX
    return dataclasses.replace(config, **sets)


def _check_names(values: dict[str, Any]) -> None:
    """Raise ValueError for an unknown top-level key that belongs one level deeper, such as "lr" for "optimizer.lr".

    A key belongs there if another entry of `values` is a dict with this key, or if it is an option of `loader`,
    `checkpoint` or `early_stopping`. The message suggests the dotted key. All other unknown keys are left to `make`.
    """
    groups: dict[str, Any] = {"loader": LoaderOptions, "checkpoint": CheckpointOptions, "early_stopping": EarlyStopping}
    for key in values if isinstance(values, Mapping) else ():
        if key in FIELDS:
            continue
        inside = [
            name for name, inner in values.items() if isinstance(inner, Mapping) and key in inner and name in FIELDS
        ]
        inside += [
            name
            for name, group in groups.items()
            if key in {item.name for item in dataclasses.fields(group)} and name not in inside
        ]
        if inside:
            dotted = [f"{name}.{key}" for name in inside[:3]]
            spelled = f": in Python options={{{dotted[0]!r}: …}}" if from_python() else ""  # no keyword has a dot
            raise ValueError(f"unknown key {key!r} (did you mean {' or '.join(dotted)}?){spelled}")


def check_kinds(parameters: Mapping[str, inspect.Parameter], what: str, options: dict[str, Any]) -> None:
    """Check the types of options against the default values of the parameters that take them.

    Args:
        parameters: the parameters of the function or class that takes the options.
        what: prefix of messages.
        options: name → value. Options that are not in `parameters`, or whose default is not a bool or number, are not
            checked.

    Raises:
        ValueError: the default is a bool and the value is not, or the default is a number and the value is not a finite
            number.
    """
    for key, value in options.items():
        default = parameters[key].default if key in parameters else None
        if isinstance(default, bool):
            flag(f"{what}: {key}", value)
        elif isinstance(default, (int, float)):
            number(f"{what}: {key}", value, -math.inf)


def call_with(factory: Any, what: str, options: dict[str, Any]) -> Any:
    """Return `factory(**options)`. Raise ValueError if `factory` has no parameter for an option, or raises TypeError.

    The message begins with `what`.
    """
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(factory).parameters
    init = tuple(getattr(factory.__init__, name, "") for name in ("__module__", "__qualname__"))
    if init == ("torch.nn.modules.module", "Module.__init__"):  # its signature accepts arguments, but its body does not
        parameters = {}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        check_keys(what, options, parameters)
    try:
        return factory(**options)
    except TypeError as error:
        raise ValueError(f"{what}: {error}") from error
