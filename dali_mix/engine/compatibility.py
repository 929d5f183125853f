"""Check that dataset, mixer and loss agree on the target format before training starts."""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

from torch import nn

from dali_mix.mixers import MIXERS, Mixer
from dali_mix.mixers.ops.targets import TargetKind, mixed_kind
from dali_mix.tasks import Task

_WORDS: dict[TargetKind, str] = {
    "class": "class indices (B,)",
    "soft": "soft labels (B,K), rows of sum 1",
    "multi-hot": "multi-hot rows (B,K) of 1, 0, -1",
    "soft multi-hot": "multi-hot rows (B,K) weighted by area, 0 … 1, -1",
}
_SINGLE: frozenset[TargetKind] = frozenset({"class", "soft"})
_MULTI: frozenset[TargetKind] = frozenset({"multi-hot", "soft multi-hot"})
# Targets that torch's losses accept, according to their documentation. torch's multi-label losses do not support -1.
_TORCH: dict[type[nn.Module], frozenset[TargetKind]] = {
    nn.CrossEntropyLoss: _SINGLE,
    nn.NLLLoss: frozenset({"class"}),
    nn.MultiMarginLoss: frozenset({"class"}),
    nn.BCEWithLogitsLoss: _MULTI,
    nn.MultiLabelSoftMarginLoss: _MULTI,
}


def accepted(loss: nn.Module) -> Collection[TargetKind] | None:
    """Return the kinds of targets that `loss` accepts: its attribute `accepts` or, for a torch loss, those in `_TORCH`.

    Return None if neither lists any. Callers then assume that `loss` accepts every kind.
    """
    return getattr(loss, "accepts", None) or _TORCH.get(type(loss))


def check_targets(task: Task, mixer: Mixer | None, loss: nn.Module | None, *, evaluates: bool = True) -> None:
    """Raise ValueError if `task`, `mixer` and `loss` do not agree on the targets. The message suggests alternatives.

    Args:
        task: the task of the sets.
        mixer: None, or a mixer that must support boxes if and only if the task has boxes.
        loss: must be None (objective Detection) if and only if the task has boxes. A loss must accept the targets that
            training uses: the set's targets, after mixing if there is a mixer. Its attribute `accepts` may list only
            kinds in `ops.targets.TargetKind`. A loss for which `accepted` returns None is not checked.
        evaluates: True if the loss must also accept the set's unmixed targets, since an evaluation uses them.
    """
    if task.boxes != (loss is None):
        raise ValueError(
            f"a set for {task.name} is trained with objective Detection and model detector: set both, as in"
            " docs/detection.md, or pack the images for another task (`dali-mix pack --task`)"
            if task.boxes
            else f"objective Detection is for sets with boxes; this is a set for {task.name}: pack the images for"
            " task detection (`dali-mix pack --task`), or choose another recipe"
        )
    of_set = task.target_kind
    if mixer is not None and mixer.takes_boxes != task.boxes:
        known = ", ".join(name for name, other in MIXERS.items() if other.takes_boxes)
        kind = type(mixer).__name__
        raise ValueError(
            f"mixer {kind} does not support boxes: choose one of {known} for a set for {task.name}, or set"
            " takes_boxes = True in your own mixer if it does"
            if task.boxes
            else f"mixer {kind} is for sets with boxes; this is a set for {task.name}"
        )
    if loss is None or of_set is None or (accepts := accepted(loss)) is None:
        return
    if wrong := set(accepts) - set(get_args(TargetKind)):
        raise ValueError(f"loss {type(loss).__name__} accepts {sorted(wrong)}, which no set or mixer provides")
    if of_set in _MULTI and _SINGLE.issuperset(accepts):
        raise ValueError(
            f"loss {type(loss).__name__} is for one class per record, but the records of a {task.name} set have several"
            " labels: choose a multi-label recipe, or a multi-label loss such as AsymmetricLoss"
        )
    mixed = mixed_kind(of_set, mixer.combine if mixer is not None and mixer.changes_targets else None)
    name = type(loss).__name__
    takes = f"loss {name} takes {' or '.join(_WORDS[kind] for kind in _WORDS if kind in accepts)}"
    if mixed not in accepts:
        if mixed == of_set:
            by = f"the {task.name} set provides"
        else:
            assert mixer is not None
            by = f"mixer {type(mixer).__name__} makes by {mixer.combine} from the targets of a {task.name} set"
        raise ValueError(f"{takes}, not the {_WORDS[mixed]} that {by}. {_advice(of_set, mixed, accepts)}")
    if evaluates and of_set not in accepts:
        raise ValueError(
            f"{takes}: which mixer {type(mixer).__name__} returns, but not the {_WORDS[of_set]} that the {task.name} "
            f"set provides for evaluation. {_advice(of_set, mixed, accepts)}"
        )


def _advice(of_set: TargetKind, mixed: TargetKind, accepts: Collection[TargetKind]) -> str:
    if of_set == "multi-hot":
        return "Choose a multi-label loss, such as AsymmetricLoss"
    if mixed == "multi-hot" and _MULTI.issuperset(accepts):
        return "The recipe is for multi-label sets, this one has one class per record: choose another set or recipe"
    if mixed == "multi-hot":
        return (
            "SpliceMix and other mixers by union are for multi-label sets: choose a mixer by area (CutMix, ResizeMix)"
        )
    return (
        "Choose SoftCrossEntropy" if mixed == "soft" else "Choose a loss for classification, such as SoftCrossEntropy"
    )
