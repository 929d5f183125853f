"""`dali-mix detect train|evaluate|predict …`: an alias of the commands without `detect`."""

from __future__ import annotations

import argparse
import importlib

COMMANDS = {
    "train": "train a detector from a recipe, or resume a run",
    "evaluate": "evaluate a checkpoint, using each image exactly once",
    "predict": "detect objects in image files",
}


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="detect")
    for name, about in COMMANDS.items():
        module = importlib.import_module(f"dali_mix.cli.commands.{name}")
        inner = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
        module.configure(inner)
        inner.set_defaults(run=module.run)


def run(args: argparse.Namespace) -> int:
    return args.run(args)
