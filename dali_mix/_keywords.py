"""Rewrite messages so that they name keywords of Python functions instead of command-line options.

Functions shared by commands and the Python API write their messages with options (`--skip-bad`). While a command runs
(`naming_options`), messages are unchanged. If such a function is called from Python, options become keywords
(skip_bad=True): `naming_keywords` replaces them in errors, `in_keywords` in log messages.
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

# Option -> keyword, where the names differ.
_RENAMED = {"out": "prefix", "cluster": "machines", "class_file": "classes", "cfg_options": "options"}
# Parameters of the running function that `keywords` wraps; empty if none runs, None while a command runs.
_known: ContextVar[Mapping[str, inspect.Parameter] | None] = ContextVar("_known", default=MappingProxyType({}))


def keywords(function: Callable[P, T]) -> Callable[P, T]:
    """Return a wrapper of `function` whose messages name keywords instead of options if it is called from Python.

    For example, `--skip-bad` becomes skip_bad=True (see `naming_keywords`). An unknown keyword raises a TypeError that
    suggests similar keywords, unless `function` has **kwargs.
    """
    known = inspect.signature(function).parameters

    @suggesting()
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with naming_keywords(known):
            return function(*args, **kwargs)

    return call


def suggesting(**instead: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator whose functions raise a TypeError with a hint for an unknown keyword.

    The hint for keyword `name` is `instead[name]` if that exists, else similar keywords, if any. A function with
    **kwargs accepts every keyword as before.
    """

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
    """Make messages name the keywords `known` (name → parameter) instead of options in the block.

    In ValueErrors and OSErrors that leave the block with one string as their argument, this string is changed in place.
    Log messages must be passed through `in_keywords`. While a command is running (see `naming_options`), do nothing.
    """
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
    """Mark the block as the run of a command. Messages that are raised or logged in it keep their options."""
    before = _known.set(None)
    try:
        yield
    finally:
        _known.reset(before)


def from_python() -> bool:
    """Return True unless a command is running (see `naming_options`)."""
    return _known.get() is not None


def in_keywords(text: str) -> str:
    """Return `text` with options replaced by keywords of the running Python function (see `naming_keywords`).

    Return `text` unchanged if no such function is running, or while a command is running.
    """
    known = _known.get()
    return _pattern().sub(lambda found: _keyword(found, known), text) if known else text


@functools.cache
def _pattern() -> re.Pattern[str]:
    from dali_mix.tasks import TASKS  # imported here because it imports numpy, which `dali-mix --help` does not need

    # Commands in backquotes are left unchanged. An option begins the text or follows a space, opening bracket or
    # backquote, and no letter, slash, colon, hyphen or file extension follows it, so that parts of paths and class
    # names do not match.
    option = r"(?<![^\s(\[`])--([a-z][a-z-]+)(?!\.?\w|[-/:])"
    # A value after "=" or a space: a word in capitals, a number, or one of a few lowercase words.
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
