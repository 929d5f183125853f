"""Start a run from a recipe: `dali_mix.train` and `dali_mix.evaluate`, which the command line also calls.

torch is imported only after the recipe has been read and checked, so a misspelled key is reported at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dali_mix._keywords import keywords
from dali_mix.engine.config.objects import is_object
from dali_mix.engine.config.recipe_files import Options, change, load_config, recipe_name, to_pairs
from dali_mix.engine.config.saved import load_evaluated, load_resumed
from dali_mix.engine.config.schema import RunConfig
from dali_mix.options import as_path, choice

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from dali_mix.engine.build import Loader
    from dali_mix.engine.run import Evaluation
    from dali_mix.engine.train.callbacks import Callback
    from dali_mix.mixers import Mixer

_RESUME = {False: "no", True: "must"}


@keywords
def train(
    recipe: RunConfig | str | Path,
    work_dir: str | Path,
    *,
    resume: bool | Literal["auto", "must", "no"] = False,
    model: nn.Module | Mapping[str, Any] | str | None = None,
    optimizer: Optimizer | Callable[[list[nn.Parameter]], Optimizer] | Mapping[str, Any] | str | None = None,
    loss: nn.Module | Callable[[Tensor, Tensor], Tensor] | Mapping[str, Any] | str | None = None,
    mixer: Mixer | Mapping[str, Any] | str | None = "recipe",
    train_loader: Loader | None = None,
    val_loader: Loader | None = None,
    callbacks: Callable[[Any], object] | Callback | Sequence[Any] = (),
    options: Options = (),
    **values: Any,
) -> str:
    """Train the model of a recipe, optionally with your own objects, and write the results to `work_dir`.

    Under torchrun, call it on every rank.

    Args:
        recipe: the name of a bundled recipe, the path of a .py file, or a config.
        work_dir: folder for config.json, train.log, metrics.jsonl and checkpoints/.
        resume: False or "no" (start a new run); True or "must" (continue from the newest checkpoint, which must exist);
            "auto" (continue if there is one). To continue a run, pass its objects again.
        model: a module, which is trained in place. Like `optimizer`, `loss` and `mixer`, it may also be a name or a
            dict as in a recipe.
        optimizer: a function that takes the parameters to train and returns an optimizer; or an optimizer over the
            model's parameters. The recipe's schedule scales its learning rates; `paramwise` does not apply to it.
        loss: a module or function (outputs, targets) → mean over the batch.
        mixer: a mixer; by default the recipe's. None disables mixing.
        train_loader, val_loader: loaders from `dali_mix.build_loader`, in place of the recipe's `train_set` and
            `val_set`. `train_loader` also determines `batch_size`, unless you set it. With `train_loader` alone, the
            recipe's `val_set` is evaluated with the recipe's pipeline. `Predictor` also uses the recipe's pipeline, and
            mixers built by name use its mean and std.
        callbacks: an object with methods of `dali_mix.engine.Callback`, a function to call after each step, or a list
            of these.
        options: recipe values by dotted key, {"optimizer.lr": 0.05}, or "key=value" strings as for `--cfg-options`.
        values: any key of a recipe: `train_set`, `val_set`, `epochs`, `batch_size`, …; see docs/training.md.

    Returns:
        "finished", "stopped early", or, if stopped by a signal, "preempted" (SIGTERM) or "interrupted" (Ctrl-C). After
        a signal, a checkpoint is saved first, unless a step that accumulates gradients was interrupted while it waited
        for a worker pool.

    Raises:
        FileExistsError: `work_dir` contains checkpoints and `resume` is False or "no".
        FileNotFoundError: the recipe, a set, a weight file or a checkpoint to resume from is missing.
        ValueError: recipe, objects, sets, checkpoint and machine are incompatible; an option has no effect because of
            another one; or, as `NonFinite`, a loss, gradient or weight is not finite.
        OSError: a file could not be written, another run is writing to `work_dir`, or another rank failed.
    """
    how = choice("resume", _RESUME.get(resume, resume) if isinstance(resume, bool) else resume, ("no", "must", "auto"))
    work_dir = as_path("work_dir", work_dir)
    values |= {} if mixer == "recipe" else {"mixer": mixer}
    changes = to_pairs(options, values, model=model, optimizer=optimizer, loss=loss)
    loaders = _loaders(changes, train_loader, val_loader)
    asked, changes = [key for key, _ in changes], changes + loaders
    if isinstance(recipe, RunConfig):
        config, name = change(recipe, changes), None
    elif how == "no":
        config, name = load_config(recipe, changes), recipe_name(recipe)
    else:
        config, name = load_resumed(recipe, work_dir, changes), recipe_name(recipe)
    if train_loader is not None and "batch_size" not in dict(changes):
        batch_size = getattr(train_loader, "global_batch_size", config.batch_size) * config.accumulate
        config = dataclasses.replace(config, batch_size=batch_size)
    _check_used(asked, config.train_set, config.val_set)
    from dali_mix.engine import run

    return run.train(config, work_dir, resume=how, recipe=name, callbacks=callbacks)


@keywords
def evaluate(
    recipe: RunConfig | str | Path,
    checkpoint: str | Path,
    *,
    ema: bool = False,
    model: nn.Module | Mapping[str, Any] | str | None = None,
    loss: nn.Module | Callable[[Tensor, Tensor], Tensor] | Mapping[str, Any] | str | None = None,
    val_loader: Loader | None = None,
    each: Callable[[int, int], object] = lambda done, total: None,
    options: Options = (),
    **values: Any,
) -> Evaluation:
    """Evaluate a checkpoint, or a weight file, on the recipe's `val_set`, using each record exactly once.

    Args:
        recipe: name or path of the recipe of the checkpoint's run, or a config. With a name or path, the values of the
            run replace the recipe's, as in `dali-mix evaluate`. With a config, they are not used.
        checkpoint: a checkpoint of a run, its pointer `latest`, or a file that `dali_mix.models.load_weights` reads.
        ema: use the averaged weights of a checkpoint.
        model, loss, val_loader, options, values: as for `train`; objects that were passed to the run must be passed
            again.
        each: called after each batch as each(done, total), with this rank's numbers of batches.

    Returns:
        an `Evaluation`. Its `values` are the scores in percent by name, and "loss" except for detectors.

    Raises:
        FileNotFoundError, ValueError, OSError: as `train`; ValueError also for a checkpoint whose task or classes
            differ from the `val_set`'s, or that has no averaged weights although `ema` is set.
    """
    checkpoint = as_path("checkpoint", checkpoint)
    changes = to_pairs(options, values, model=model, loss=loss)
    loaders = _loaders(changes, None, val_loader)
    asked, changes = [key for key, _ in changes], changes + loaders
    if isinstance(recipe, RunConfig):
        config = change(recipe, changes)
    else:
        config, _ = load_evaluated(recipe, checkpoint, changes)
    _check_used(asked, config.val_set)
    from dali_mix.engine import run

    return run.evaluate_checkpoint(config, checkpoint, ema=ema, each=each)


# Keys that have no effect if a loader is passed.
_REPLACED = {"train": {"train_set", "loader.drop_last"}, "val": {"val_set", "val_batch_size"}}


def _loaders(changes: Iterable[tuple[str, Any]], train_loader: Any, val_loader: Any) -> list[tuple[str, Any]]:
    """Return the changes that replace the recipe's sets: pairs ("train_set", train_loader) and ("val_set", val_loader).

    A loader that is None has no pair.

    Raise ValueError if a loader is a plain value, such as a path or a list, or if `changes` contain a key that has no
    effect with that loader (see `_REPLACED`).
    """
    given = {name: one for name, one in (("train", train_loader), ("val", val_loader)) if one is not None}
    asked = {name for name, _ in changes}
    asked |= {f"{name}.{key}" for name, value in changes if isinstance(value, dict) for key in value}
    for name, loader in given.items():
        if not is_object(loader):
            raise ValueError(f"{name}_loader is a {type(loader).__name__}: pass a loader from dali_mix.build_loader")
        for key in asked & _REPLACED[name]:
            raise ValueError(f"{key} has no effect with {name}_loader, which yields batches of its own: leave one out")
    return [(f"{name}_set", loader) for name, loader in given.items()]


def _check_used(asked: Iterable[str], *sets: Any) -> None:
    """Raise ValueError if the user set an option of `loader` or `service`, but the run builds no loader.

    This is the case if every set is a loader that the user passed, or None.

    Args:
        asked: the dotted keys that the user set.
        sets: the sets that the run uses, each a loader, the prefix of a set, or None.
    """
    if not any(map(is_object, sets)) or any(isinstance(one, str) for one in sets):
        return
    instead = {
        "service": "build them with workers=dali_mix.service.connect(…)",
        "loader": "set its options in dali_mix.build_loader",
    }
    for key in asked:
        if how := instead.get(key.partition(".")[0]):
            raise ValueError(f"{key} has no effect on loaders that are built already: leave it out, and {how}")
