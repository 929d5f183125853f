"""For functions shared with a command: in Python, their errors name keywords instead of options."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from dali_mix.options import did_you_mean
from dali_mix.tasks import TASKS

P = ParamSpec("P")
T = TypeVar("T")

# Commands in backquotes are not changed. The value of an option follows "=" or a space: capitals or a number.
_VALUE = rf"[A-Z]+\b|\d[\d.]*|(?:auto|apply|ignore|{'|'.join(TASKS)})\b"
_OPTION = re.compile(rf"`dali-mix [^`]*`|--cfg-options |--([a-z][a-z-]+)(?:([= ])({_VALUE}))?")


def keywords(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap `function` so that errors name its keywords: `--skip-bad` becomes skip_bad=True.

    Unknown keywords get a suggestion. Commands call `inspect.unwrap(function)`.
    """
    known = inspect.signature(function).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in known and not takes_any:
                raise TypeError(f"{function.__name__}() has no keyword {name!r}{did_you_mean(name, known)}")
        with naming_keywords(known):
            return function(*args, **kwargs)

    return call


@contextmanager
def naming_keywords(known: Mapping[str, inspect.Parameter]) -> Iterator[None]:
    """Change the messages of errors raised in the block: options of a command become the keywords `known`."""
    try:
        yield
    except (ValueError, OSError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (_OPTION.sub(lambda found: _keyword(found, known), error.args[0]),)
        raise


def _keyword(found: re.Match[str], known: Mapping[str, inspect.Parameter]) -> str:
    option, equals, value = found.groups()
    if option is None:
        return "" if found[0].startswith("--") else found[0]
    name = option.replace("-", "_")
    if name.removeprefix("no_") in known and name not in known:
        return f"{name.removeprefix('no_')}=False{equals or ''}{value or ''}"
    if name not in known:
        return found[0]
    if isinstance(known[name].default, bool) and equals != "=":
        return f"{name}=True{equals or ''}{value or ''}"
    if value is None:
        return name
    return f"{name}={value}" if value.isupper() or value[0].isdigit() else f"{name}='{value}'"
