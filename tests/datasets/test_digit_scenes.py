"""Layout `digit-scenes`: targets and boxes match the pixels, and the seed determines the set."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dali_mix.cli.main import main
from dali_mix.datasets import LAYOUTS, Options
from dali_mix.datasets.layouts.digit_scenes import HEIGHT, WIDTH, Digit, _draw, _generator, ink_box, render
from dali_mix.datasets.layouts.digits import held_out_rows
from dali_mix.recordio import RecordSet
from dali_mix.recordio.verify import verify_set

Capture = pytest.CaptureFixture[str]


def pack(out: Path, *options: str) -> RecordSet:
    assert main(["pack", "digit-scenes", "--out", str(out), "--quiet", "--scenes", "40", *options]) == 0
    return RecordSet(out)


def test_boxes_and_targets_agree(tmp_path: Path) -> None:
    many = pack(tmp_path / "many")
    boxes = pack(tmp_path / "boxes", "--task", "detection")
    assert many.info.task == "multilabel" and boxes.info.task == "detection"
    assert many.info.classes == boxes.info.classes == tuple("0123456789")
    rows = np.arange(40)
    found = boxes.labels(rows)
    assert {len(label) for label in found} == {1, 2, 3, 4, 5}
    for row, target, objects in zip(rows.tolist(), many.labels(rows), found, strict=True):
        assert np.flatnonzero(target).tolist() == sorted(set(objects[:, 0].astype(int).tolist()))
        assert many.encoded(row).tobytes() == boxes.encoded(row).tobytes()
    assert list(verify_set(tmp_path / "boxes")) == []


def test_ink_lies_inside_boxes(tmp_path: Path) -> None:
    records = pack(tmp_path / "set", "--task", "detection", "--split", "val")
    for row, objects in enumerate(records.labels(np.arange(40))):
        image = np.asarray(Image.open(io.BytesIO(records.encoded(row).tobytes()))).astype(float)
        assert image.shape == (HEIGHT, WIDTH, 3)
        outside = np.ones((HEIGHT, WIDTH), dtype=bool)
        for _, x1, y1, x2, y2, difficult in (objects * [1, WIDTH, HEIGHT, WIDTH, HEIGHT, 1]).tolist():
            inside = image[round(y1) : round(y2), round(x1) : round(x2)]
            assert inside.max() > 110 and difficult == 0
            spill = 4  # enlarging a scan blurs its ink by half a cell; a cell has at most 5 pixels
            outside[max(0, round(y1) - spill) : round(y2) + spill, max(0, round(x1) - spill) : round(x2) + spill] = (
                False
            )
        assert image[outside].max() < 90  # the background is below 60, with noise of 5


def test_seed_and_split_determine_the_set(tmp_path: Path) -> None:
    def content(*options: str, name: str) -> bytes:
        pack(tmp_path / name, *options)
        return (tmp_path / f"{name}.rec").read_bytes()

    first = content(name="first")
    assert content("--seed", "0", "--workers", "3", name="again") == first
    assert content("--seed", "1", name="other") != first
    assert RecordSet(tmp_path / "other").info.report["seed"] == 1
    few = LAYOUTS["digit-scenes"](Path(), "train", Options(scenes=5))
    more = LAYOUTS["digit-scenes"](Path(), "train", Options(scenes=9))
    assert np.array_equal(few.labels, more.labels[:5])
    assert [few.tree.read(name) for name in few.names] == [more.tree.read(name) for name in few.names]
    val = LAYOUTS["digit-scenes"](Path(), "val", Options(scenes=5))
    assert not np.array_equal(few.labels, val.labels)
    assert np.array_equal(val.labels, LAYOUTS["digit-scenes"](Path(), "test", Options(scenes=5)).labels)


def test_training_and_validation_share_no_scan() -> None:
    kinds = load_digits(return_X_y=True)[1]
    train, val = (set(held_out_rows(kinds, split).tolist()) for split in ("train", "val"))
    assert not train & val and len(train | val) == 1797


def test_digits_cover_canvas_without_overlap() -> None:
    ends, sides = [], set()
    for number in range(400):
        taken = np.zeros((HEIGHT, WIDTH), dtype=int)
        for digit in _draw(_generator(0, "train", number), np.arange(10)):
            square = taken[digit.top : digit.top + digit.side, digit.left : digit.left + digit.side]
            assert square.shape == (digit.side, digit.side)
            square += 1
            sides.add(digit.side)
            ends.append((digit.top, digit.left, digit.top + digit.side, digit.left + digit.side))
        assert taken.max() == 1
    assert sides == set(range(20, 41))
    assert np.min(ends, axis=0)[:2].tolist() == [0, 0] and np.max(ends, axis=0)[2:].tolist() == [HEIGHT, WIDTH]


def test_render_draws_digit_at_its_position() -> None:
    scan = np.zeros((1, 8, 8), dtype=np.float32)
    scan[0, 2:6, 3:5] = 1
    digit = Digit(0, top=10, left=60, side=24, color=(200, 210, 220))
    assert ink_box(digit, scan) == (60 + 9, 10 + 6, 60 + 15, 10 + 18)
    image = render([digit], scan, np.random.Generator(np.random.Philox(0)))
    assert image[10 + 8 : 10 + 16, 60 + 11 : 60 + 13].reshape(-1, 3).min(axis=0).tolist() == [200, 210, 220]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--scenes", "0"], "scenes=0: must be an integer from 1 to 10000000"),
        (["--seed", "-1"], "seed=-1: must be an integer of at least 0"),
        (["--split", "trainval"], "has the splits train and val"),
        (["--task", "classification"], "is for --task multilabel or detection"),
        (["--root", "/"], "leave --root out"),
        (["--classes", "names.txt"], "has the classes 0 to 9: leave --classes out"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, capsys: Capture, options: list[str], reason: str) -> None:
    assert main(["pack", "digit-scenes", "--out", str(tmp_path / "set"), *options]) == 1
    assert reason in capsys.readouterr().err
