"""Callbacks: user code that runs at the steps and epochs of a run."""

from __future__ import annotations

import traceback
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from dali_mix.engine.config.objects import check_call, class_name

HOOKS = ("before_epoch", "before_step", "after_step", "after_epoch")


class Callback:
    """Base class for callbacks: override some of its methods, which are called on every rank.

    A callback need not derive from this class. If it has methods `state_dict` and `load_state_dict`, its state (tensors
    and plain values) is saved by rank 0 and restored on all ranks.

    The attributes of `trainer` are:

    - `step` (optimizer steps done), `total_steps` and `epoch` (from 0);
    - `loss`, the loss of the last step, a scalar on the device. With several ranks it is this rank's share of the mean:
      the sum over ranks is the mean;
    - `scores`, the scores of the last evaluation by name;
    - `parts` (with `model`, `optimizer`, …), `ema` and `ranks`.
    """

    def before_epoch(self, trainer: Any) -> None:
        """Run before the first step of an epoch, or before the first step after resuming within an epoch."""

    def before_step(self, trainer: Any) -> None:
        """Run before an optimizer step, once its first batch is loaded."""

    def after_step(self, trainer: Any) -> None:
        """Run after an optimizer step, before the checkpoint of that step."""

    def after_epoch(self, trainer: Any) -> None:
        """Run after an epoch and, if the epoch ends in one, its evaluation.

        It runs again if the run is resumed from the checkpoint at the end of the epoch.
        """


def user_callbacks(callbacks: Any) -> list[Any]:
    """Return the user's callbacks as a list.

    Raise ValueError for a class, for an object that is neither callable nor has a method in `HOOKS`, and for a function
    or method that cannot be called with one argument, the trainer.

    callbacks: a function, an object with methods in `HOOKS`, or an iterable of such functions and objects.
    """
    single = callable(callbacks) or any(hasattr(callbacks, hook) for hook in HOOKS)
    if not single and (isinstance(callbacks, str) or not isinstance(callbacks, Iterable)):
        raise ValueError(f"callbacks is a {class_name(callbacks)}: pass a function, a Callback, or a list of them")
    given = [callbacks] if single else list(callbacks)
    for callback in given:
        if isinstance(callback, type):
            raise ValueError(f"callback {callback.__qualname__} is a class: pass an instance")
        methods = {hook: getattr(callback, hook, None) for hook in HOOKS}
        called = {f"{hook} of callback {class_name(callback)}": one for hook, one in methods.items() if callable(one)}
        if not called and not callable(callback):
            raise ValueError(f"callback {class_name(callback)} has none of the methods {', '.join(HOOKS)}")
        for name, function in called.items() if called else [(f"callback {class_name(callback)}", callback)]:
            check_call(name, function, "trainer")
    return given


def call(callbacks: Sequence[Any], hook: str, trainer: Any) -> None:
    """Call the method `hook` of every callback that has it. Plain functions are called for "after_step".

    The argument is `trainer`. An error raised by a callback is raised again with a note that names the callback.
    """
    for callback in callbacks:
        is_function = not any(hasattr(callback, name) for name in HOOKS)
        method = callback if is_function and hook == "after_step" else getattr(callback, hook, None)
        if method is None:
            continue
        try:
            method(trainer)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[1:]
            where = f", {frames[0].filename}, line {frames[0].lineno}" if frames else ""
            error.add_note(f"raised in {hook} of callback {class_name(callback)}{where}")
            raise


def states(objects: dict[str, Any]) -> dict[str, Any]:
    """Return name → state of each object in `objects` that has `state_dict` and `load_state_dict`, except empty states.

    Raise ValueError if a state contains anything but tensors and plain values, which a checkpoint cannot store.
    """
    found = {}
    for name, one in objects.items():
        if _keeps(one) and (state := one.state_dict()):
            if (wrong := next(_not_plain(state), None)) is not None:
                raise ValueError(
                    f"{name}: its state_dict() has a {class_name(wrong)}: checkpoints store tensors and plain values"
                )
            found[name] = state
    return found


def restore_states(objects: dict[str, Any], saved: dict[str, Any]) -> list[str]:
    """Load the states `saved`, a result of `states`, into the objects of the same names.

    Return a list with a message for each state whose name is not in `objects`, or whose object cannot load states.
    """
    for name, state in saved.items():
        if name in objects and _keeps(objects[name]):
            objects[name].load_state_dict(state)
    left = [name for name in saved if name not in objects or not _keeps(objects[name])]
    return [f"{name}: the checkpoint has its state, but it was not passed now; the state is ignored" for name in left]


def by_name(callbacks: Iterable[Any]) -> dict[str, Any]:
    """Return the callbacks by name: "callback module.Class", "callback module.Class 2" for the second of a class, …"""
    found: dict[str, Any] = {}
    for callback in callbacks:
        name, number = f"callback {class_name(callback)}", 1
        while (key := name if number == 1 else f"{name} {number}") in found:
            number += 1
        found[key] = callback
    return found


def _keeps(one: Any) -> bool:
    return callable(getattr(one, "state_dict", None)) and callable(getattr(one, "load_state_dict", None))


def _not_plain(value: Any) -> Iterator[Any]:
    if type(value) in (dict, OrderedDict):
        yield from (wrong for pair in value.items() for part in pair for wrong in _not_plain(part))
    elif type(value) in (list, tuple, torch.Size):
        yield from (wrong for part in value for wrong in _not_plain(part))
    elif not (value is None or type(value) in (str, int, float, bool) or isinstance(value, torch.Tensor)):
        yield value
