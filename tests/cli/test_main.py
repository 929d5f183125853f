"""How commands end: Ctrl-C with status 130, errors of the system or of user code with one line."""

import errno
import importlib
import os
import signal
import subprocess
import sys
import types

import pytest

from dali_mix.cli import main as cli


def replace_doctor(monkeypatch, run):
    """Make `dali-mix doctor` call `run`."""
    module = types.ModuleType("a_command")
    module.configure, module.run = lambda parser: None, run
    monkeypatch.setitem(sys.modules, "a_command", module)
    monkeypatch.setitem(cli.COMMANDS, "doctor", ("a_command", "a command"))


def ctrl_c_raising(error):
    """Return a command that turns Ctrl-C into `error`, as numpy and torch do while they are imported."""

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
        ctrl_c_raising(ImportError("cannot load module more than once per process")),
        ctrl_c_raising(ValueError("numpy is half imported")),
        ctrl_c_raising(OSError("libtorch is half loaded")),
    ],
)
def test_ctrl_c_ends_with_status_130_and_one_line(monkeypatch, run):
    replace_doctor(monkeypatch, run)
    said = []
    before = signal.getsignal(signal.SIGINT)
    assert cli.main(["doctor"], said.append) == 130
    assert said == ["dali-mix doctor: interrupted"]
    assert signal.getsignal(signal.SIGINT) is before


def test_import_error_without_ctrl_c_keeps_traceback(monkeypatch):
    def run(args):
        raise ImportError("no such library")

    replace_doctor(monkeypatch, run)
    with pytest.raises(ImportError, match="no such library"):
        cli.main(["doctor"])


@pytest.mark.parametrize("name", ["torch", "nvidia.dali"])
def test_ctrl_c_during_import_ends_process_at_once(tmp_path, name):
    """Ctrl-C skips all cleanup: an exception here would abort the process (status -6) when their C++ code is called."""
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


NUMBERS = {
    errno.EACCES: "Permission denied; change the permissions of it and of the folders above it",
    errno.EPERM: "Operation not permitted; change the permissions",
    errno.EISDIR: "Is a directory; a file is needed: remove the folder",
    errno.ENOTDIR: "Not a directory; a file is where a folder is needed",
    errno.EROFS: "Read-only file system; choose a path that can be written to",
    errno.EIO: "Input/output error",
}

ARGUMENTS = {
    "pack": ["digits", "--out", "set"],
    "verify": ["set"],
    "train": ["quickstart", "--work-dir", "run"],
    "evaluate": ["quickstart", "a.pt"],
    "predict": ["quickstart", "a.pt", "a.jpg"],
}


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
@pytest.mark.parametrize("command", ARGUMENTS)
def test_os_error_is_one_line_with_file_and_advice(monkeypatch, capsys, command, number):
    def run(args):
        raise OSError(number, os.strerror(number), "/data/some file")

    monkeypatch.setattr(importlib.import_module(cli.COMMANDS[command][0]), "run", run)
    assert cli.main([command, *ARGUMENTS[command]]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"dali-mix {command}: error: /data/some file: {NUMBERS[number]}")
    assert error.count("\n") == 1 and "[Errno" not in error


USER_CODE = """
def run(args):
    {body}

def fails():
    raise {error}
"""


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("fails()", "ValueError('my mistake')", "my mistake (FILE, line 6)"),
        ("__import__('torch').zeros(2).reshape(fails())", "ValueError('my mistake')", "my mistake (FILE, line 6)"),
        ("__import__('dali_mix.options').options.flag('on', 1)", "", "on=1: must be True or False (FILE, line 3)"),
        ("__import__('json').loads('{')", "", "double quotes: line 1 column 2 (char 1) (FILE, line 3)"),
        ("1 / 0", "", "ZeroDivisionError: division by zero (FILE, line 3)"),
        ("{}['nope']", "", "KeyError: 'nope' (FILE, line 3)"),
        ("__import__('torch').zeros(2) @ __import__('torch').zeros(3)", "", "(FILE, line 3)"),
        ("fails()", "FileNotFoundError(2, 'No such file', 'a.txt')", "a.txt: No such file (FILE, line 6)"),
    ],
)
def test_error_in_user_code_names_file_and_line(monkeypatch, tmp_path, capsys, body, error, message):
    path = tmp_path / "own_mixer.py"
    path.write_text(USER_CODE.format(body=body, error=error))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_mixer", raising=False)
    replace_doctor(monkeypatch, importlib.import_module("own_mixer").run)
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("dali-mix doctor: error: ") and said.endswith(f"{message.replace('FILE', str(path))}\n")


def test_internal_error_below_user_code_keeps_traceback(monkeypatch, tmp_path):
    path = tmp_path / "own_mixer.py"
    path.write_text(USER_CODE.format(body="__import__('dali_mix.options').options.did_you_mean(1, 2)", error=""))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_mixer", raising=False)
    replace_doctor(monkeypatch, importlib.import_module("own_mixer").run)
    with pytest.raises((TypeError, AttributeError)):
        cli.main(["doctor"])


def test_reported_error_names_no_line(capsys, tmp_path):
    assert cli.main(["verify", str(tmp_path / "none"), "--quiet"]) == 1
    assert cli.main(["curves", str(tmp_path / "none"), "--out", str(tmp_path / "a.png")]) == 1
    assert ", line " not in capsys.readouterr().err


def test_debug_variable_prints_traceback(monkeypatch, capsys, tmp_path):
    arguments = ["curves", str(tmp_path / "none"), "--out", str(tmp_path / "a.png")]
    assert cli.main(arguments) == 1 and "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("DALI_MIX_DEBUG", "1")
    assert cli.main(arguments) == 1 and "Traceback (most recent call last)" in capsys.readouterr().err
