"""An argument parser that suggests the closest command, option or value for a misspelled word."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable
from itertools import takewhile
from typing import Any, NoReturn

from dali_mix.options import did_you_mean

CFG_OPTIONS = "--cfg-options"


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` with suggestions and without abbreviated options.

    The parser of a subcommand reports unknown arguments itself instead of leaving them to the parent parser.

    Attributes:
        instead_of_word: the option to suggest for an unexpected positional argument, and for an invalid choice that is
            an existing path; None for no suggestion.
    """

    instead_of_word: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})
        self._unknown: list[str] = []

    def parse_known_args(self, args=None, namespace=None):
        # Words of a subcommand are not options of the parent parser.
        own = args if self._subparsers is None else takewhile(lambda word: word.startswith("-"), args)
        self._unknown = self._unknown_options(own)
        namespace, extra = super().parse_known_args(args, namespace)
        if extra and self._subparsers is None:
            word = not extra[0].startswith("-")
            of_recipe = CFG_OPTIONS in self._option_string_actions and "=" in extra[0]
            meant = CFG_OPTIONS if of_recipe else self.instead_of_word
            hint = f" (did you mean {meant} {extra[0]}?)" if word and meant else ""
            self.error(f"unrecognized arguments: {' '.join(extra)}{hint}")
        return namespace, extra

    def _unknown_options(self, words: Iterable[str]) -> list[str]:
        """Return the words before "--" that look like options but are unknown to this parser; "=VALUE" is removed."""
        names = [word.partition("=")[0] for word in takewhile(lambda word: word != "--", words)]
        return [name for name in names if re.match(r"--?[A-Za-z]", name) and name not in self._option_string_actions]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            hint = did_you_mean(str(value), names)
            positional = self.instead_of_word and not action.option_strings
            if positional and os.path.exists(str(value)):  # noqa: PTH110  # False, not an error, for a name that is too long
                hint = f" (did you mean {self.instead_of_word} {value}?)"
            raise argparse.ArgumentError(action, f"{value!r} is unknown{hint}; choose from {', '.join(names)}")

    def error(self, message: str) -> NoReturn:
        """Print `message` and suggestions for unknown options to stderr, in one line, and exit with status 2."""
        for name in self._unknown:
            if hint := self._hint(name):
                message += f"; {name} is unknown{hint}"
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def _hint(self, name: str) -> str:
        """Return what to write instead of the unknown option `name`: a similar option or a key of the recipe; or ""."""
        similar = did_you_mean(name, self._option_string_actions)
        if CFG_OPTIONS not in self._option_string_actions:
            return similar
        from dali_mix.engine.config.schema import FIELDS

        key = name.lstrip("-").replace("-", "_")
        if key in FIELDS:
            return f" (did you mean {CFG_OPTIONS} {key}=…?)"
        return similar or f" (set values of the recipe with {CFG_OPTIONS} KEY=VALUE)"


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the recipe argument and `--cfg-options`."""
    values = "change values of the recipe, e.g. optimizer.lr=0.05 batch_size=128 mixer=none"
    parser.add_argument("recipe", metavar="RECIPE", help="a bundled recipe (see `dali-mix recipes`) or a .py file")
    parser.add_argument(CFG_OPTIONS, nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=values)
