"""Read a trained model from a checkpoint of a run, or from a weight file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dali_mix._text import differ_in_form, printable
from dali_mix.engine.checkpoint.files import is_checkpoint, load_checkpoint
from dali_mix.engine.config.schema import RunConfig
from dali_mix.engine.train.finite import NonFinite, first_non_finite, statistics
from dali_mix.models import differences, load_weights
from dali_mix.models.weights.files import find_weights, follow_pointer
from dali_mix.tasks import trainable

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A trained model as read from a file.

    Attributes:
        path: the file.
        weights: tensors by name; None for a plain weight file, which `load_into` reads.
        classes: class names in the order of the logits; empty if not in the file.
        task: task of the training set; empty if not in the file.
        values: the run's recipe values; empty if not in the file.
    """

    path: Path
    weights: dict[str, Tensor] | None = None
    classes: tuple[str, ...] = ()
    task: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    def warn_of_values(self, config: RunConfig) -> None:
        """Log a warning if the run's values for model and evaluation pipeline differ from those in `config`.

        Without this warning, the user would only see lower scores. The values differ if the recipe was edited after
        training, or if the run had `--cfg-options` that were not passed again.
        """
        run, now = _of_scores(self.values), _of_scores(config.resolved())
        differ = sorted(key for key in run.keys() | now.keys() if run.get(key) != now.get(key))
        if run and differ:
            what = ", ".join(f"{key}={now.get(key)!r} (the run: {run.get(key)!r})" for key in differ[:5])
            _log.warning(
                "%s is used with different values than in training, so its scores may be lower: %s%s",
                self.path,
                what,
                f" and {len(differ) - 5} more" if len(differ) > 5 else "",
            )

    def check_set(self, task: str, classes: Sequence[str], where: str) -> None:
        """Raise ValueError if the file stores a task other than `task`, or class names other than `classes`.

        `task` and `classes` are those of a set, called `where` in messages. What the file does not store is not
        compared.
        """
        ours = self.classes
        if self.task not in ("", task):
            raise ValueError(
                f"{self.path} was trained on a {self.task} set, but {where} is a set for {task}: choose another"
                " checkpoint or set"
            )
        if not ours or ours == tuple(classes):
            return
        pairs = enumerate(zip(classes, ours, strict=False))
        which = next((f": class {n} is {a!r}, not {b!r}{differ_in_form(a, b)}" for n, (a, b) in pairs if a != b), "")
        raise ValueError(
            f"{self.path} has {len(ours)} classes, not the {len(classes)} of {where}{which}. Choose a set with "
            f"its classes (--cfg-options val_set=PREFIX), or weights without names (`dali-mix convert --from dali_mix`)"
        )

    def load_into(self, model: nn.Module, *, given: bool = False) -> list[str]:
        """Load the weights into `model`.

        Args:
            model: the model.
            given: True if the user passed the model, False if it was built from the recipe; for messages.

        Returns:
            notes on how a plain weight file was read (see `MatchReport.notes`); empty for a checkpoint.

        Raises:
            ValueError: the weights do not fit the model, or are not finite.
        """
        notes: list[str] = []
        if self.weights is None:
            notes = load_weights(model, self.path, strict_head=True).notes
        elif differ := differences(model.state_dict(), self.weights):
            whose, advice = "the recipe's", "pass the recipe it was trained with"
            if given:
                whose, advice = f"the {type(model).__name__} passed as model", "pass the model that was trained"
            raise ValueError(f"{self.path}: for a different model from {whose}: {differ}; {advice}")
        else:
            try:
                model.load_state_dict(self.weights)
            except RuntimeError as error:
                first = str(error).strip().splitlines()[0]
                raise ValueError(f"{self.path}: its tensors cannot be loaded: {first}") from error
        if name := first_non_finite(dict(model.named_parameters()) | statistics(model)):
            raise NonFinite(f"{self.path}: {name} contains NaN or infinity: use an earlier checkpoint")
        return notes


def open_trained(checkpoint: str | Path, *, ema: bool = False) -> Trained:
    """Return the `Trained` of a checkpoint of a run, its pointer `latest`, or a file that `load_weights` reads.

    The tensors of a checkpoint are read at once, those of a weight file by `Trained.load_into`.

    Args:
        checkpoint: the file.
        ema: use the averaged weights of a checkpoint.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged checkpoint, or a file without averaged weights although `ema` is set.
    """
    path = find_weights(checkpoint)
    if not is_checkpoint(path):
        if ema:
            raise ValueError(f"{path}: plain weights without averaged weights; omit --ema")
        return Trained(path)
    state = load_checkpoint(path)
    if ema and not state.get("ema"):
        raise ValueError(f"{path}: contains no averaged weights; the run had no `ema`")
    weights = state["ema"]["model"] if ema else state["model"]
    classes, task, values = state.get("classes"), state.get("task"), _values(state)
    if isinstance(classes, list) and all(isinstance(name, str) for name in classes) and task in trainable():
        return Trained(path, weights, tuple(map(printable, classes)), task, values)
    return Trained(path, weights, values=values)  # an older checkpoint


def run_values(checkpoint: str | Path) -> dict[str, Any]:
    """Return the recipe values of the run that saved a checkpoint, with the recipe's name (or None) under "recipe".

    The result is empty for a weight file or a best.pt of an older version. It is also empty for a missing or unreadable
    file, for which `open_trained` raises an error.
    """
    path = follow_pointer(checkpoint)
    if not path.is_file() or not is_checkpoint(path):
        return {}
    try:  # mmap, so that no tensor is read
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch raises errors of many types
        return {}
    values = _values(state) if isinstance(state, dict) else {}
    return {"recipe": state.get("recipe_name"), **values} if values else {}


def _values(state: dict[str, Any]) -> dict[str, Any]:
    values = state.get("recipe")
    return values if isinstance(values, dict) and all(isinstance(key, str) for key in values) else {}


def _of_scores(values: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe values that `warn_of_values` compares, by dotted key.

    These are the values of `model`, without weight files of its parts, and of `pipeline`. Values in `val_pipeline`
    replace those in `pipeline`, under the same keys "pipeline.NAME".
    """
    found: dict[str, Any] = {}
    for outer in ("pipeline", "val_pipeline", "model"):
        inner = values.get(outer)
        for key, value in inner.items() if isinstance(inner, dict) else ():
            name = "pipeline" if outer == "val_pipeline" else outer
            if isinstance(value, dict) and name == "model":
                found |= {f"{name}.{key}.{k}": v for k, v in value.items() if k != "weights"}
            else:
                found[f"{name}.{key}.type" if key in ("backbone", "head") else f"{name}.{key}"] = value
    return found
