"""What a run must remember, in tensors and plain values, and how it goes on from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dali_mix.models import differences

if TYPE_CHECKING:
    from dali_mix.engine.build import Parts
    from dali_mix.engine.trainer import Trainer


def capture(trainer: Trainer) -> dict[str, Any]:
    """The state of a run between two optimizer steps; the same on every rank, BatchNorm's statistics aside."""
    parts, scaler = trainer.parts, trainer.precision.scaler
    return {
        "format": 1,
        "model": parts.model.state_dict(),
        "optimizer": parts.optimizer.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "ema": None if trainer.ema is None else trainer.ema.state_dict(),
        "loader": parts.train_loader.state_dict(),
        "epoch": trainer.epoch,
        "step": trainer.step,
        "offset": trainer.offset,
        "steps_per_epoch": trainer.steps_per_epoch,
        "window": trainer.window.state_dict(),
        "best": trainer.best.state_dict(),
        "seed": trainer.config.seed,
        "batch_size": trainer.config.batch_size,
        "train_set": trainer.config.train_set,
        **facts(parts),
    }


def facts(parts: Parts) -> dict[str, Any]:
    """What a checkpoint says of the training set, so that prediction does without it: task, and classes in order."""
    return {"task": parts.task, "classes": list(parts.classes)}


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Goes on from what `capture` gave. Rates and decays are the recipe's, not the checkpoint's.

    Raises:
        ValueError: it was saved with another seed, batch size or data set (unless `resume_strict` is off), or for
            another model or optimizer.
    """
    config, parts = trainer.config, trainer.parts
    strict = config.resume_strict
    if missing := {"optimizer", "loader", "epoch", "step", "window", "best", "seed", "batch_size"} - state.keys():
        raise ValueError(f"not a checkpoint to resume from: it lacks {', '.join(sorted(missing))}")
    for name in ("seed", "batch_size"):
        if strict and state[name] != getattr(config, name):
            raise ValueError(
                f"the checkpoint was saved with {name}={state[name]}, this run has {name}={getattr(config, name)}; "
                f"--cfg-options resume_strict=False goes on all the same"
            )
    position = dict(state["loader"])
    if strict and position.get("fingerprint") != parts.train_loader.state_dict().get("fingerprint"):
        before, now = state.get("train_set", "another set"), config.train_set
        what = f"{now} has been packed anew since" if before == now else f"on {before}, this run has train_set={now}"
        raise ValueError(
            f"the checkpoint was saved in training on other records: {what}; "
            f"--cfg-options resume_strict=False goes on all the same"
        )
    if strict:  # the same global batch may be cut into other micro-batches now
        position["global_batch_size"] = parts.train_loader.global_batch_size
    parts.train_loader.load_state_dict(position, strict=strict)
    if differ := differences(parts.model.state_dict(), state["model"]):
        raise ValueError(f"the checkpoint is of another model: {differ}")
    rules = [{k: v for k, v in group.items() if k != "params"} for group in parts.optimizer.param_groups]
    try:
        parts.model.load_state_dict(state["model"])
        # With the rules in place beforehand torch puts what it restores where this device's implementation wants it.
        saved = state["optimizer"]
        if len(saved["param_groups"]) != len(rules):
            counts = f"{len(saved['param_groups'])} groups of parameters, the recipe's has {len(rules)}"
            raise ValueError(f"its optimizer has {counts} (see `paramwise`)")
        groups = [{**old, **rule} for old, rule in zip(saved["param_groups"], rules, strict=True)]
        parts.optimizer.load_state_dict({**saved, "param_groups": groups})
        if trainer.ema is not None and state["ema"] is not None:
            trainer.ema.load_state_dict(state["ema"])
        elif trainer.ema is not None:  # asked for only now: it begins at these weights
            trainer.ema.module.load_state_dict(state["model"])
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"the checkpoint is of another model or optimizer: {first}") from error
    if trainer.precision.scaler is not None and state["scaler"] is not None:
        trainer.precision.scaler.load_state_dict(state["scaler"])
    trainer.epoch, trainer.step, trainer.saved_at = int(state["epoch"]), int(state["step"]), int(state["step"])
    per_epoch, before = trainer.steps_per_epoch, state.get("steps_per_epoch", trainer.steps_per_epoch)
    progress = trainer.step - state.get("offset", 0)
    if not strict:  # as many epochs are behind us, and so is that share of the schedule, in steps of another size
        progress = progress * per_epoch // before
    trainer.offset = trainer.step - progress
    trainer.total_steps += trainer.offset
    trainer.window.load_state_dict(state["window"])
    trainer.best.load_state_dict(state["best"])
