"""Errors that the system raises are one line that names the file and says what to do, whichever command met them."""

import errno
import importlib
import os

import pytest

from dali_mix._text import worded
from dali_mix.cli.main import COMMANDS, main
from dali_mix.recordio import manifest
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import image_folder, small_set

NUMBERS = {
    errno.EACCES: "Permission denied; change the permissions of it and of the folders above it",
    errno.EPERM: "Operation not permitted; change the permissions",
    errno.EISDIR: "Is a directory; a file is needed: remove the folder",
    errno.ENOTDIR: "Not a directory; a folder is needed where there is a file",
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
def test_one_line_with_the_file_and_what_to_do(monkeypatch, capsys, command, number):
    def run(args):
        raise OSError(number, os.strerror(number), "/data/some file")

    monkeypatch.setattr(importlib.import_module(COMMANDS[command][0]), "run", run)
    assert main([command, *ARGUMENTS[command]]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"dali-mix {command}: error: /data/some file: {NUMBERS[number]}")
    assert error.count("\n") == 1 and "[Errno" not in error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EACCES, "Permission denied", b"/a/b"), "/a/b: Permission denied; "),
        (OSError(errno.EIO, "Input/output error", "/a", None, "/b"), "/a to /b: Input/output error"),
        (OSError(errno.EBADF, "Bad file descriptor", 7), "[Errno 9] Bad file descriptor: 7"),
        (OSError("ours: say what to do"), "ours: say what to do"),
        (PermissionError("ours: choose another"), "ours: choose another"),
        (ValueError("3 is wrong"), "3 is wrong"),
    ],
)
def test_messages_without_a_file_stay(error, text):
    assert worded(error).startswith(text)
    assert worded(error) == text or text.endswith("; ")


@pytest.mark.parametrize("beyond", ["", "/deeper"])
def test_verify_of_a_folder_or_a_file_in_place_of_another(tmp_path, capsys, beyond):
    small_set(tmp_path / "set")
    if beyond:
        prefix, said = tmp_path / "set.rec" / "deeper", "deeper.json: Not a directory; a folder is needed"
    else:
        prefix, said = tmp_path / "set", "set.json: Is a directory; a file is needed"
        (tmp_path / "set.json").unlink()
        (tmp_path / "set.json").mkdir()
    assert main(["verify", str(prefix), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert said in error and "[Errno" not in error and error.count("\n") == 1


def test_verify_of_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    small_set(tmp_path / "set")

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("dali_mix.recordio.verify.file_sha256", refused)
    problems = list(verify_set(tmp_path / "set"))
    assert problems and all(": Permission denied; change the permissions" in problem for problem in problems)


def test_pack_of_a_class_folder_that_may_not_be_read(tmp_path, monkeypatch, capsys):
    root = image_folder(tmp_path / "images", 2, 2)
    listed = os.scandir

    def refused(path):
        if str(path).endswith("class1"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert main(["pack", "imagefolder", "--root", str(root), "--out", str(tmp_path / "set"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert f"dali-mix pack: error: {root}/class1: Permission denied; change the permissions" in error
    assert error.count("\n") == 1 and not manifest.set_prefix(tmp_path / "set").with_suffix(".json").exists()
