"""The tests that docs/reliability.md names exist."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs/reliability.md"


def test_named_tests_exist():
    """A bare `::test_name` in the page belongs to the last `folder/test_file.py` before it."""
    named = re.findall(r"`([\w/]*test_\w+\.py)?(?:::(test_\w+))?`", PAGE.read_text(encoding="utf-8"))
    missing, file, checked = [], "", 0
    for path, test in named:
        file = path or file
        if not (path or test):
            continue
        checked += 1
        found = (TESTS / file).is_file()
        if found and test:
            tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
            found = test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        if not found:
            missing.append(f"{file}::{test}")
    assert checked > 50
    assert not missing
