"""Messages of system errors: they begin with the file and end with advice."""

import errno
import os

import pytest

from dali_mix._text import counted, worded
from dali_mix.cli.main import main
from dali_mix.recordio import manifest
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import image_folder, small_set


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
def test_worded_puts_file_first_and_keeps_other_messages(error, text):
    assert worded(error).startswith(text)
    assert worded(error) == text or text.endswith("; ")


@pytest.mark.parametrize("beyond", ["", "/deeper"])
def test_verify_reports_folder_as_file_and_file_as_folder(tmp_path, capsys, beyond):
    small_set(tmp_path / "set")
    if beyond:
        prefix = tmp_path / "set.rec" / "deeper"
        said = "deeper.json: Not a directory; a file is where a folder is needed"
    else:
        prefix, said = tmp_path / "set", "set.json: Is a directory; a file is needed"
        (tmp_path / "set.json").unlink()
        (tmp_path / "set.json").mkdir()
    assert main(["verify", str(prefix), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert said in error and "[Errno" not in error and error.count("\n") == 1


def test_verify_reports_unreadable_file(tmp_path, monkeypatch):
    small_set(tmp_path / "set")

    def refused(path, stop):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("dali_mix.recordio.verify.file_sha256", refused)
    problems = list(verify_set(tmp_path / "set"))
    assert problems and all(": Permission denied; change the permissions" in problem for problem in problems)


def test_pack_reports_unreadable_class_folder(tmp_path, monkeypatch, capsys):
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


def test_counted_formats_number_and_words():
    assert [counted(count, "line is", "lines are") for count in (0, 1, 1200)] == [
        "0 lines are",
        "1 line is",
        "1,200 lines are",
    ]
