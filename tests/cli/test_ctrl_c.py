"""Ctrl-C ends a command with status 130 and one line, also where somebody's code turns it into another error."""

import signal
import subprocess
import sys
import types

import pytest

from dali_mix.cli import main as cli


def command(monkeypatch, run):
    """Have `dali-mix doctor` do `run`."""
    module = types.ModuleType("a_command")
    module.configure, module.run = lambda parser: None, run
    monkeypatch.setitem(sys.modules, "a_command", module)
    monkeypatch.setitem(cli.COMMANDS, "doctor", ("a_command", "a command"))


def swallowed(error):
    """What numpy and torch do when they are interrupted while they are imported."""

    def run(args):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error from None

    return run


@pytest.mark.parametrize(
    "run",
    [
        lambda args: signal.raise_signal(signal.SIGINT),
        swallowed(ImportError("cannot load module more than once per process")),
        swallowed(ValueError("numpy is half imported")),
        swallowed(OSError("libtorch is half loaded")),
    ],
)
def test_status_and_message(monkeypatch, run):
    command(monkeypatch, run)
    said = []
    before = signal.getsignal(signal.SIGINT)
    assert cli.main(["doctor"], said.append) == 130
    assert said == ["dali-mix doctor: interrupted"]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_import_that_fails_by_itself_keeps_its_traceback(monkeypatch):
    def run(args):
        raise ImportError("no such library")

    command(monkeypatch, run)
    with pytest.raises(ImportError, match="no such library"):
        cli.main(["doctor"])


@pytest.mark.parametrize("name", ["torch", "nvidia.dali"])
def test_while_torch_or_dali_is_imported_the_process_ends_at_once(tmp_path, name):
    """An exception raised in them aborts the process, with status -6, once their C++ code is called."""
    folder = tmp_path / name.replace(".", "/")
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nprint('went on')\n")
    program = f"""
import sys, types
from dali_mix.cli import main as cli
command = types.ModuleType("a_command")
command.configure, command.run = lambda parser: None, lambda args: __import__({name!r})
sys.modules["a_command"] = command
cli.COMMANDS["doctor"] = ("a_command", "a command")
sys.path.insert(0, {str(tmp_path)!r})
try:
    cli.main(["doctor"])
finally:
    print("cleaned up")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "dali-mix doctor: interrupted\n")
