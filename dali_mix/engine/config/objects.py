"""Objects instead of names in a config, and how they are recorded in files.

The "type" of `model`, `optimizer`, `loss` and `mixer` may be an object; `train_set` and `val_set` may be loaders. Files
record an object's class as the text "object my_module.MyModel", which is never imported or executed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

RECORDED = "object "
TAKE_OBJECTS = ("model", "optimizer", "loss", "mixer")  # keys whose "type" may be an object
_PLAIN = (str, int, float, bool, list, tuple, dict, type(None))


def is_object(value: Any) -> bool:
    """Return True unless `value` is a string, number, bool, list, tuple, dict or None, as in a recipe file."""
    return not isinstance(value, _PLAIN)


def recorded(value: Any) -> Any:
    """Convert a config value to plain values.

    A loader becomes the prefix of its set, if its dataset has a `prefix`. Any other object becomes the text
    "object module.Class".
    """
    if isinstance(value, dict):
        return {key: recorded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [recorded(inner) for inner in value]
    if not is_object(value):
        return value
    prefix = getattr(getattr(value, "dataset", None), "prefix", None)
    return RECORDED + class_name(value) if prefix is None else str(prefix)


def class_name(value: Any) -> str:
    """Return "module.Class" of an object, or "module.name" of a function."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def copied(value: Any) -> Any:
    """Return a copy of `value`. Dicts, lists and tuples are copied at any depth, and all other values are shared."""
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    return type(value)(map(copied, value)) if isinstance(value, (list, tuple)) else value


def check_object(name: str, value: Any, kind: Any, wanted: str) -> None:
    """Raise ValueError if `value` is a class or not an instance of `kind`.

    Messages call the value `name` and describe `kind` by the text `wanted`, such as "a torch.nn.Module".
    """
    if isinstance(value, type):
        raise ValueError(f"{name} is the class {value.__qualname__}: pass an instance, {value.__qualname__}(…)")
    if not isinstance(value, kind):
        raise ValueError(f"{name} is a {class_name(value)}, not {wanted}")


def check_call(name: str, function: Callable[..., Any], *arguments: str) -> None:
    """Raise ValueError unless `function` can be called with one positional argument per name in `arguments`.

    The message calls the function `name`. A function whose signature is unknown, such as some C functions, is accepted.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some C functions have no signature
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise ValueError(f"{name} is called with ({', '.join(arguments)}), but takes {signature}: {error}") from None


class ObjectMissing(ValueError):
    """Raised if the user must pass an object of a run again, since the run's files contain only its class name.

    `keyword` is the name of the argument to pass. `cli.main` reads it for its message.
    """

    def __init__(self, message: str, keyword: str) -> None:
        super().__init__(message)
        self.keyword = keyword


def check_present(name: str, value: Any) -> None:
    """Raise `ObjectMissing`, a ValueError, if `value` is the text that `recorded` returns for an object.

    `name` is the argument with which the user must pass the object again.
    """
    if isinstance(value, str) and value.startswith(RECORDED):
        what = f"{name}: the run used an {value}, which its files do not contain: pass it again as {name}=…"
        raise ObjectMissing(what, name)
