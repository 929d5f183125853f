"""The gallery, read back from its PNG: which colours stand where, what the command says when something is wrong."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dali_mix.cli.main import main
from dali_mix.mixers import CutMix, Cutout, MixChoice, MixUp, PasteParams, ResizeMix
from dali_mix.recordio import RecordSet, write_set
from dali_mix.reports import gallery
from dali_mix.reports.gallery import (
    CAPTION,
    CELL,
    GAP,
    HEAD,
    LONGEST_NAME,
    MARGIN,
    TITLE,
    _labels,
    _shares,
    _short,
    parse_mixer,
)
from dali_mix.reports.samples import natural_size, read_images, read_targets
from dali_mix.reports.style import DPI

COLORS = {"red": (220, 20, 20), "blue": (20, 20, 220)}


def encode(array, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def two_colors(tmp_path):
    """Ten images of one colour each, alternately red and blue."""
    samples = []
    for i in range(10):
        flat = np.full((40, 48, 3), list(COLORS.values())[i % 2], dtype=np.uint8)
        samples.append((encode(flat), i % 2))
    write_set(tmp_path / "two", samples, classes=["red", "blue"])
    return tmp_path / "two"


def size_of(png):
    with Image.open(png) as image:
        return image.size


def cell(png, row, column):
    """(pixels, pixels, 3) of one picture, a little of its border left out."""
    left = MARGIN + column * (CELL + GAP)
    top = TITLE + HEAD + row * (CELL + CAPTION + GAP)
    box = [round(value * DPI) for value in (left + 0.05, top + 0.05, left + CELL - 0.05, top + CELL - 0.05)]
    with Image.open(png) as image:
        return np.asarray(image.convert("RGB").crop(box)).astype(int)


def test_pictures_show_what_the_mixers_did(tmp_path, two_colors):
    records = RecordSet(two_colors)
    mixers = [MixUp(2, alpha=1.0), CutMix(2), Cutout(12)]
    out = gallery(records, mixers, tmp_path / "g.png", rows=3, seed=4, boxes=False)
    chosen = torch.randperm(10, generator=torch.Generator().manual_seed(4)).tolist()
    colors = torch.tensor([list(COLORS.values())[row % 2] for row in chosen], dtype=torch.float64)
    size = natural_size(records)
    assert size == 40
    mean = colors.mean(0)
    mixup, cutmix, cutout = (mixer.sample(10, 40, 40, torch.Generator().manual_seed(4)) for mixer in mixers)
    for row in range(3):
        own = colors[row]
        assert np.abs(cell(out, row, 0) - own.numpy()).max() <= 1
        lam = float(mixup.lam[row])
        blend = lam * own + (1 - lam) * colors[mixup.permutation[row]]
        assert np.abs(cell(out, row, 1) - blend.numpy()).max() <= 1
        partner = colors[cutmix.permutation[row]]
        if not torch.equal(partner, own):
            pasted = np.abs(cell(out, row, 2) - partner.numpy()).max(-1) <= 1
            assert pasted.mean() == pytest.approx(1 - float(cutmix.lam[row]), abs=0.08)
        cut = np.abs(cell(out, row, 3) - mean.numpy()).max(-1) <= 1
        area = float(cutout.boxes[row, 2] * cutout.boxes[row, 3]) / 40**2
        assert cut.mean() == pytest.approx(area, abs=0.06)


def test_boxes_are_outlined_unless_told_otherwise(tmp_path, two_colors):
    def orange(**options):
        picture = cell(gallery(two_colors, ["resizemix"], tmp_path / "b.png", rows=1, **options), 0, 1)
        return (np.abs(picture - (217, 119, 43)).max(-1) < 40).sum()

    assert orange() > 20
    assert orange(boxes=False) == 0


def test_the_seed_decides(tmp_path, two_colors):
    first, again, other = (
        gallery(two_colors, ["cutmix"], tmp_path / f"{i}.png", seed=seed).read_bytes()
        for i, seed in enumerate((1, 1, 2))
    )
    assert first == again
    assert first != other


def test_captions():
    params = PasteParams(torch.tensor([1, 0]), torch.zeros(2, 4, dtype=torch.int64), torch.tensor([0.25, 1.0]))
    assert _shares(torch.tensor([0, 1]), 0, params, ["husky", "crab, king crab"]) == "λ 0.25  husky\n1-λ 0.75  crab"
    assert _labels(torch.tensor(1), ["a", "b_c"]) == "b c"
    assert _labels(torch.tensor([0.25, 0.0, 0.75]), ["a", "b", "c"]) == "0.75  c\n0.25  a"
    assert _labels(torch.tensor([-1.0, 1.0]), ["a", "b"]) == "1.00  b"
    assert len(_short("a very long name of a class")) == LONGEST_NAME


def test_multilabel_sets_and_choices(tmp_path):
    flat = encode(np.full((20, 20, 3), 128, dtype=np.uint8))
    rows = [(flat, np.array(label, dtype=np.float32)) for label in ([1, 0, 1], [0, -1, 1], [1, 1, 0])]
    write_set(tmp_path / "multi", rows, task="multilabel", classes=["a", "$b$", "c"])
    choice = MixChoice([CutMix(3)], probs=[0.5])
    out = gallery(tmp_path / "multi", ["cutout", choice, "resizemix"], tmp_path / "m.png", rows=9)
    assert size_of(out)[1] == pytest.approx((TITLE + HEAD + 3 * (CELL + CAPTION + GAP) + MARGIN / 2) * DPI, abs=1)


def test_images_of_every_kind_are_decoded_upright(tmp_path):
    picture = np.zeros((30, 60, 3), dtype=np.uint8)
    picture[:, 30:] = (250, 250, 250)
    gray = picture[..., 0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
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


def test_a_record_that_cannot_be_decoded_is_named(tmp_path, two_colors):
    good = encode(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8))
    damaged = good[:60] + b"\xff" * 100 + good[160:]
    write_set(tmp_path / "bad", [(good, 0), (damaged, 0)], classes=["one"])
    with pytest.raises(ValueError, match=r"bad: record 1 cannot be decoded.*dali-mix verify"):
        read_images(RecordSet(tmp_path / "bad"), [0, 1], 20)


def test_detection_sets_are_refused(tmp_path):
    good = encode(np.zeros((20, 20, 3), dtype=np.uint8))
    label = np.array([2, 6, 0, 0.1, 0.1, 0.5, 0.5, 0], dtype=np.float32)
    write_set(tmp_path / "det", [(good, label)], task="detection", classes=["one"])
    with pytest.raises(ValueError, match="detection set"):
        read_targets(RecordSet(tmp_path / "det"), [0])


def test_mixers_from_texts():
    assert parse_mixer("cutout", 5, 32).size == 16
    assert parse_mixer("Cutout:size=7", 5, 32).size == 7
    assert (parse_mixer("MixUp", 5, 32).alpha, parse_mixer("mixup:alpha=0.2", 5, 32).alpha) == (1.0, 0.2)
    mixer = parse_mixer(" resizemix:interpolation=bilinear:scale=(0.2, 0.4):per_batch=True ", 5, 32)
    assert isinstance(mixer, ResizeMix) and mixer.num_classes == 5
    assert (mixer.interpolation, mixer.scale, mixer.per_batch) == ("bilinear", (0.2, 0.4), True)
    with pytest.raises(ValueError, match="'alpha' is no option"):
        parse_mixer("mixup:alpha", 5, 32)


def test_the_command(tmp_path, two_colors, capsys):
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
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_a_comma_in_brackets_parts_no_mixers(tmp_path, two_colors):
    mixers = "resizemix:scale=(0.2,0.4),cutmix,resizemix:scale=[0.1, 0.3]:per_batch=True"
    out = tmp_path / "g.png"
    assert main(["gallery", str(two_colors), "--mixers", mixers, "--out", str(out), "--rows", "1"]) == 0
    assert size_of(out)[0] == pytest.approx((2 * MARGIN + 4 * CELL + 3 * GAP) * DPI, abs=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prefix": "nothing"}, "nothing"),
        ({"--mixers": "cutmxi"}, "Did you mean CutMix"),
        ({"--mixers": ","}, "needs rows"),
        ({"--rows": "0"}, "rows ≥ 1"),
        ({"--image-size": "4"}, "image_size ≥ 8"),
        ({"--out": "no/such/folder/g.png"}, "does not exist"),
        ({"--out": "g.jpg"}, "ends in .png"),
        ({"--mixers": "mixup:alpha=x"}, "mixer MixUp: a value of the wrong kind in alpha='x'"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, two_colors, capsys, change, message):
    options = {"--out": str(tmp_path / "g.png")} | {key: value for key, value in change.items() if key != "prefix"}
    prefix = str(tmp_path / change["prefix"]) if "prefix" in change else str(two_colors)
    assert main(["gallery", prefix, *(word for pair in options.items() for word in pair)]) == 1
    assert message in capsys.readouterr().err


def test_what_splicemix_appends_is_shown(two_colors, tmp_path):
    out = gallery(two_colors, ["splicemix:grids=mini", "resizemixplus"], tmp_path / "out.png", rows=3, image_size=32)
    seen = []
    for row in range(2):  # ten images make two more; the third row stays empty
        picture = cell(out, row, 1)
        height, width = picture.shape[0] // 4, picture.shape[1] // 4
        for y, x in ((height, width), (height, 3 * width), (3 * height, width), (3 * height, 3 * width)):
            near = [np.abs(picture[y, x].astype(int) - color).max() < 12 for color in COLORS.values()]
            assert sum(near) == 1
            seen.append(near.index(True))
    # Eight cells of ten different images, five of each colour.
    assert 3 <= sum(seen) <= 5
    assert (cell(out, 2, 1) == 255).all()
    assert any(not (cell(out, row, 2) == cell(out, row, 0)).all() for row in range(3))
