"""Files are packed unchanged with any number of threads; bad images are named or skipped."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet
from dali_mix.recordio.verify import verify_set
from tests.recordio.samples import encoded, image_folder, with_checksums

Capture = pytest.CaptureFixture[str]


def run_pack(root: Path, out: Path, *options: str, layout: str = "imagefolder") -> int:
    return main(["pack", layout, "--root", str(root), "--out", str(out), *options])


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_files_are_packed_unchanged(tmp_path: Path, capsys: Capture) -> None:
    root = image_folder(tmp_path / "images")
    assert run_pack(root, tmp_path / "set", "--no-shuffle") == 0
    text = capsys.readouterr().out
    assert "12 images in" in text and "images/s" in text and "skipped 0" in text
    records = RecordSet(tmp_path / "set")
    files = sorted(root.rglob("*.jpeg"))
    assert [records.encoded(row).tobytes() for row in range(12)] == [path.read_bytes() for path in files]
    assert records.info.classes == ("class0", "class1", "class2")
    assert records.labels(np.arange(12)).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert list(verify_set(tmp_path / "set")) == []


def test_output_does_not_depend_on_workers(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", classes=4, each=20)
    for workers in (1, 2, 7):
        out = tmp_path / f"workers{workers}" / "set"
        assert run_pack(root, out, "--workers", str(workers), "--resize", "16", "--shards", "3") == 0
    expected = digests(tmp_path / "workers1")
    assert len(expected) == 6
    assert digests(tmp_path / "workers2") == expected
    assert digests(tmp_path / "workers7") == expected


def test_train_is_shuffled_and_val_is_not(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image_folder(tmp_path / "images" / split, classes=2, each=20)
    ids = {}
    for name, options in {
        "default": ["--split", "train"],
        "zero": ["--split", "train", "--shuffle", "0"],
        "one": ["--split", "train", "--shuffle", "1"],
        "off": ["--split", "train", "--no-shuffle"],
        "val": ["--split", "val"],
    }.items():
        assert run_pack(tmp_path / "images", tmp_path / name, *options) == 0
        records = RecordSet(tmp_path / name)
        ids[name] = records.table["id"].tolist()
        assert sorted(ids[name]) == list(range(40))
        assert records.labels(np.arange(40)).tolist() == [number // 20 for number in ids[name]]
    assert ids["default"] == ids["zero"] != ids["one"]
    assert ids["off"] == ids["val"] == list(range(40)) != ids["zero"]


BAD = {
    "missing": (None, "no such file"),
    "empty": (b"", "empty"),
    "undecodable": (encoded("JPEG")[:200], "cut short"),
    "html": (b"<!doctype html>", "web page"),
    "gif": (encoded("GIF"), "GIF"),
    "too large": (encoded("PNG", 300, 400), "--max-pixels 100,000"),
    "huge size in header": (
        with_checksums(encoded("PNG")[:16] + b"\x7f\xff\xff\xff" * 2 + encoded("PNG")[24:]),
        "--max-pixels",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_image_is_an_error_or_skipped(tmp_path: Path, capsys: Capture, kind: str) -> None:
    data, reason = BAD[kind]
    root = tmp_path / "images"
    image_folder(root, 1, 3)
    if data is not None:
        (root / "class0" / "bad.jpg").write_bytes(data)
    (root / "train.txt").write_text("class0/0.jpeg\t0\nclass0/bad.jpg\t1\nclass0/1.jpeg\t1\n")
    options = ("--max-pixels", "100000", "--no-shuffle")
    assert run_pack(root, tmp_path / "set", *options, layout="list") == 1
    error = capsys.readouterr().err
    assert f"{root}/class0/bad.jpg: " in error and reason in error and "--skip-bad" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert run_pack(root, tmp_path / "set", *options, "--skip-bad", layout="list") == 0
    assert "skipped class0/bad.jpg: " in capsys.readouterr().out
    records = RecordSet(tmp_path / "set")
    assert records.table["id"].tolist() == [0, 2]
    (skipped,) = json.loads((tmp_path / "set.json").read_text())["report"]["skipped"]
    assert skipped["file"] == "class0/bad.jpg" and reason in skipped["reason"]


def test_set_with_all_images_skipped_is_refused(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    (root / "a" / "bad.jpg").write_bytes(b"")
    assert run_pack(root, tmp_path / "set", "--skip-bad") == 1
    assert "no record to write" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_existing_set_needs_force(tmp_path: Path, capsys: Capture) -> None:
    root = image_folder(tmp_path / "images")
    assert run_pack(root, tmp_path / "set") == 0
    before = digests(tmp_path / "images" / "class0"), (tmp_path / "set.json").read_bytes()
    assert run_pack(root, tmp_path / "set", "--shuffle", "5") == 1
    assert "exists; pass --force" in capsys.readouterr().err
    assert (tmp_path / "set.json").read_bytes() == before[1]
    assert run_pack(root, tmp_path / "set", "--shuffle", "5", "--force") == 0
    assert (tmp_path / "set.json").read_bytes() != before[1]


@pytest.mark.parametrize(
    "options",
    [
        ["--workers", "0"],
        ["--quality", "0"],
        ["--resize", "0"],
        ["--shards", "0"],
        ["--shards", "13"],
        ["--shuffle", "-1"],
        ["--shuffle", "1", "--no-shuffle"],
        ["--task", "detection"],
        ["--download"],
    ],
)
def test_invalid_options_are_refused(tmp_path: Path, capsys: Capture, options: list[str]) -> None:
    root = image_folder(tmp_path / "images")
    assert run_pack(root, tmp_path / "set", *options) == 1
    assert "error: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_make_rec_tool_packs_with_progress_bar(tmp_path: Path) -> None:
    tool = Path(__file__).resolve().parents[2] / "tools" / "make_rec.py"
    command = [sys.executable, str(tool), "digits", "--split", "val", "--out", str(tmp_path / "set")]
    screen, terminal = os.openpty()  # the progress bar appears only on a terminal
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, text=True, timeout=120)
    os.close(terminal)
    bar = b""
    with os.fdopen(screen, "rb", buffering=0) as file, contextlib.suppress(OSError):  # EIO: everything was read
        while block := file.read(4096):
            bar += block
    assert done.returncode == 0, bar
    assert "359 images in" in done.stdout
    assert b"359/359" in bar and b"img/s" in bar and b"<" in bar  # rate and time left
    assert len(RecordSet(tmp_path / "set")) == 359


def test_options_are_not_abbreviated(tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["pack", "digits", "--out", str(tmp_path / "set"), "--shard", "2"])
    error = capsys.readouterr().err
    assert "unrecognized arguments: --shard 2" in error and "--root --shard" not in error


def test_positional_folder_suggests_root(tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["pack", "imagefolder", "photos", "--out", str(tmp_path / "set")])
    assert capsys.readouterr().err.endswith(
        "unrecognized arguments: photos (did you mean --root photos?) (see dali-mix pack --help)\n"
    )


def test_options_of_other_layouts_are_refused(tmp_path: Path, capsys: Capture) -> None:
    command = ["pack", "imagefolder", "--root", str(tmp_path), "--out", str(tmp_path / "set")]
    assert main([*command, "--years", "2007"]) == 1
    assert "--years is for voc, coco, not imagefolder" in capsys.readouterr().err
    assert main([*command, "--list", "labels.txt"]) == 1
    assert "--list is for list, imagenet-val, not imagefolder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--years", "2007,2007"])
    assert "not a comma-separated list of distinct years" in capsys.readouterr().err
