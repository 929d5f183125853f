"""Ctrl-C ends a command with status 130 and one line, also where somebody's code turns it into another error."""

import signal
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
