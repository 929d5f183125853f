"""The gallery and its command: options, text descriptions of mixers, decoded images, error messages."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dali_mix.cli.main import main
from dali_mix.mixers import (
    CutMix,
    MixChoice,
    ResizeMix,
)
from dali_mix.recordio import RecordSet, write_set
from dali_mix.reports import gallery
from dali_mix.reports.gallery import _in_words, parse_mixer, read_images
from dali_mix.reports.sheet import CAPTION, CELL, GAP, HEAD, MARGIN, TITLE, row_height
from dali_mix.reports.style import BLUE, DPI, ORANGE
from tests.recordio.samples import with_checksums
from tests.reports.pictures import cell, center_of, encode, size_of


def test_seed_determines_gallery(tmp_path, two_colors):
    first, again, other = (
        gallery(two_colors, ["cutmix"], tmp_path / f"{i}.png", seed=seed).read_bytes()
        for i, seed in enumerate((1, 1, 2))
    )
    assert first == again
    assert first != other


def test_gallery_of_multilabel_set_with_mixchoice(tmp_path):
    flat = encode(np.full((20, 20, 3), 128, dtype=np.uint8))
    rows = [(flat, np.array(label, dtype=np.float32)) for label in ([1, 0, 1], [0, -1, 1], [1, 1, 0])]
    write_set(tmp_path / "multi", rows, task="multilabel", classes=["a", "$b$", "c"])
    choice = MixChoice([CutMix(3)], probs=[0.5])
    out = gallery(tmp_path / "multi", ["cutout", choice, "resizemix"], tmp_path / "m.png", rows=9)
    assert size_of(out)[1] == pytest.approx((TITLE + HEAD + 3 * row_height(2) + MARGIN / 2) * DPI, abs=1)


def test_mixer_options_in_words():
    assert _in_words("cutmix") == ""
    assert _in_words("resizemix:interpolation=bilinear:per_batch=True") == "bilinear per_batch"
    assert _in_words("mixup:alpha=0.2") == "alpha=0.2"


def test_image_formats_are_decoded_upright(tmp_path):
    picture = np.zeros((30, 60, 3), dtype=np.uint8)
    picture[:, 30:] = (250, 250, 250)
    gray = picture[..., 0]
    exif = Image.Exif()
    exif[0x0112] = 6  # must be rotated by 90 degrees clockwise
    buffer = io.BytesIO()
    Image.fromarray(picture).convert("CMYK").save(buffer, "JPEG", quality=95)
    samples = [
        encode(picture),
        encode(gray),
        encode(picture, "PPM"),
        buffer.getvalue(),
        encode(picture, "JPEG", exif=exif.tobytes(), quality=95),
    ]
    write_set(tmp_path / "kinds", [(encoded, 0) for encoded in samples], classes=["one"])
    images = read_images(RecordSet(tmp_path / "kinds"), range(5), 30)
    assert images.shape == (5, 3, 30, 30) and images.dtype == torch.uint8
    for image in images[:4]:
        assert image[:, :, :14].float().mean() < 8 and image[:, :, 16:].float().mean() > 240
    assert images[4, :, :14].float().mean() < 8 and images[4, :, 16:].float().mean() > 240


def test_undecodable_record_is_named(tmp_path, two_colors):
    good = encode(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8))
    damaged = with_checksums(good[:60] + b"\xff" * 100 + good[160:])
    write_set(tmp_path / "bad", [(good, 0), (damaged, 0)], classes=["one"])
    with pytest.raises(ValueError, match=r"bad: record 1: cannot be decoded.*dali-mix verify --decode"):
        read_images(RecordSet(tmp_path / "bad"), [0, 1], 20)
    with pytest.raises(ValueError, match="no mixer is called 'resizmix'"):  # raised before images are read
        gallery(tmp_path / "bad", ["cutmix", "resizmix"], tmp_path / "g.png")


def test_parse_mixer():
    assert parse_mixer("cutout", 5, 32).size == 16
    assert parse_mixer("Cutout:size=7", 5, 32).size == 7
    assert (parse_mixer("MixUp", 5, 32).alpha, parse_mixer("mixup:alpha=0.2", 5, 32).alpha) == (1.0, 0.2)
    mixer = parse_mixer(" resizemix:interpolation=bilinear:scale=(0.2, 0.4):per_batch=True ", 5, 32)
    assert isinstance(mixer, ResizeMix) and mixer.num_classes == 5
    assert (mixer.interpolation, mixer.scale, mixer.per_batch) == ("bilinear", (0.2, 0.4), True)
    with pytest.raises(ValueError, match="'alpha' is not an option"):
        parse_mixer("mixup:alpha", 5, 32)


def test_gallery_command(tmp_path, two_colors, capsys):
    out = tmp_path / "g.png"
    command = [
        "gallery",
        str(two_colors),
        "--mixers",
        "resizemix,cutmix,mixup,cutout",
        "--out",
        str(out),
        "--rows",
        "2",
    ]
    assert main([*command, "--seed", "3", "--image-size", "24"]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    assert size_of(out) == (
        pytest.approx((2 * MARGIN + 5 * CELL + 4 * GAP) * DPI, abs=1),
        pytest.approx((TITLE + HEAD + 2 * (CELL + CAPTION + GAP) + MARGIN / 2) * DPI, abs=1),
    )
    assert not list(tmp_path.glob(".*"))


def test_comma_in_brackets_does_not_separate_mixers(tmp_path, two_colors):
    mixers = "resizemix:scale=(0.2,0.4),cutmix,resizemix:scale=[0.1, 0.3]:per_batch=True"
    out = tmp_path / "g.png"
    assert main(["gallery", str(two_colors), "--mixers", mixers, "--out", str(out), "--rows", "1"]) == 0
    assert size_of(out)[0] == pytest.approx((2 * MARGIN + 4 * CELL + 3 * GAP) * DPI, abs=1)


@pytest.mark.parametrize("rows", [101, 120, 100_000])
def test_too_many_rows_are_refused(tmp_path, rows):
    write_set(tmp_path / "many", [(encode(np.zeros((8, 8, 3), np.uint8)), 0)] * 120, classes=["a"])
    with pytest.raises(ValueError, match=f"rows={rows}: must be an integer from 1 to 100"):
        gallery(tmp_path / "many", ["cutmix"], tmp_path / "g.png", rows=rows)
    assert not (tmp_path / "g.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prefix": "nothing"}, "nothing"),
        ({"--mixers": "cutmxi"}, "did you mean CutMix"),
        ({"--mixers": ","}, "needs at least one mixer"),
        ({"--rows": "0"}, "rows=0: must be an integer from 1 to 100"),
        ({"--image-size": "4"}, "image_size=4: must be an integer from 8 to 2048"),
        ({"--image-size": "2049"}, "image_size=2049: must be an integer from 8 to 2048"),
        ({"--image-size": "1000000"}, "image_size=1000000: must be an integer from 8 to 2048"),
        ({"--out": "no/such/folder/g.png"}, "its folder does not exist"),
        ({"--out": "g.jpg"}, "ends in .png"),
        ({"--mixers": "saliencymx"}, "did you mean SaliencyMix"),
        ({"--mixers": "cutmix,splicemix:grids=['0x2']:counts=[1]"}, "grid '0x2': must be like"),
        ({"--mixers": "resizemixplus:views=0"}, "views=0: must be an integer of at least 1"),
        ({"--mixers": "mixup:alpha=x"}, "mixer MixUp: alpha='x': must be a number"),
    ],
)
def test_gallery_command_names_wrong_arguments(tmp_path, two_colors, capsys, change, message):
    options = {"--out": str(tmp_path / "g.png")} | {key: value for key, value in change.items() if key != "prefix"}
    prefix = str(tmp_path / change["prefix"]) if "prefix" in change else str(two_colors)
    assert main(["gallery", prefix, *(word for pair in options.items() for word in pair)]) == 1
    assert message in capsys.readouterr().err


def test_peaks_maps_and_boxes_options(tmp_path, dots):
    command = ["gallery", str(dots), "--mixers", "saliencymix,resizemix", "--rows", "2", "--seed", "1", "--out"]
    assert main([*command, str(tmp_path / "on.png"), "--peaks", "--maps", "--boxes"]) == 0
    assert main([*command, str(tmp_path / "off.png"), "--no-boxes"]) == 0
    marked = [center_of(cell(tmp_path / "on.png", row, column), BLUE) for row in range(2) for column in range(3)]
    assert any(marked)
    for row in range(2):
        assert center_of(cell(tmp_path / "off.png", row, 0), BLUE) is None
        assert center_of(cell(tmp_path / "on.png", row, 3), ORANGE) is not None
        assert center_of(cell(tmp_path / "off.png", row, 2), ORANGE) is None


@pytest.mark.filterwarnings("error")
def test_names_missing_in_font_cause_no_warning(tmp_path):
    flat = encode(np.full((40, 40, 3), 90, dtype=np.uint8))
    write_set(tmp_path / "animals", [(flat, 0), (flat, 1)], classes=["犬", "猫"])
    assert size_of(gallery(tmp_path / "animals", ["cutmix"], tmp_path / "g.png"))[0] > 0
