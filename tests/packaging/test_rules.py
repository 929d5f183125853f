"""Rules for the code that ruff cannot check."""

import ast
import runpy
import sys
from pathlib import Path

import pytest

from dali_mix.tasks import TASKS

ROOT = Path(__file__).parents[2]
FOLDERS = ("dali_mix", "pipelines", "tools", "benchmarks", "examples", "docs")
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]


def unsafe_loads(source):
    """Return the lines with calls of torch.load, or calls with `weights_only`, that lack weights_only=True."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        said = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        if said.get("weights_only", ast.unparse(node.func) != "torch.load") is not True:
            lines.append(node.lineno)
    return lines


def test_torch_load_always_uses_weights_only():
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
def test_unsafe_loads_finds_missing_weights_only(source, lines):
    assert unsafe_loads(source) == lines


def unexplained_length(source):
    """Return True if a file has more than 300 lines and its docstring gives no reason."""
    return source.count("\n") > 300 and "\nMore than 300 lines: " not in (ast.get_docstring(ast.parse(source)) or "")


def test_long_files_give_a_reason():
    found = [str(path) for path in SOURCES if unexplained_length(path.read_text(encoding="utf-8"))]
    assert found == []
    reason = '"""A file.\n\nMore than 300 lines: a reason.\n"""\n'
    assert not unexplained_length("x = 1\n" * 300) and unexplained_length("x = 1\n" * 301)
    assert not unexplained_length(reason + "x = 1\n" * 300)


# Modules whose requirement has another name, and modules that another requirement installs.
INSTALLED_BY = {"PIL": "pillow", "cv2": "opencv-python", "nvidia": "nvidia-dali-cuda120", "sklearn": "scikit-learn"}
INSTALLED_BY |= {"yaml": "pyyaml", "llvmlite": "numba", "triton": "torch"}


def imported(source):
    """Yield the top-level modules that a file imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def test_every_import_is_a_requirement():
    required = runpy.run_path(str(ROOT / ".ci/floors.py"))["requirements"]((ROOT / "setup.py").read_text("utf-8"))
    named = {line.partition(">=")[0] for line in required}
    sources = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("dali_mix", "pipelines")]
    found = {module for path in sources for module in imported(path.read_text(encoding="utf-8"))}
    others = found - set(sys.stdlib_module_names) - {"dali_mix"}
    assert len(others) > 10
    assert sorted(module for module in others if INSTALLED_BY.get(module, module) not in named) == []


def is_task(node):
    """Return True for a task or its name: "multilabel", MULTILABEL, tasks.MULTILABEL, MULTILABEL.name."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and node.value in TASKS
    words = ast.unparse(node).removesuffix(".name").removeprefix("tasks.")
    return isinstance(node, (ast.Name, ast.Attribute)) and words.isupper() and words.lower() in TASKS


def members(node):
    """Return the elements of a literal tuple, list or set, or the keys of a literal dict."""
    return getattr(node, "elts", None) or getattr(node, "keys", None) or []


def compared_tasks(source):
    """Return the lines with comparisons of tasks, `match` on tasks, or literal collections of task names only.

    "multilabel" is also a type of model, so comparisons that mention a model do not count.
    """
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            found = any(is_task(part) for side in sides for part in (side, *members(side)))
            found &= not any("model" in ast.unparse(side) for side in sides)
        elif isinstance(node, ast.MatchValue):
            found = is_task(node.value)
        elif isinstance(node, (ast.Tuple, ast.List, ast.Set, ast.Dict)):
            names = [member for member in members(node) if isinstance(member, ast.Constant)]
            found = len(names) == len(members(node)) > 0 and all(map(is_task, names))
        else:
            continue
        lines += [node.lineno] * found
    return lines


def test_only_tasks_py_compares_tasks():
    paths = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("dali_mix", "pipelines")]
    paths.remove(ROOT / "dali_mix" / "tasks.py")
    assert len(paths) > 200
    found = [f"{path}:{line}" for path in paths for line in compared_tasks(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        'if info.task == "multilabel": pass',
        'x = 1 if "detection" != task else 2',
        'task in ("list", "classification")',
        'task not in {"detection": 1, "more": 2}',
        "task is MULTILABEL",
        "found.task != tasks.DETECTION",
        "info.task == DETECTION.name",
        'match task:\n    case "detection": pass',
        'widths = {"classification": 1, "multilabel": 2}',
        'MIXED = frozenset(("classification", "multilabel"))',
    ],
)
def test_compared_tasks_finds_comparisons(source):
    assert compared_tasks(source)


@pytest.mark.parametrize(
    "source",
    [
        'model == "multilabel"',
        'config.model["type"] == "multilabel"',
        'PIPELINES = {"imagenet": 1, "multilabel": 2}',
        "readers = {CLASSIFICATION: 1, DETECTION: 2}",
        'Listing(names, task="multilabel")',
        "if task.boxes: pass",
        "x, y = (), []",
    ],
)
def test_compared_tasks_ignores_other_uses(source):
    assert compared_tasks(source) == []
