"""`dali-mix pack`: options that a layout does not take."""

import pytest

from dali_mix.cli.main import main
from tests.recordio.samples import image_folder


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("imagefolder", ["--task", "multilabel"], "layout imagefolder is for --task classification, not multilabel"),
        ("imagefolder", ["--years", "2007"], "--years is for voc, coco, not imagefolder: leave it out"),
        ("imagefolder", ["--workers", "0"], "--workers 0: at least one is needed"),
        ("imagefolder", ["--shuffle", "1", "--no-shuffle"], "--shuffle takes a seed of at least 0, and excludes"),
        ("imagefolder", ["--download"], "--download is for cifar10 and cifar100, not imagefolder"),
        (
            "vg500",
            ["--val-share", "0.5"],
            "is for imagefolder, list, voc, coco, yolo, not vg500: leave it",
        ),
    ],
)
def test_what_a_layout_does_not_take(tmp_path, capsys, layout, options, message):
    root = image_folder(tmp_path / "images", 2, 2)
    command = ["pack", layout, "--root", str(root), "--out", str(tmp_path / "set"), "--quiet", *options]
    assert main(command) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("set*"))
