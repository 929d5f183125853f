"""Columns of a gallery, read back from its PNG: colours at their positions, and captions."""

import numpy as np
import pytest
import torch

from dali_mix.mixers import (
    CutMix,
    Cutout,
    MixChoice,
    Mixer,
    MixUp,
    PasteParams,
    ResizeMixPlus,
    SaliencyMix,
    SpliceMix,
    fine_grained_saliency,
)
from dali_mix.mixers.ops.saliency import peaks
from dali_mix.recordio import RecordSet, write_set
from dali_mix.reports import gallery
from dali_mix.reports.columns import Batch, _labels, mixed
from dali_mix.reports.gallery import natural_size, read_images
from dali_mix.reports.sheet import CELL, GAP, MARGIN
from dali_mix.reports.style import BLUE, DPI, ORANGE
from tests.reports.pictures import COLORS, caption_of, cell, center_of, encode, images_of, original_pixels, size_of


def test_captions_show_shares_and_labels():
    params = PasteParams(torch.tensor([1, 0]), torch.zeros(2, 4, dtype=torch.int64), torch.tensor([0.25, 1.0]))
    single, classes = torch.tensor([0, 1]), ["husky", "crab, king crab", "b_c"]
    assert caption_of(single, 0, params, classes) == ["λ 0.25  husky", "1-λ 0.75  crab"]
    several = torch.tensor([[1.0, 0.0, 1.0], [-1.0, 1.0, 0.0]])
    assert caption_of(several, 0, params, classes) == ["λ 0.25  husky, b c", "1-λ 0.75  crab"]
    assert _labels(torch.tensor(2), classes) == ["b c"]
    assert _labels(torch.tensor(1), ["crane, bird", "crane, machine"]) == ["crane, machine"]  # not "crane"
    assert _labels(several[0], classes) == ["husky, b c"]
    assert _labels(several[1], classes) == ["crab"]
    assert _labels(torch.tensor([0.25, 0.0, 0.75]), classes) == ["0.75  b c", "0.25  husky"]
    rounded = PasteParams(torch.tensor([1, 0]), torch.zeros(2, 4, dtype=torch.int64), torch.tensor([0.565, 0.125]))
    for row in (0, 1):  # the two displayed shares add up to 1
        shares = [float(line.split()[1]) for line in caption_of(single, row, rounded, classes)]
        assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("options", [{}, {"grids": ["2x2-1", "1x3"], "counts": [1, 2]}])
def test_splicemix_column_shows_appended_grids(tmp_path, two_colors, options):
    mixer = SpliceMix(**options, num_classes=2)
    chosen = torch.randperm(10, generator=torch.Generator().manual_seed(7)).tolist()
    images = read_images(RecordSet(two_colors), chosen, 40)
    labels = torch.tensor([row % 2 for row in chosen])
    batch = Batch(images, labels, images.float().mean((0, 2, 3)) / 255, ["red", "blue"], rows=4)
    (column,) = mixed(mixer, batch, seed=7, boxes=True, peaks=False)
    out = gallery(two_colors, [mixer], tmp_path / "s.png", rows=4, seed=7, boxes=False)
    heads = set()
    for row, picture in enumerate(column.pictures):
        params = mixer.sample(10, 40, 40, torch.Generator().manual_seed(7 + row))  # each row has its own draw
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
            for pixel in (picture.image[:, y, x].float(), torch.tensor(original_pixels(out, row, 1)[y, x]).float()):
                assert (pixel - color).abs().max() <= 1
    assert len(column.pictures) == 4 and len(heads) > 1


def test_splicemix_of_too_few_images_shows_original(tmp_path, two_colors):
    flat = encode(np.full((40, 40, 3), 90, dtype=np.uint8))
    write_set(tmp_path / "three", [(flat, 0)] * 3, classes=["one"])
    out = gallery(tmp_path / "three", ["splicemix"], tmp_path / "t.png")
    assert size_of(out)[0] == pytest.approx((2 * MARGIN + 2 * CELL + GAP) * DPI, abs=1)
    assert (original_pixels(out, 0, 1) == 90).all()  # nothing is appended, so the image itself is shown


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
            assert np.abs(original_pixels(out, row, 1 + view) - pixels[12 * view + row]).max() <= 1


class Mirrored(Mixer):
    """A mixer that appends the mirrored batch and has no description."""

    def sample(self, batch_size, height, width, generator=None, device="cpu"):
        return batch_size

    def apply(self, images, targets, params):
        return torch.cat([images, images.flip(-1)]), targets.repeat(2)


def test_views_without_description_show_labels(dots):
    batch = Batch(images_of(dots, 6), torch.arange(12) % 4, torch.full((3,), 0.2), ["a", "b", "c", "d"], rows=3)
    columns = mixed(Mirrored(), batch, seed=6, boxes=True, peaks=False)
    assert [column.name for column in columns] == ["Mirrored, view 1", "Mirrored, view 2"]
    for column in columns:
        assert [picture.caption for picture in column.pictures] == [["a"], ["b"], ["c"]]


def test_view_captions_describe_paste(dots):
    images = images_of(dots, 6)
    batch = Batch(images, torch.arange(12) % 4, torch.full((3,), 0.2), ["a", "b", "c", "d"], rows=3)
    columns = mixed(ResizeMixPlus(4), batch, seed=6, boxes=True, peaks=False)
    paste = ResizeMixPlus(4).sample(12, 40, 40, torch.Generator().manual_seed(6)).paste
    assert [column.name for column in columns] == ["ResizeMixPlus, view 1", "ResizeMixPlus, view 2"]
    for column in columns:
        for row, picture in enumerate(column.pictures):
            assert picture.outlines == ()
            assert picture.caption == caption_of(batch.targets, row, paste, batch.classes)


def test_grids_of_equal_shape_alternate(dots):
    batch = Batch(images_of(dots, 6), torch.arange(12) % 4, torch.full((3,), 0.2), ["a", "b", "c", "d"], rows=2)
    (column,) = mixed(SpliceMix(["2x2", "2x2-1"], counts=[1, 1], num_classes=4), batch, seed=6, boxes=True, peaks=False)
    assert [picture.caption[0] for picture in column.pictures] == ["2×2", "2×2, 1 dropped"]


def test_peaks_are_marked_at_their_positions(tmp_path, dots):
    mixer = SaliencyMix(4)
    options = {"rows": 8, "seed": 2, "boxes": False}
    out = gallery(dots, [mixer], tmp_path / "p.png", peaks=True, **options)
    partners = mixer.sample(12, 40, 40, torch.Generator().manual_seed(2)).permutation
    own = torch.stack(peaks(fine_grained_saliency(images_of(dots, 2))), dim=1)
    seen = 0
    for row in range(8):
        for column, peak in ((0, own[row]), (1, own[partners[row]])):
            if peak.min() > 4 and peak.max() < 35:  # the cross is completely inside the area that `cell` cuts out
                assert center_of(cell(out, row, column), BLUE) == pytest.approx(peak.tolist(), abs=0.75)
                seen += 1
    assert seen > 4
    plain = gallery(dots, [mixer], tmp_path / "n.png", **options)
    assert all(center_of(cell(plain, row, column), BLUE) is None for row in range(8) for column in range(2))


def test_saliencymix_outline_is_at_pasted_box(tmp_path, dots):
    mixer = SaliencyMix(4)
    out = gallery(dots, [mixer], tmp_path / "s.png", rows=12, seed=5)
    located = mixer.locate(images_of(dots, 5), mixer.sample(12, 40, 40, torch.Generator().manual_seed(5)))
    seen = 0
    for row, (top, left, height, width) in enumerate(located.boxes.tolist()):
        if min(height, width) > 4 and min(top, left) > 1 and max(top + height, left + width) < 39:
            middle = (top + height / 2 - 0.5, left + width / 2 - 0.5)
            assert center_of(cell(out, row, 1), ORANGE) == pytest.approx(middle, abs=0.75)
            seen += 1
    assert seen


def test_mixer_gets_uint8_or_normalized_images(tmp_path, dots):
    """Mixers without mean and std get uint8, others get normalized images; the pictures are identical."""
    mixers = [SaliencyMix(4), SaliencyMix(4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)), "saliencymix"]
    out = gallery(dots, mixers, tmp_path / "s.png", rows=4, seed=3, boxes=False)
    images = images_of(dots, 3)
    mixed, _ = SaliencyMix(4)(images, torch.zeros(12, dtype=torch.int64), torch.Generator().manual_seed(3))
    assert (mixed[:4] != images[:4]).any()
    for row in range(4):
        for column in (1, 2, 3):
            assert np.abs(original_pixels(out, row, column) - mixed[row].permute(1, 2, 0).numpy()).max() <= 1


def test_mixchoice_shows_drawn_mixer(tmp_path, dots):
    choice = MixChoice([CutMix(4), SaliencyMix(4)], probs=[0.0, 1.0])
    out = gallery(dots, [choice], tmp_path / "c.png", rows=4, seed=3, boxes=False)
    mixed, _ = choice(images_of(dots, 3), torch.zeros(12, dtype=torch.int64), torch.Generator().manual_seed(3))
    for row in range(4):
        assert np.abs(original_pixels(out, row, 1) - mixed[row].permute(1, 2, 0).numpy()).max() <= 1


def test_unmixed_batch_shows_originals(tmp_path, dots):
    out = gallery(dots, [MixChoice([CutMix(4)], probs=[0.0])], tmp_path / "c.png", rows=2)
    for row in range(2):
        assert np.array_equal(original_pixels(out, row, 0), original_pixels(out, row, 1))


def test_maps_option_adds_column(tmp_path, dots):
    out = gallery(dots, ["cutmix"], tmp_path / "m.png", rows=2, seed=2, maps=True)
    assert size_of(out)[0] == pytest.approx((2 * MARGIN + 3 * CELL + 2 * GAP) * DPI, abs=1)
    maps = fine_grained_saliency(images_of(dots, 2)).numpy().astype(int)
    for row in range(2):
        assert np.abs(original_pixels(out, row, 1) - maps[row, :, :, None]).max() <= 1


def test_saliencymix_pastes_boxes_around_peaks(tmp_path, two_colors):
    """Images of a single colour have their peak at the first pixel, where a quarter of the box remains."""
    mixer = SaliencyMix(2)
    mixers = [mixer, MixChoice([mixer], probs=[1.0])]
    out = gallery(RecordSet(two_colors), mixers, tmp_path / "g.png", rows=4, seed=4, boxes=False)
    lined = gallery(RecordSet(two_colors), ["saliencymix"], tmp_path / "lined.png", rows=4, seed=4)
    chosen = torch.randperm(10, generator=torch.Generator().manual_seed(4)).tolist()
    colors = np.array([list(COLORS.values())[row % 2] for row in chosen])
    drawn = mixer.sample(10, 40, 40, torch.Generator().manual_seed(4))
    # A MixChoice first draws which mixer to use.
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


def test_pictures_match_mixer_output(tmp_path, two_colors):
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


def test_boxes_option_controls_outlines(tmp_path, two_colors):
    def orange(**options):
        picture = cell(gallery(two_colors, ["resizemix"], tmp_path / "b.png", rows=1, **options), 0, 1)
        return (np.abs(picture - (217, 119, 43)).max(-1) < 40).sum()

    assert orange() > 20
    assert orange(boxes=False) == 0
