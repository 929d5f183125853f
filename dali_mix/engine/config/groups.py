"""Dataclasses for the option groups of a recipe. A field can have a check (see `checked`), which `make` calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar, cast

from dali_mix.options import check_keys, choice, flag, number, whole

Group = TypeVar("Group")


def checked(check: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Return metadata for a dataclass field whose value `make` checks by calling `check(name, value, *arguments)`.

    `check` raises ValueError for an invalid value. If it returns anything other than None, that replaces the value.
    """
    return {"check": lambda name, value: check(name, value, *arguments)}


def make(group: type[Group], values: Any, where: str, prefix: str = "") -> Group:
    """Build the dataclass `group` from a dict of plain values, and check each value with the check of its field.

    A check may replace the value (see `checked`). For a field whose type includes None, None is accepted unchecked.

    Args:
        group: the dataclass.
        values: field name → value.
        where: text at the start of a message about `values` or its keys.
        prefix: text before the field name in a message about one value.

    Raises:
        ValueError: `values` is not a dict, has an unknown key or an invalid value, or lacks a required key.
    """
    mapping(where, values)
    known = {item.name: item for item in fields(cast(Any, group))}
    check_keys(where, values, known)
    required = [name for name, item in known.items() if item.default is item.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{where}: {', '.join(missing)} missing; required are {', '.join(required)}")
    fitting = dict(values)
    for name, value in values.items():
        if "check" in known[name].metadata and not (value is None and "None" in known[name].type):
            found = known[name].metadata["check"](f"{prefix}{name}", value)  # may convert, e.g. numpy integers
            fitting[name] = value if found is None else found
    return group(**fitting)


def mapping(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a dict or another mapping. The message calls the value `name`."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a dict, not {value!r}")


@dataclass(frozen=True)
class LoaderOptions:
    """Options of `dali_mix.loading.build_loader` that a recipe can set."""

    num_threads: int | None = field(default=None, metadata=checked(whole, 1))
    on_bad_record: str = field(default="raise", metadata=checked(choice, ("raise", "skip")))
    drop_last: bool = field(default=False, metadata=checked(flag))
    prefetch: int = field(default=2, metadata=checked(whole, 1, 64))
    decode: str = field(default="auto", metadata=checked(choice, ("auto", "cpu", "gpu")))


@dataclass(frozen=True)
class CheckpointOptions:
    """When checkpoints are written, how many are kept, and the score that selects the best model.

    Attributes:
        interval_epochs: number of epochs between checkpoints; None disables this. A run that finishes or stops early
            also saves its last step.
        interval_steps: number of optimizer steps between checkpoints; None disables this.
        keep: number of newest checkpoints to keep.
        best: name of the score that selects best.pt; "auto" for the task's first score; None for no best.pt.
    """

    interval_epochs: int | None = field(default=1, metadata=checked(whole, 1))
    interval_steps: int | None = field(default=None, metadata=checked(whole, 1))
    keep: int = field(default=2, metadata=checked(whole, 1))
    best: str | None = "auto"


def text(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a non-empty string. The message calls the value `name`."""
    if not (isinstance(value, str) and value):
        raise ValueError(f"{name} must be a string, not {value!r}")


@dataclass(frozen=True)
class ServiceOptions:
    """Options of `dali_mix.service.connect` that a recipe can set."""

    address: str = field(default="auto", metadata=checked(text))
    fallback: str = field(default="wait", metadata=checked(choice, ("wait", "local")))


@dataclass(frozen=True)
class ProfileOptions:
    """The first and the last step to profile, counted from 1 in each process; see `train.step_profile`."""

    first: int = field(default=10, metadata=checked(whole, 1))
    last: int = field(default=20, metadata=checked(whole, 1))


@dataclass(frozen=True)
class EarlyStopping:
    """When to stop a run early.

    Attributes:
        patience: stop after this many evaluations in a row without a new best score.
    """

    patience: int = field(metadata=checked(whole, 1))


@dataclass(frozen=True)
class Multipliers:
    """Factors for the learning rate and weight decay of the parameters that match a key of `Paramwise.custom`."""

    lr_mult: float = field(default=1.0, metadata=checked(number, 0))
    decay_mult: float = field(default=1.0, metadata=checked(number, 0))


@dataclass(frozen=True)
class Paramwise:
    """Learning rate and weight decay of individual parameters; see `train.optim.parameter_groups`.

    Attributes:
        norm_decay: weight decay of normalization layers; None for the optimizer's.
        bias_decay: weight decay of biases outside normalization layers; None for the optimizer's.
        custom: part of a parameter's name → dict with the fields of `Multipliers`. It overrides both decays above.
    """

    norm_decay: float | None = field(default=None, metadata=checked(number, 0))
    bias_decay: float | None = field(default=None, metadata=checked(number, 0))
    custom: dict[str, Any] = field(default_factory=dict, metadata=checked(mapping))
