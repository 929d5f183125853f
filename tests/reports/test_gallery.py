"""The gallery, read back from its PNG: which colours stand where, what the command says when something is wrong."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dali_mix.cli.main import main
from dali_mix.mixers import (
    CutMix,
    Cutout,
    MixChoice,
    MixUp,
    PasteParams,
    ResizeMix,
    ResizeMixPlus,
    SaliencyMix,
    SpliceMix,
    fine_grained_saliency,
)
from dali_mix.mixers.description import pasted
from dali_mix.mixers.ops.saliency import peaks
from dali_mix.recordio import RecordSet, write_set
from dali_mix.reports import gallery
from dali_mix.reports.columns import Batch, _caption, _labels, mixed
from dali_mix.reports.gallery import _in_words, parse_mixer
from dali_mix.reports.samples import natural_size, read_images, read_targets
from dali_mix.reports.sheet import CAPTION, CELL, GAP, HEAD, MARGIN, TITLE, fitted, row_height, wrapped
from dali_mix.reports.style import BLUE, DPI, ORANGE
from tests.recordio.samples import with_checksums

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


def shown(png, row, column, size=40):
    """(size, size, 3) of one picture: the colour in the middle of each of its pixels."""
    left = MARGIN + column * (CELL + GAP)
    top = TITLE + HEAD + row * (CELL + CAPTION + GAP)
    middles = (np.arange(size) + 0.5) / size * CELL
    with Image.open(png) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return pixels[np.ix_(((top + middles) * DPI).astype(int), ((left + middles) * DPI).astype(int))]


def test_saliencymix_shows_boxes_around_the_peaks(tmp_path, two_colors):
    """Nothing stands out in images of one colour: their peak is the first pixel, where a quarter of the box is left."""
    mixer = SaliencyMix(2)
    mixers = [mixer, MixChoice([mixer], probs=[1.0])]
    out = gallery(RecordSet(two_colors), mixers, tmp_path / "g.png", rows=4, seed=4, boxes=False)
    lined = gallery(RecordSet(two_colors), ["saliencymix"], tmp_path / "lined.png", rows=4, seed=4)
    chosen = torch.randperm(10, generator=torch.Generator().manual_seed(4)).tolist()
    colors = np.array([list(COLORS.values())[row % 2] for row in chosen])
    drawn = mixer.sample(10, 40, 40, torch.Generator().manual_seed(4))
    # In a choice the draw of which mixer comes first.
    chosen_drawn = mixers[1].sample(10, 40, 40, torch.Generator().manual_seed(4)).params
    for column, params in ((1, drawn), (2, chosen_drawn)):
        for row in range(4):
            picture, own = cell(out, row, column), colors[row]
            partner = colors[int(params.permutation[row])]
            height, width = (int(side) - int(side) // 2 for side in params.sides[row])
            grid = picture[:: len(picture) // 40, :: len(picture) // 40]
            share = (np.abs(grid - partner).max(-1) <= 1).mean()
            assert np.abs(picture[-1, -1] - own).max() <= 1
            if height > 4 and width > 4:
                assert np.abs(picture[2, 2] - partner).max() <= 1
            if (own != partner).any():
                assert share == pytest.approx(height * width / 1600, abs=0.05)
    assert any((cell(lined, row, 1) != cell(out, row, 1)).any() for row in range(4))


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


def _shares(targets, row, params, classes):
    batch = Batch(torch.zeros(len(targets), 3, 8, 8), targets, torch.zeros(3), classes, len(targets))
    return _caption(pasted(params.permutation, params.lam)[row], batch, targets[row])


def test_captions():
    params = PasteParams(torch.tensor([1, 0]), torch.zeros(2, 4, dtype=torch.int64), torch.tensor([0.25, 1.0]))
    single, classes = torch.tensor([0, 1]), ["husky", "crab, king crab", "b_c"]
    assert _shares(single, 0, params, classes) == ["λ 0.25  husky", "1-λ 0.75  crab"]
    several = torch.tensor([[1.0, 0.0, 1.0], [-1.0, 1.0, 0.0]])
    assert _shares(several, 0, params, classes) == ["λ 0.25  husky, b c", "1-λ 0.75  crab"]
    assert _labels(torch.tensor(2), classes) == ["b c"]
    assert _labels(torch.tensor(1), ["crane, bird", "crane, machine"]) == ["crane, machine"]  # not "crane"
    assert _labels(several[0], classes) == ["husky, b c"]
    assert _labels(several[1], classes) == ["crab"]
    assert _labels(torch.tensor([0.25, 0.0, 0.75]), classes) == ["0.75  b c", "0.25  husky"]
    rounded = PasteParams(torch.tensor([1, 0]), torch.zeros(2, 4, dtype=torch.int64), torch.tensor([0.565, 0.125]))
    for row in (0, 1):  # the two shares shown add up to 1
        shares = [float(line.split()[1]) for line in _shares(single, row, rounded, classes)]
        assert sum(shares) == pytest.approx(1)


def test_text_fits_its_place():
    long = "a very long name of a class that nobody can read"
    assert fitted("short", CELL) == "short"
    kept = fitted(long, CELL)
    assert kept.endswith("…") and long.startswith(kept[:-1]) and 15 < len(kept) < 35
    assert len(fitted(long, CELL, size=11)) < len(kept)
    assert len(fitted("W" * 60, CELL)) < len(fitted("i" * 60, CELL))
    assert fitted("$i$ costs $5", CELL) == "$i$ costs $5"
    assert wrapped([], "λ 1.00  ") == ["λ 1.00  "]
    assert wrapped(["cat", "dog"], "λ 0.25  ") == ["λ 0.25  cat, dog"]
    names = ["aeroplane", "bicycle", "diningtable", "motorbike", "pottedplant"]
    lines = wrapped(names)
    assert 1 < len(lines) < 5
    assert [name for line in lines for name in line.replace(",", " ").split()] == names
    *before, last = wrapped(names * 9, most=3)
    assert len(before) == 2 and last.strip() == f"and {45 - len(' '.join(before).split())} more"


def test_multilabel_sets_and_choices(tmp_path):
    flat = encode(np.full((20, 20, 3), 128, dtype=np.uint8))
    rows = [(flat, np.array(label, dtype=np.float32)) for label in ([1, 0, 1], [0, -1, 1], [1, 1, 0])]
    write_set(tmp_path / "multi", rows, task="multilabel", classes=["a", "$b$", "c"])
    choice = MixChoice([CutMix(3)], probs=[0.5])
    out = gallery(tmp_path / "multi", ["cutout", choice, "resizemix"], tmp_path / "m.png", rows=9)
    assert size_of(out)[1] == pytest.approx((TITLE + HEAD + 3 * row_height(2) + MARGIN / 2) * DPI, abs=1)


def test_rows_are_as_high_as_their_longest_caption(tmp_path):
    names = ["aeroplane", "diningtable", "pottedplant", "television", "motorbike"]
    flat = encode(np.full((40, 40, 3), 128, dtype=np.uint8))
    write_set(tmp_path / "many", [(flat, np.ones(5, dtype=np.float32))] * 5, task="multilabel", classes=names)
    labels = torch.ones(5, 5)
    params = ResizeMix(5).sample(5, 40, 40, torch.Generator().manual_seed(0))
    lines = len(_shares(labels, 0, params, names))
    assert lines > 4 and lines > len(_labels(labels[0], names)) > 1
    out = gallery(tmp_path / "many", ["resizemix"], tmp_path / "m.png", rows=3)
    assert size_of(out)[1] == pytest.approx((TITLE + HEAD + 3 * row_height(lines) + MARGIN / 2) * DPI, abs=1)
    with Image.open(out) as image:  # nothing is written into the picture below
        pixels = np.asarray(image.convert("L"))
    top = round((TITLE + HEAD + row_height(lines)) * DPI)
    assert (pixels[top - round(0.1 * DPI) : top - 2] == 255).all()


def test_options_stand_in_the_head():
    assert _in_words("cutmix") == ""
    assert _in_words("resizemix:interpolation=bilinear:per_batch=True") == "bilinear per_batch"
    assert _in_words("mixup:alpha=0.2") == "alpha=0.2"


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
    damaged = with_checksums(good[:60] + b"\xff" * 100 + good[160:])
    write_set(tmp_path / "bad", [(good, 0), (damaged, 0)], classes=["one"])
    with pytest.raises(ValueError, match=r"bad: record 1: cannot be decoded.*dali-mix verify --decode"):
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
    assert not list(tmp_path.glob(".*"))


def test_a_comma_in_brackets_parts_no_mixers(tmp_path, two_colors):
    mixers = "resizemix:scale=(0.2,0.4),cutmix,resizemix:scale=[0.1, 0.3]:per_batch=True"
    out = tmp_path / "g.png"
    assert main(["gallery", str(two_colors), "--mixers", mixers, "--out", str(out), "--rows", "1"]) == 0
    assert size_of(out)[0] == pytest.approx((2 * MARGIN + 4 * CELL + 3 * GAP) * DPI, abs=1)


@pytest.mark.parametrize("rows", [101, 120, 100_000])
def test_a_picture_of_too_many_rows_is_refused(tmp_path, rows):
    write_set(tmp_path / "many", [(encode(np.zeros((8, 8, 3), np.uint8)), 0)] * 120, classes=["a"])
    with pytest.raises(ValueError, match=f"rows={rows}: must be a whole number from 1 to 100"):
        gallery(tmp_path / "many", ["cutmix"], tmp_path / "g.png", rows=rows)
    assert not (tmp_path / "g.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prefix": "nothing"}, "nothing"),
        ({"--mixers": "cutmxi"}, "did you mean CutMix"),
        ({"--mixers": ","}, "needs a mixer"),
        ({"--rows": "0"}, "rows=0: must be a whole number from 1 to 100"),
        ({"--image-size": "4"}, "image_size=4: must be a whole number from 8 to 2048"),
        ({"--image-size": "2049"}, "image_size=2049: must be a whole number from 8 to 2048"),
        ({"--image-size": "1000000"}, "image_size=1000000: must be a whole number from 8 to 2048"),
        ({"--out": "no/such/folder/g.png"}, "does not exist"),
        ({"--out": "g.jpg"}, "ends in .png"),
        ({"--mixers": "saliencymx"}, "did you mean SaliencyMix"),
        ({"--mixers": "cutmix,splicemix:grids=['0x2']:counts=[1]"}, "grid '0x2': must read like"),
        ({"--mixers": "resizemixplus:views=0"}, "views=0: must be a whole number of at least 1"),
        ({"--mixers": "mixup:alpha=x"}, "mixer MixUp: alpha='x': must be a number"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, two_colors, capsys, change, message):
    options = {"--out": str(tmp_path / "g.png")} | {key: value for key, value in change.items() if key != "prefix"}
    prefix = str(tmp_path / change["prefix"]) if "prefix" in change else str(two_colors)
    assert main(["gallery", prefix, *(word for pair in options.items() for word in pair)]) == 1
    assert message in capsys.readouterr().err


@pytest.fixture
def dots(tmp_path):
    """Dark pictures of 40×40 with one bright dot each."""
    samples = []
    for i in range(12):
        picture = np.full((40, 40, 3), 40, dtype=np.uint8)
        y, x = [(8, 30), (30, 9), (20, 20), (31, 31)][i % 4]
        picture[y - 1 : y + 2, x - 1 : x + 2] = 250
        samples.append((encode(picture), i % 4))
    write_set(tmp_path / "dots", samples, classes=["a", "b", "c", "d"])
    return tmp_path / "dots"


def images_of(prefix, seed):
    """The 12 images in the order a gallery draws them."""
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed)).tolist()
    return read_images(RecordSet(prefix), order, 40)


def place_of(picture, color):
    """Row and column, in pixels of the 40×40 image, of the middle of what has `color` in a picture `cell` returned."""
    found = np.argwhere(np.abs(picture - np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])).max(-1) < 25)
    if not len(found):
        return None
    middle = (found.min(0) + found.max(0)) / 2 + 0.05 * DPI
    return tuple((middle / (CELL * DPI) * 40 - 0.5).tolist())


def test_peaks_are_marked_where_they_are(tmp_path, dots):
    mixer = SaliencyMix(4)
    options = {"rows": 8, "seed": 2, "boxes": False}
    out = gallery(dots, [mixer], tmp_path / "p.png", peaks=True, **options)
    partners = mixer.sample(12, 40, 40, torch.Generator().manual_seed(2)).permutation
    own = torch.stack(peaks(fine_grained_saliency(images_of(dots, 2))), dim=1)
    seen = 0
    for row in range(8):
        for column, peak in ((0, own[row]), (1, own[partners[row]])):
            if peak.min() > 4 and peak.max() < 35:  # the whole cross is inside of what `cell` cuts out
                assert place_of(cell(out, row, column), BLUE) == pytest.approx(peak.tolist(), abs=0.75)
                seen += 1
    assert seen > 4
    plain = gallery(dots, [mixer], tmp_path / "n.png", **options)
    assert all(place_of(cell(plain, row, column), BLUE) is None for row in range(8) for column in range(2))


def test_saliencymix_is_outlined_where_it_pasted(tmp_path, dots):
    mixer = SaliencyMix(4)
    out = gallery(dots, [mixer], tmp_path / "s.png", rows=12, seed=5)
    located = mixer.locate(images_of(dots, 5), mixer.sample(12, 40, 40, torch.Generator().manual_seed(5)))
    seen = 0
    for row, (top, left, height, width) in enumerate(located.boxes.tolist()):
        if min(height, width) > 4 and min(top, left) > 1 and max(top + height, left + width) < 39:
            middle = (top + height / 2 - 0.5, left + width / 2 - 0.5)
            assert place_of(cell(out, row, 1), ORANGE) == pytest.approx(middle, abs=0.75)
            seen += 1
    assert seen


def test_a_mixer_sees_the_images_it_was_made_for(tmp_path, dots):
    """uint8 without mean and std, else normalized by its own: the pictures are the same."""
    mixers = [SaliencyMix(4), SaliencyMix(4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)), "saliencymix"]
    out = gallery(dots, mixers, tmp_path / "s.png", rows=4, seed=3, boxes=False)
    images = images_of(dots, 3)
    mixed, _ = SaliencyMix(4)(images, torch.zeros(12, dtype=torch.int64), torch.Generator().manual_seed(3))
    assert (mixed[:4] != images[:4]).any()
    for row in range(4):
        for column in (1, 2, 3):
            assert np.abs(shown(out, row, column) - mixed[row].permute(1, 2, 0).numpy()).max() <= 1


def test_a_choice_shows_the_mixer_it_drew(tmp_path, dots):
    choice = MixChoice([CutMix(4), SaliencyMix(4)], probs=[0.0, 1.0])
    out = gallery(dots, [choice], tmp_path / "c.png", rows=4, seed=3, boxes=False)
    mixed, _ = choice(images_of(dots, 3), torch.zeros(12, dtype=torch.int64), torch.Generator().manual_seed(3))
    for row in range(4):
        assert np.abs(shown(out, row, 1) - mixed[row].permute(1, 2, 0).numpy()).max() <= 1


def test_a_batch_left_alone(tmp_path, dots):
    out = gallery(dots, [MixChoice([CutMix(4)], probs=[0.0])], tmp_path / "c.png", rows=2)
    for row in range(2):
        assert np.array_equal(shown(out, row, 0), shown(out, row, 1))


def test_maps_stand_beside_the_images(tmp_path, dots):
    out = gallery(dots, ["cutmix"], tmp_path / "m.png", rows=2, seed=2, maps=True)
    assert size_of(out)[0] == pytest.approx((2 * MARGIN + 3 * CELL + 2 * GAP) * DPI, abs=1)
    maps = fine_grained_saliency(images_of(dots, 2)).numpy().astype(int)
    for row in range(2):
        assert np.abs(shown(out, row, 1) - maps[row, :, :, None]).max() <= 1


def test_the_options_of_the_command(tmp_path, dots):
    command = ["gallery", str(dots), "--mixers", "saliencymix,resizemix", "--rows", "2", "--seed", "1", "--out"]
    assert main([*command, str(tmp_path / "on.png"), "--peaks", "--maps", "--boxes"]) == 0
    assert main([*command, str(tmp_path / "off.png"), "--no-boxes"]) == 0
    marked = [place_of(cell(tmp_path / "on.png", row, column), BLUE) for row in range(2) for column in range(3)]
    assert any(marked)
    for row in range(2):
        assert place_of(cell(tmp_path / "off.png", row, 0), BLUE) is None
        assert place_of(cell(tmp_path / "on.png", row, 3), ORANGE) is not None
        assert place_of(cell(tmp_path / "off.png", row, 2), ORANGE) is None


@pytest.mark.parametrize("options", [{}, {"grids": ["2x2-1", "1x3"], "counts": [1, 2]}])
def test_splicemix_shows_what_it_appends(tmp_path, two_colors, options):
    mixer = SpliceMix(**options, num_classes=2)
    chosen = torch.randperm(10, generator=torch.Generator().manual_seed(7)).tolist()
    images = read_images(RecordSet(two_colors), chosen, 40)
    labels = torch.tensor([row % 2 for row in chosen])
    batch = Batch(images, labels, images.float().mean((0, 2, 3)) / 255, ["red", "blue"], rows=4)
    (column,) = mixed(mixer, batch, seed=7, boxes=True, peaks=False)
    out = gallery(two_colors, [mixer], tmp_path / "s.png", rows=4, seed=7, boxes=False)
    heads = set()
    for row, picture in enumerate(column.pictures):
        params = mixer.sample(10, 40, 40, torch.Generator().manual_seed(7 + row))  # each row has a draw of its own
        grid = params.grids[row % len(params.grids)]
        cells, dropped = grid.rows * grid.cols, int(grid.dropped[0].sum())
        assert [name for line in picture.caption[1:] for name in line.split(", ")] == [
            name
            for number, name in enumerate(("red", "blue"))
            if number in {int(labels[i]) for i in grid.sources[0][~grid.dropped[0]]}
        ]
        heads.add(picture.caption[0])
        assert picture.caption[0] == f"{grid.rows}×{grid.cols}" + (f", {dropped} dropped" if dropped else "")
        assert len(picture.outlines) == cells
        for (top, left, height, width), source, gone in zip(
            picture.outlines, grid.sources[0], grid.dropped[0], strict=True
        ):
            color = batch.mean * 255 if gone else images[source, :, 0, 0].float()
            y, x = int(top + height / 2), int(left + width / 2)
            for pixel in (picture.image[:, y, x].float(), torch.tensor(shown(out, row, 1)[y, x]).float()):
                assert (pixel - color).abs().max() <= 1
    assert len(column.pictures) == 4 and len(heads) > 1


def test_splicemix_of_too_few_images(tmp_path, two_colors):
    flat = encode(np.full((40, 40, 3), 90, dtype=np.uint8))
    write_set(tmp_path / "three", [(flat, 0)] * 3, classes=["one"])
    out = gallery(tmp_path / "three", ["splicemix"], tmp_path / "t.png")
    assert size_of(out)[0] == pytest.approx((2 * MARGIN + 2 * CELL + GAP) * DPI, abs=1)
    assert (shown(out, 0, 1) == 90).all()  # nothing is appended: the image itself


def test_every_view_has_a_column(tmp_path, dots):
    out = gallery(dots, ["resizemixplus"], tmp_path / "v.png", rows=3, seed=6)
    assert size_of(out)[0] == pytest.approx((2 * MARGIN + 3 * CELL + 2 * GAP) * DPI, abs=1)
    images = images_of(dots, 6)
    mean = images.float().mean((0, 2, 3)) / 255
    mixer = ResizeMixPlus(4, mean=tuple(mean.tolist()), std=(1.0, 1.0, 1.0))
    params = mixer.sample(12, 40, 40, torch.Generator().manual_seed(6))
    views, _ = mixer.apply(images / 255 - mean[:, None, None], torch.zeros(12, dtype=torch.int64), params)
    pixels = (255 * (views + mean[:, None, None])).permute(0, 2, 3, 1).numpy()
    for row in range(3):
        for view in range(2):
            assert np.abs(shown(out, row, 1 + view) - pixels[12 * view + row]).max() <= 1


def test_captions_of_views_tell_the_paste(dots):
    images = images_of(dots, 6)
    batch = Batch(images, torch.arange(12) % 4, torch.full((3,), 0.2), ["a", "b", "c", "d"], rows=3)
    columns = mixed(ResizeMixPlus(4), batch, seed=6, boxes=True, peaks=False)
    paste = ResizeMixPlus(4).sample(12, 40, 40, torch.Generator().manual_seed(6)).paste
    assert [column.name for column in columns] == ["ResizeMixPlus, view 1", "ResizeMixPlus, view 2"]
    for column in columns:
        for row, picture in enumerate(column.pictures):
            assert picture.outlines == ()
            assert picture.caption == _shares(batch.targets, row, paste, batch.classes)


def test_grids_of_one_shape_are_shown_in_turn(dots):
    batch = Batch(images_of(dots, 6), torch.arange(12) % 4, torch.full((3,), 0.2), ["a", "b", "c", "d"], rows=2)
    (column,) = mixed(SpliceMix(["2x2", "2x2-1"], counts=[1, 1], num_classes=4), batch, seed=6, boxes=True, peaks=False)
    assert [picture.caption[0] for picture in column.pictures] == ["2×2", "2×2, 1 dropped"]
