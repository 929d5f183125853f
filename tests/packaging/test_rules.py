"""Rules of the code that ruff has none for."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("dali_mix", "pipelines", "tools", "benchmarks", "examples", "docs")
SOURCES = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]


def unsafe_loads(source):
    """Lines of calls of torch.load (or of anything with `weights_only`) that do not say weights_only=True."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        said = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        if said.get("weights_only", ast.unparse(node.func) != "torch.load") is not True:
            lines.append(node.lineno)
    return lines


def test_torch_never_unpickles():
    assert len(SOURCES) > 80
    found = [f"{path}:{line}" for path in SOURCES for line in unsafe_loads(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("torch.load(f)", [1]),
        ("x = 1\ntorch.load(f, weights_only=False)", [2]),
        ("load(f, weights_only=flag)", [1]),
        ("torch.load(f, weights_only=True)\nopen(f)", []),
    ],
)
def test_the_rule_itself(source, lines):
    assert unsafe_loads(source) == lines
