"""Read a trained model from a checkpoint of ours, or from a file of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dali_mix._text import differ_in_form, printable
from dali_mix.engine.checkpoint.files import is_checkpoint, load_checkpoint
from dali_mix.engine.train.finite import NonFinite, first_non_finite, statistics
from dali_mix.models import differences, load_weights
from dali_mix.models.weights.files import follow_pointer
from dali_mix.tasks import trainable


@dataclass(frozen=True)
class Trained:
    """What a file holds of a trained model.

    path: the file. weights: by name; None where the file is one of weights alone, which `load_into` reads. classes: in
    the order of the logits, and task: of the set it was trained on; empty where the file does not say.
    """

    path: Path
    weights: dict[str, Tensor] | None = None
    classes: tuple[str, ...] = ()
    task: str = ""

    def check_set(self, task: str, classes: Sequence[str], where: str) -> None:
        """Raise ValueError if the file is of another task, or names other classes, than the set `where`."""
        ours = self.classes
        if self.task not in ("", task):
            raise ValueError(
                f"{self.path} was trained on a {self.task} set, and {where} holds {task}: give another set"
            )
        if not ours or ours == tuple(classes):
            return
        pairs = enumerate(zip(classes, ours, strict=False))
        which = next((f": class {n} is {a!r}, not {b!r}{differ_in_form(a, b)}" for n, (a, b) in pairs if a != b), "")
        raise ValueError(
            f"{self.path} knows {len(ours)} classes, others than the {len(classes)} of {where}{which}. Give a set of "
            f"its classes (--cfg-options val_set=PREFIX), or weights without names (`dali-mix convert --from dali_mix`)"
        )

    def load_into(self, model: nn.Module) -> list[str]:
        """Load the weights into `model`.

        Returns:
            notes on how a file of weights alone was read, see `MatchReport.notes`.

        Raises:
            ValueError: they are another model's, or not finite.
        """
        notes: list[str] = []
        if self.weights is None:
            notes = load_weights(model, self.path, strict_head=True).notes
        elif differ := differences(model.state_dict(), self.weights):
            raise ValueError(f"{self.path}: of another model than the recipe's: {differ}")
        else:
            try:
                model.load_state_dict(self.weights)
            except RuntimeError as error:
                first = str(error).strip().splitlines()[0]
                raise ValueError(f"{self.path}: its tensors cannot be loaded: {first}") from error
        if name := first_non_finite(dict(model.named_parameters()) | statistics(model)):
            raise NonFinite(f"{self.path}: {name} holds NaN or infinity: take an earlier checkpoint")
        return notes


def open_trained(checkpoint: str | Path, *, ema: bool = False) -> Trained:
    """Read a checkpoint of a run, its pointer `latest`, or a file `dali_mix.models.load_weights` reads.

    Args:
        ema: use the averaged weights of a checkpoint.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged checkpoint, or one without averaged weights when `ema` is set.
    """
    path = follow_pointer(checkpoint)
    if path.is_dir():
        found = sorted(p.relative_to(path).as_posix() for p in (*path.glob("*.pt"), *path.glob("checkpoints/*.pt")))
        raise FileNotFoundError(f"{path}: a folder; give a checkpoint in it: {', '.join(found) or 'there is none'}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    if not is_checkpoint(path):
        if ema:
            raise ValueError(f"{path}: plain weights, there is no average in it; leave --ema out")
        return Trained(path)
    state = load_checkpoint(path)
    if ema and not state.get("ema"):
        raise ValueError(f"{path}: holds no averaged weights; the run had no `ema`")
    weights = state["ema"]["model"] if ema else state["model"]
    classes, task = state.get("classes"), state.get("task")
    if isinstance(classes, list) and all(isinstance(name, str) for name in classes) and task in trainable():
        return Trained(path, weights, tuple(map(printable, classes)), task)
    return Trained(path, weights)  # an older checkpoint
