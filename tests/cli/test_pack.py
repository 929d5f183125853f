"""`dali-mix pack` refuses options that a layout does not take; `pack` and `inspect` report a set's boxes."""

import json
import re

import pytest

from dali_mix.cli.main import main
from dali_mix.recordio import RecordSet, write_set
from tests.recordio.samples import encoded, image_folder


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("imagefolder", ["--task", "multilabel"], "layout imagefolder is for --task classification, not multilabel"),
        ("imagefolder", ["--years", "2007"], "--years is for voc, coco, not imagefolder: leave it out"),
        ("imagefolder", ["--workers", "0"], "workers=0: must be an integer from 1 to 4096"),
        ("imagefolder", ["--shuffle", "1", "--no-shuffle"], "--shuffle takes a seed of at least 0, and excludes"),
        ("imagefolder", ["--download"], "--download is for cifar10 and cifar100, not imagefolder"),
        (
            "vg500",
            ["--val-share", "0.5"],
            "is for imagefolder, list, voc, coco, yolo, not vg500: leave it",
        ),
    ],
)
def test_pack_refuses_options_unsupported_by_layout(tmp_path, capsys, layout, options, message):
    root = image_folder(tmp_path / "images", 2, 2)
    command = ["pack", layout, "--root", str(root), "--out", str(tmp_path / "set"), "--quiet", *options]
    assert main(command) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("set*"))


def test_inspect_counts_boxes_per_class(tmp_path, capsys):
    labels = [[0, 0, 2], [], [2], [1, 0]]
    rows = [[2, 6, *(value for kind in kinds for value in (kind, 0.1, 0.1, 0.5, 0.5, 0))] for kinds in labels]
    samples = [(encoded("JPEG", 12, 20, seed=number), row) for number, row in enumerate(rows)]
    write_set(tmp_path / "set", samples, task="detection", classes=["cat", "dog", "cow", "pig"])
    assert main(["inspect", str(tmp_path / "set")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "boxes 6 boxes a class cat 3, dog 1, cow 2, pig 0 records without boxes 1" in said
    assert main(["inspect", str(tmp_path / "set"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["boxes_a_class"] == {"cat": 3, "dog": 1, "cow": 2, "pig": 0}


def test_inspect_truncates_long_class_list(tmp_path, capsys):
    row = [2, 6, 21, 0.1, 0.1, 0.5, 0.5, 0]
    classes = [f"kind{number}" for number in range(22)]
    write_set(tmp_path / "set", [(encoded("JPEG", 12, 20), row)], task="detection", classes=classes)
    assert main(["inspect", str(tmp_path / "set")]) == 0
    assert "kind18 0, kind19 0, … (22)\n" in capsys.readouterr().out


def test_pack_prints_box_count(tmp_path, capsys):
    words = ["--task", "detection", "--split", "val", "--scenes", "7", "--out", str(tmp_path / "set")]
    assert main(["pack", "digit-scenes", *words]) == 0
    labels = RecordSet(tmp_path / "set").labels(range(7))
    assert re.search(rf"^boxes +{sum(map(len, labels))}$", capsys.readouterr().out, re.MULTILINE)


def test_quiet_keeps_notes_problems_and_skipped_images(tmp_path, capsys):
    root = image_folder(tmp_path / "images", 1, 3)
    (root / "class0" / "9.jpg").write_bytes(b"<html>")
    prefix = str(tmp_path / "set")
    assert main(["pack", "imagefolder", "--root", str(root), "--out", prefix, "--skip-bad", "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("skipped class0/9.jpg: ") and said.out.count("\n") == 1
    assert said.err.startswith("note: ") and "there is only one class" in said.err and said.err.count("\n") == 1
    for command in (["verify", prefix], ["adopt", f"{prefix}.rec", "--force"]):
        assert main([*command, "--quiet"]) == 0
        assert capsys.readouterr() == ("", "")
    (tmp_path / "set.idx").write_text("")
    assert main(["verify", prefix, "--quiet"]) == 1
    assert "set.idx: " in capsys.readouterr().err
