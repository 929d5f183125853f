"""Resume a run from the result of `Trainer.state_dict`, and report differences from the current recipe.

With `resume_strict`, differences that affect the run are errors. Without it, parts that cannot be restored start from
their initial state, and the run continues from the same fraction of its schedule. The trainer's `offset` is the number
of steps done minus the number of steps that this recipe needs to reach that fraction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dali_mix.engine.config.objects import RECORDED, is_object
from dali_mix.engine.train.callbacks import restore_states
from dali_mix.engine.train.optim import kept_by
from dali_mix.engine.train.trainer import Trainer
from dali_mix.models import differences

_ANYWAY = "--cfg-options resume_strict=False resumes anyway"


def restore(trainer: Trainer, state: dict[str, Any]) -> list[str]:
    """Restore a checkpoint into `trainer`. Learning rates and weight decay come from the recipe, not the checkpoint.

    Args:
        trainer: a new trainer. Its counters, model, optimizer, training loader and callbacks are changed in place.
        state: the result of `Trainer.state_dict`, as loaded from a file.

    Returns:
        messages: one for each recipe value that differs from the checkpoint's, each part that starts from its initial
        state, and each saved state without a matching object.

    Raises:
        ValueError: the checkpoint is for a different model, lacks an entry, or has an invalid entry. With
            `resume_strict`, also if the checkpoint's run and `trainer` differ in seed, batch size, dataset, type of
            model, optimizer, parameter groups, use of EMA, or a loss or mixer passed as an object.
    """
    config, parts = trainer.config, trainer.parts
    strict = config.resume_strict
    _check_kinds(state)
    for name in ("seed", "batch_size"):
        if strict and state[name] != getattr(config, name):
            raise ValueError(
                f"the checkpoint was saved with {name}={state[name]}, this run has {name}={getattr(config, name)}; "
                f"{_ANYWAY}"
            )
    position = dict(state["loader"])
    if strict and position.get("fingerprint") != parts.train_loader.state_dict().get("fingerprint"):
        before, now = state.get("train_set", "another set"), trainer.recipe()["train_set"]
        what = f"{now} was packed again since" if before == now else f"on {before}, this run has train_set={now}"
        raise ValueError(f"the checkpoint was saved in training on other records: {what}; {_ANYWAY}")
    trained, wanted = state.get("recipe") or {}, trainer.recipe()
    kinds = [dict(values.get("model") or {}).get("type") for values in (trained, wanted)]
    if strict and None not in kinds and kinds[0] != kinds[1]:
        raise ValueError(f"this run was trained with model {kinds[0]}, the recipe now says {kinds[1]}; {_ANYWAY}")
    for part in ("loss", "mixer"):
        before, now = ((values.get(part) or {}).get("type") for values in (trained, wanted))
        if strict and before != now and any(str(kind).startswith(RECORDED) for kind in (before, now)):
            raise ValueError(f"this run was trained with {part} {before}, this one has {now}; {_ANYWAY}")
    if strict:  # the global batch may now be split into different micro-batches
        position["global_batch_size"] = parts.train_loader.global_batch_size
    parts.train_loader.load_state_dict(position, strict=strict)
    if differ := differences(parts.model.state_dict(), state["model"]):
        raise ValueError(f"the checkpoint is for a different model: {differ}")
    parts.model.load_state_dict(state["model"])
    fresh = _restore_optimizer(trainer, state, trained)
    fresh += _restore_average(trainer, state)
    fresh += restore_states(trainer.given(), state.get("objects", {}))
    if state.get("scaler"):
        trainer.precision.scaler.load_state_dict(state["scaler"])
    trainer.epoch, trainer.step, trainer.saved_at = state["epoch"], state["step"], state["step"]
    per_epoch, per_epoch_before = trainer.steps_per_epoch, state.get("steps_per_epoch", trainer.steps_per_epoch)
    progress = trainer.step - state.get("offset", 0)
    if not strict:  # the same fraction of the schedule, in steps of the new size
        progress = progress * per_epoch // per_epoch_before
    trainer.offset = trainer.step - progress
    trainer.total_steps = max(trainer.total_steps + trainer.offset, trainer.step)
    trainer.epochs = max(trainer.epochs, trainer.epoch + 1)
    trainer.window.load_state_dict(state["window"])
    trainer.best.load_state_dict(state["best"])
    changed = [key for key in wanted if key in trained and trained[key] != wanted[key] and key != "resume_strict"]
    return fresh + [
        f"{key}: this run was trained with {trained[key]!r}, the recipe now says {wanted[key]!r}" for key in changed
    ]


def _restore_optimizer(trainer: Trainer, state: dict[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Load the optimizer's state from `state`. If it does not fit, keep the initial state.

    Return a list of messages: one if the initial state is kept, otherwise none. With `resume_strict`, raise ValueError
    for a state that does not fit.

    before: the recipe values of the run that saved `state`.
    """
    config, optimizer = trainer.config, trainer.parts.optimizer
    saved, names = state["optimizer"], trainer.parts.group_names()
    settings, now = before.get("optimizer", {}), trainer.recipe()["optimizer"]
    sizes = [len(group["params"]) for group in saved["param_groups"]]
    reason = ""
    if settings.get("type", now["type"]) != now["type"]:
        reason = f"this run was trained with optimizer {_named(settings)}, the recipe now says {_named(now)}"
    elif state.get("groups", names) != names or sizes != [len(group) for group in names]:
        reason = (
            f"the checkpoint is for another optimizer: it has {len(saved['param_groups'])} groups of "
            f"parameters, the recipe's has {len(names)}, with other parameters (see `paramwise` and what is frozen)"
        )
    elif wrong := _misfit(trainer, saved["state"]):
        was = f"trained with optimizer {_named(settings)}" if settings else "trained with another optimizer"
        reason = f"this run was {was}, the recipe now says {_named(now)}, and {wrong}"
    if reason and config.resume_strict:
        raise ValueError(f"{reason}. Its state cannot be restored; {_ANYWAY}, with a new state")
    if reason:
        return [f"{reason}; its state is new"]
    # Set the options first, so that torch restores the state on the device this implementation needs.
    rules = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    groups = [{**old, **rule} for old, rule in zip(saved["param_groups"], rules, strict=True)]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    return []


def _named(settings: Mapping[str, Any]) -> str:
    """Format an optimizer's settings as a call."""
    return f"{settings.get('type')}({', '.join(f'{k}={v!r}' for k, v in settings.items() if k != 'type')})"


def _misfit(trainer: Trainer, saved: Mapping[Any, Any]) -> str:
    """Return a text for messages on how an optimizer's state does not fit the recipe's optimizer; "" if it fits.

    saved: the "state" of the optimizer's state dict, parameter number → values by name.
    """
    given = is_object(trainer.config.optimizer["type"])
    kept = {} if given else kept_by(trainer.config.optimizer, trainer.ranks.device)
    parameters = [parameter for group in trainer.parts.optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(parameters):
        moments, names = saved.get(number), kept.get(parameter.dim() > 1)
        if moments is None:  # the parameter never had a gradient
            continue
        if names is not None and set(moments) != names:
            keeps, found = (", ".join(sorted(map(str, some))) or "nothing" for some in (names, moments))
            return f"which stores {keeps} per parameter, not {found}"
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.numel() != 1 and not _broadcasts(value, parameter):
                return f"{name} of parameter {number} has shape {tuple(value.shape)}, not {tuple(parameter.shape)}"
            if not (value is None or isinstance(value, (Tensor, int, float))):
                return f"{name} of parameter {number} is a {type(value).__name__}"
    return ""


def _broadcasts(value: Tensor, parameter: Tensor) -> bool:
    """Return True if each dimension of `value` is 1 or equals the parameter's, as in Adafactor's state."""
    pairs = zip(value.shape, parameter.shape, strict=False)
    return value.dim() == parameter.dim() and all(side in (1, wanted) for side, wanted in pairs)


def _restore_average(trainer: Trainer, state: Mapping[str, Any]) -> list[str]:
    """Load the averaged weights. Return an empty list of messages, since `restore` reports a changed `ema`.

    If only the checkpoint has an average, ignore it. If only the recipe uses one, start it at the restored weights. In
    both cases, raise ValueError instead with `resume_strict`. Also raise it if the average is for a different model.
    """
    saved, ema = state.get("ema"), trainer.ema
    if saved and ema is not None:
        if differ := differences(ema.module.state_dict(), saved["model"]):
            raise ValueError(f"the checkpoint's ema is for a different model: {differ}")
        ema.load_state_dict(saved)
    if bool(saved) == (ema is not None):
        return []
    before = (state.get("recipe") or {}).get("ema", "on" if saved else None)
    reason = f"this run was trained with ema={before}, the recipe now says ema={trainer.config.ema}"
    if trainer.config.resume_strict:
        then = "the average starts at the weights of this step" if ema is not None else "the average is dropped"
        raise ValueError(f"{reason}; {_ANYWAY}: {then}")
    if ema is not None:
        ema.module.load_state_dict(state["model"])
    return []  # already reported as a changed value


# Entries that a checkpoint needs for resuming, dotted key → type. The entries in `_OPTIONAL` may be missing.
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("optimizer", "loader", "window", "best", "recipe", "optimizer.state"), dict),
    **dict.fromkeys(("optimizer.param_groups", "groups"), list),
    **dict.fromkeys(("epoch", "step", "offset", "steps_per_epoch", "seed", "batch_size", "window.steps"), int),
    **dict.fromkeys(("loader.epoch", "loader.samples_seen", "best.step", "best.since"), int),
    "window.loss": (float, int),
    "best.name": str,
    "best.value": (float, int, type(None)),
    "scaler": (dict, type(None)),
    "objects": dict,
}
_OPTIONAL = (
    "loader.epoch",
    "loader.samples_seen",
    "offset",
    "steps_per_epoch",
    "groups",
    "recipe",
    "scaler",
    "objects",
)
_LEAST = {"steps_per_epoch": 1, "batch_size": 1, "offset": -(1 << 62)}  # other integers: 0


def _check_kinds(state: Mapping[str, Any]) -> None:
    """Raise ValueError if an entry of `_KINDS` is missing, has the wrong type, or is out of range."""
    for name, kind in _KINDS.items():
        outer, _, key = name.rpartition(".")
        entries = state[outer] if outer else state
        if key not in entries:
            if name in _OPTIONAL:
                continue
            raise ValueError(f"not a checkpoint to resume from: it lacks {name}")
        value = entries[key]
        in_range = not isinstance(value, int) or _LEAST.get(name, 0) <= value < 1 << 62
        if not isinstance(value, kind) or isinstance(value, bool) or not in_range:
            raise ValueError(f"not a checkpoint to resume from: its {name} is {str(value)[:40]!r}")
