"""Functions that a command calls too: in Python what they say names keywords, where the command's name options.

Messages are written with options. While a command runs (`naming_options`) they stay so; in a function called from
Python they are changed: errors by `naming_keywords`, what is logged by `in_keywords`.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import ParamSpec, TypeVar

from dali_mix.options import did_you_mean

P = ParamSpec("P")
T = TypeVar("T")

# Keywords that are called otherwise than their options.
_RENAMED = {"out": "prefix", "cluster": "machines", "class_file": "classes", "cfg_options": "options"}
# Parameters of the function of Python that runs; None: a command does.
_known: ContextVar[Mapping[str, inspect.Parameter] | None] = ContextVar("_known", default=MappingProxyType({}))


def keywords(function: Callable[P, T]) -> Callable[P, T]:
    """Return `function` with messages in its keywords: `--skip-bad` becomes skip_bad=True. Unknown ones get a
    suggestion.
    """
    known = inspect.signature(function).parameters

    @suggesting()
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with naming_keywords(known):
            return function(*args, **kwargs)

    return call


def suggesting(**instead: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator: for an unknown keyword, the TypeError suggests similar ones, or what `instead` says of it."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        known = inspect.signature(function).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for name in kwargs:
                if name not in known and not takes_any:
                    called = function.__qualname__.removesuffix(".__init__")
                    hint = f": {instead[name]}" if name in instead else did_you_mean(name, known)
                    raise TypeError(f"{called}() has no keyword {name!r}{hint}")
            return function(*args, **kwargs)

        return call

    return decorate


@contextmanager
def naming_keywords(known: Mapping[str, inspect.Parameter]) -> Iterator[None]:
    """Change what is said inside, unless a command runs: options of a command become the keywords `known`."""
    if _known.get() is None:
        yield
        return
    before = _known.set(known)
    try:
        yield
    except (ValueError, OSError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (in_keywords(error.args[0]),)
        raise
    finally:
        _known.reset(before)


@contextmanager
def naming_options() -> Iterator[None]:
    """Leave what is said inside as it is: a command runs."""
    before = _known.set(None)
    try:
        yield
    finally:
        _known.reset(before)


def from_python() -> bool:
    """Return False while a command runs."""
    return _known.get() is not None


def in_keywords(text: str) -> str:
    """Return `text` with the keywords of the function that runs in place of options; unchanged in a command."""
    known = _known.get()
    return _pattern().sub(lambda found: _keyword(found, known), text) if known else text


@functools.cache
def _pattern() -> re.Pattern[str]:
    from dali_mix.tasks import TASKS  # late, since it brings numpy with it, which `dali-mix --help` does not need

    # A command in backquotes stays as it is, and so does what only looks like an option, in a path or a class's name,
    # where no space, bracket or backquote is before it, or a letter, slash, colon or suffix behind it.
    option = r"(?<![^\s(\[`])--([a-z][a-z-]+)(?!\.?\w|[-/:])"
    # After "=" or a space: a word in capitals or a number.
    value = rf"[A-Z]+\b|\d[\d.]*|(?:auto|apply|ignore|{'|'.join(TASKS)})\b"
    return re.compile(rf"`dali-mix [^`]*`|--cfg-options (?=[a-z_.]+[=:])|{option}(?:([= ])({value}))?")


def _keyword(found: re.Match[str], known: Mapping[str, inspect.Parameter]) -> str:
    option, equals, value = found.groups()
    if option is None:
        return "" if found[0].startswith("--") else found[0]
    name = option.replace("-", "_")
    name = name if name in known else _RENAMED.get(name, name)
    if name.removeprefix("no_") in known and name not in known:
        return f"{name.removeprefix('no_')}=False{equals or ''}{value or ''}"
    if name not in known:
        return found[0]
    if isinstance(known[name].default, bool) and equals != "=":
        return f"{name}=True{equals or ''}{value or ''}"
    if value is None:
        return name
    return f"{name}={value}" if value.isupper() or value[0].isdigit() else f"{name}='{value}'"
