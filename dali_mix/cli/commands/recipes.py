"""`dali-mix recipes [NAME]`: list the bundled recipes, or print one."""

from __future__ import annotations

import argparse
import ast


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this recipe's file (default: list all recipes)")


def run(args: argparse.Namespace) -> int:
    from dali_mix.engine.config.recipe_files import list_recipes, recipe_text

    if args.name is not None:
        print(recipe_text(args.name), end="")
        return 0
    names = list_recipes()
    width = max(map(len, names), default=0)
    for name in names:
        doc = ast.get_docstring(ast.parse(recipe_text(name))) or ""
        print(f"{name:<{width}}  {doc.partition(chr(10))[0]}")
    print("\nTrain one: dali-mix train NAME --work-dir DIR; print one: dali-mix recipes NAME")
    return 0
