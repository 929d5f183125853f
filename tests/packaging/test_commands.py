"""README and docs: every command parses, and every block of Python compiles and imports existing names."""

import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import re
import shlex
from pathlib import Path

import pytest
import yaml

from dali_mix.cli import main as cli
from dali_mix.engine.config.recipe_files import list_recipes, load_config

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Other programs and shell commands. Their arguments are not checked.
OTHERS = {"apt-get", "docker", "git", "kubectl", "openssl", "pre-commit", "timeout"}
OTHERS |= {"cd", "seq", "sleep", "source", "#!/bin/bash"}
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
PLACEHOLDER = re.compile(r"[A-Z_]+$|my_\w+\.py$|mine\.py")
CHECKED = {"train", "evaluate", "predict", "attention", "detect"}


def name_of(text):
    return text.relative_to(ROOT).as_posix()


def blocks(text, *languages):
    found = re.findall(r"^```(\w*)\n(.*?)^```", text.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [body for language, body in found if language in languages]


def commands(text):
    """Yield (words, line) of each command in the shell blocks of a page."""
    for block in blocks(text, "bash", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("#SBATCH") or re.fullmatch(r"\w+=\$\(.*\)", line):
                continue
            words = shlex.split(line, comments=not line.startswith("#!"))
            while words:
                end = next((index for index, word in enumerate(words) if word in ("&&", "&", ";")), len(words))
                yield words[:end], line
                words = words[end + 1 :]


def starting_at(words, *names):
    """Return `words`, starting at the first that is in `names`."""
    return words[next(index for index, word in enumerate(words) if word in names) :]


def check(words, line):
    """Raise if a command is unknown or its arguments are invalid."""
    while words and re.match(r"\w+=", words[0]):  # VARIABLE=value, alone or before the command
        words = words[1:]
    if not words:
        return
    program, *rest = words
    if program in ("exec", "chrt"):
        check(starting_at(words, "python", "dali-mix"), line)
    elif program == "dali-mix":
        check_dali_mix(rest)
    elif program in ("srun", "torchrun"):
        check_dali_mix(starting_at(rest, "dali-mix", "dali_mix")[1:])
    elif program == "sbatch":
        check(starting_at(rest, "scripts/train_slurm.sh"), line)
    elif program == "make":
        wanted = [word for word in rest if "=" not in word]
        assert wanted and set(wanted) <= TARGETS, line
    elif program == "pip":
        extras = re.findall(r"(?:\.|dali_mix)\[([\w,]+)\]", line)
        setup = (ROOT / "setup.py").read_text(encoding="utf-8")
        assert all(f'"{extra}": [' in setup for names in extras for extra in names.split(",")), line
        assert rest[0] in ("install", "uninstall"), line
    elif program == "python":
        module = rest[0] == "-m"
        path = rest[1].replace(".", "/") + ".py" if module else rest[0]
        assert (ROOT / path).is_file() or (module and importlib.util.find_spec(rest[1])), line
    elif program.endswith(".sh"):
        assert (ROOT / program).is_file() and (ROOT / program).stat().st_mode & 0o111, line
        if program == "scripts/train_slurm.sh":
            check_dali_mix(["train", *rest])
        elif program == "scripts/train_dist.sh":
            assert rest[1] == "NPROC" or rest[1].isdecimal(), line
            check_dali_mix(["train", rest[0], *rest[2:]])
    else:
        assert program in OTHERS, f"unknown command {program}: {line}"


def check_dali_mix(words):
    """Parse the arguments of `dali-mix`, and load the recipe. Options in brackets, as in a synopsis, must exist."""
    line = " ".join(words)
    for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", line):
        assert option in help_of(tuple(words[:2]) if words[0] == "detect" else (words[0],)), f"{option} in {line}"
    while "[" in line:  # drop the optional parts of a synopsis
        line = re.sub(r"\[[^\[\]]*\]", "", line)
    words = [word.removesuffix("...") for word in line.split(" ") if word and word not in ("…", "...")]
    words = ["imagefolder" if word == "LAYOUT" else word for word in words]
    args = cli.parse(words)
    if args.command in CHECKED and not PLACEHOLDER.match(args.recipe):
        options = [pair for pair in getattr(args, "cfg_options", []) if "$" not in pair and "=" in pair]
        load_config(args.recipe, options)


@functools.cache
def help_of(command):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        cli.parse([*command, "--help"])
    return out.getvalue()


@pytest.mark.parametrize("text", TEXTS, ids=name_of)
def test_shell_commands_parse(text):
    for words, line in commands(text):
        try:
            check(words, line)
        except SystemExit:
            pytest.fail(f"{name_of(text)}: does not parse: {line}")


def test_kubernetes_containers_run_valid_commands():
    [pool] = blocks(ROOT / "docs/service.md", "yaml")
    items = {item["kind"]: item["spec"] for item in yaml.safe_load(pool)["items"]}
    first, workers = items["Pod"], items["Deployment"]["template"]["spec"]
    assert workers["volumes"] == first["volumes"]
    for spec in (first, workers):
        [container] = spec["containers"]
        check(container["command"], pool)
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("text", TEXTS, ids=name_of)
def test_inline_commands_exist(text):
    """Check inline code such as `dali-mix NAME --option` or `make TARGET`: commands, options and targets exist."""
    prose = re.sub(r"^```.*?^```", "", text.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`((?:dali-mix|make) [^`]+)`", prose):
        program, name, *rest = code.split()
        if program == "make":
            assert {word for word in (name, *rest) if word.islower() and "=" not in word} <= TARGETS, code
        elif name.islower():
            assert name in cli.COMMANDS, code
            for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
                modes = ("train", "evaluate", "predict") if name == "detect" else ()
                helps = [help_of((name, mode)) for mode in modes] or [help_of((name,))]
                assert any(option in text for text in helps), code


@pytest.mark.parametrize("text", TEXTS, ids=name_of)
def test_python_blocks_import_existing_names(text):
    for block in blocks(text, "python", "py"):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "dali_mix":
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.partition(".")[0] == "dali_mix":
                        importlib.import_module(alias.name)
            elif isinstance(node, ast.Attribute) and re.fullmatch(r"dali_mix(\.\w+)+", dotted := ast.unparse(node)):
                found = importlib.import_module("dali_mix")
                for part in dotted.split(".")[1:]:
                    found = getattr(found, part)


def test_named_recipes_exist():
    known = {*list_recipes()}
    files = {name.partition(":")[0] for name in known}
    folders = {name.partition("/")[0] for name in files if "/" in name}
    for text in TEXTS:
        for name in re.findall(rf"`((?:{'|'.join(folders)})/\w+(?::\w+)?)`", text.read_text(encoding="utf-8")):
            if not name.endswith("NAME"):
                assert name in known | files or (ROOT / name).exists(), f"{name_of(text)}: {name}"


def test_extending_page_code_runs():
    text = ROOT / "docs/extending.md"
    made: dict = {}
    for block in blocks(text, "python"):
        exec(block, made)
    torch = made["torch"]
    model = made["SmallNet"](num_classes=3)
    assert made["Squared"]()(model(torch.rand(2, 3, 16, 16)), torch.tensor([0, 2])).ndim == 0
    scores = made["SCORES"].pop("closeness")(1, torch.device("cpu"))
    task = made["TASKS"].pop("regression")
    scores.update(torch.tensor([[0.5], [3.0]]), torch.tensor([0.0, 1.0]), torch.arange(2))
    assert scores.by_class()[1] == {"hits": [50.0]}
    task.check([0.5], 1)
    assert task.width(1) == 1


def test_dockerfile_install_matches_readme():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    (command,) = re.findall(r"`(pip install [^`]+)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    runs = [line.removeprefix("RUN ") for line in lines if line.startswith("RUN ")]
    assert [run for run in runs if command in run.replace("--no-cache-dir ", "")]
    assert (lines[-1].startswith(("CMD", "ENTRYPOINT"))) and any(line.startswith("USER ") for line in lines)


def test_ruff_version_is_consistent():
    pinned = (ROOT / ".ci/constraints.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^ruff==(\S+)$", pinned, flags=re.MULTILINE)
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==(\S+?)[\"'\]\s]", hooks)) == {version}
