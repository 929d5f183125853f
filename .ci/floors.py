#!/usr/bin/env python3
"""Print the lowest versions that setup.py allows, extras included, as a constraints file for pip."""

import ast
from pathlib import Path

SETUP = Path(__file__).resolve().parents[1] / "setup.py"


def requirements(source: str) -> list[str]:
    """Return the distinct requirements of `install_requires` and `extras_require` in `source`, a setup.py's text."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "install_requires":
            found += ast.literal_eval(node.value)
        elif isinstance(node, ast.keyword) and node.arg == "extras_require":
            found += [line for lines in ast.literal_eval(node.value).values() for line in lines]
    return list(dict.fromkeys(found))  # an extra may repeat a requirement of another


def floor(requirement: str) -> str:
    """Return "name==version" of "name>=version". Raise ValueError if the requirement is of another form."""
    name, operator, version = requirement.partition(">=")
    if not operator or not all(part.isdigit() for part in version.split(".")):
        raise ValueError(f"setup.py: {requirement!r} must read NAME>=VERSION, so that its lowest version can be tested")
    return f"{name}=={version}"


if __name__ == "__main__":
    for line in map(floor, requirements(SETUP.read_text(encoding="utf-8"))):
        print(line)
        if line.startswith("opencv-python=="):  # the same release without a GUI, for machines without libGL
            print(line.replace("opencv-python", "opencv-python-headless"))
