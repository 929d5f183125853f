"""Multilabel pipeline: windows, cutout and normalization compared with PIL and loops; boxes; invalid options."""

import io

import numpy as np
import pytest
from dali_mix.pipelines import SampleRandom, build
from dali_mix.pipelines.steps.geometry import Crop, Flip, Resize
from PIL import Image
from sklearn.datasets import load_sample_images

from dali_mix import build_loader
from dali_mix.recordio import RecordSet, write_set
from tests.loading.sets import boxed_set, encode, picture, pixels_by_id
from tests.pipelines.draws import drawn_by

SIZE = (64, 96)
PLAIN = {"image_size": SIZE, "normalization": "none"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Write parts of two photographs with four labels each: positive, negative or ignored."""
    china, flower = load_sample_images().images
    parts = [china, flower, china[:300, 200:420], flower[100:260, :500], china[200:, :150], flower[50:150, 100:271]]
    labels = np.random.default_rng(0).integers(-1, 2, (len(parts), 4)).astype(np.float32)
    prefix = tmp_path_factory.mktemp("photos") / "set"
    samples = [(encode(np.ascontiguousarray(part)), label) for part, label in zip(parts, labels, strict=True)]
    write_set(prefix, samples, task="multilabel", classes="abcd")
    return RecordSet(prefix), parts, labels


def run(records, *, train, epoch=0, batch_size=4, **options):
    one = build_loader(
        "multilabel",
        records,
        batch_size=batch_size,
        train=train,
        device="cpu",
        num_threads=1,
        pipeline_options={**PLAIN, **options},
    )
    one.set_epoch(epoch)
    return pixels_by_id([one])


def drawn(records, epoch=0, **options):
    pipeline = build("multilabel", True, {**PLAIN, **options})
    return drawn_by(pipeline, records.table[:], SampleRandom(0, epoch, np.arange(len(records))))


def resized(part, anchor, shape, mirror):
    (top, left), (height, width) = anchor, shape
    crop = Image.fromarray(part[top : top + height, left : left + width])
    pixels = np.asarray(crop.resize(SIZE[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
    return pixels[:, :, ::-1] if mirror else pixels


@pytest.mark.parametrize("crop", ["random-resized", "multi-scale", "none"])
def test_training_pixels_match_pil(photos, crop):
    records, parts, _ = photos
    for epoch in range(2):
        images, draws = run(records, train=True, epoch=epoch, crop=crop), drawn(records, epoch, crop=crop)
        for i, part in enumerate(parts):
            anchor, shape = draws["Crop"]["anchor"][i], draws["Crop"]["shape"][i]
            wanted = resized(part, anchor, shape, draws["Flip"]["mirror"][i])
            assert images[i].shape == (3, *SIZE)
            difference = abs(images[i] - wanted)[:, 1:-1, 1:-1] * 255
            assert difference.max() <= 1.51 and difference.mean() < 0.5
            if crop == "none":
                assert anchor.tolist() == [0, 0] and shape.tolist() == list(part.shape[:2])


def test_evaluation_resizes_complete_image(photos):
    records, parts, labels = photos
    images = run(records, train=False, cutout=0.5, auto_augment="randaugment", crop="multi-scale")
    for i, part in enumerate(parts):
        wanted = resized(part, (0, 0), part.shape[:2], False)
        assert abs(images[i] - wanted)[:, 1:-1, 1:-1].max() * 255 <= 1.51
    loader = build_loader("multilabel", records, batch_size=4, train=False, device="cpu", pipeline_options=PLAIN)
    for _, targets, ids in loader:
        assert np.array_equal(targets.numpy(), labels[ids.numpy()])


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
)
def test_normalization_presets_use_their_statistics(photos, name, mean, std):
    records = photos[0]
    plain, normalized = run(records, train=False), run(records, train=False, normalization=name)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
    for i, pixels in plain.items():
        np.testing.assert_allclose(normalized[i], (pixels - mean) / std, atol=2e-5)


def test_cutout_fills_drawn_window_with_one_color(photos):
    records = photos[0]
    options = {"crop": "none", "cutout": 0.5}
    plain, cut, draws = (
        run(records, train=True, crop="none"),
        run(records, train=True, **options),
        drawn(records, **options),
    )
    sizes = set()
    for i in plain:
        cutout = {name: values[i] for name, values in draws["Cutout"].items()}
        (top, left), (height, width) = cutout["anchor"].astype(int), cutout["shape"].astype(int)
        assert top >= 0 and left >= 0 and top + height <= SIZE[0] and left + width <= SIZE[1]
        sizes.add((height, width))
        inside = np.zeros(SIZE, bool)
        inside[top : top + height, left : left + width] = True
        inside = inside[:, ::-1] if draws["Flip"]["mirror"][i] else inside
        colour = cutout["fill_value"] / 255
        np.testing.assert_allclose(cut[i][:, inside], np.repeat(colour[:, None], inside.sum(), axis=1), atol=1e-6)
        assert abs(cut[i] - plain[i])[:, ~inside].max() * 255 < 1.01  # the fused operator has no intermediate rounding
    assert len(sizes) > 1 and max(size[0] for size in sizes) <= 32 and max(size[1] for size in sizes) <= 48


def test_cutout_centres_are_uniform():
    table = np.zeros(100_000, [("height", "u4"), ("width", "u4")])
    table["height"], table["width"] = 100, 200
    pipeline = build("multilabel", True, {**PLAIN, "cutout": 0.5})
    draws = drawn_by(pipeline, table, SampleRandom(1, 0, np.arange(len(table))))["Cutout"]
    bottom, right = (draws["anchor"] + draws["shape"]).T
    # A square centred at c spans c - 16 to c + 16, so 16 of 64 centres touch the lower border and 17 the upper one.
    assert abs((bottom == 64).mean() - 16 / 64) < 0.01 and abs((right == 96).mean() - 24 / 96) < 0.01
    assert abs((draws["anchor"] == 0).mean(0) - np.array([17 / 64, 25 / 96])).max() < 0.01
    assert abs(draws["fill_value"].mean() - 127.5) < 0.5 and draws["fill_value"].max() == 255


def test_cutout_of_odd_size_is_aligned_to_pixels():
    table = np.zeros(1000, [("height", "u4"), ("width", "u4")])
    table["height"], table["width"] = 100, 200
    pipeline = build("multilabel", True, {**PLAIN, "cutout": 0.2})
    draws = drawn_by(pipeline, table, SampleRandom(1, 0, np.arange(len(table))))["Cutout"]
    assert draws["shape"].max(0).tolist() == [13, 19]
    assert not (draws["anchor"] % 1).any() and not (draws["shape"] % 1).any()


def test_crop_flip_cutout_and_augment_draws_are_uncorrelated():
    table = np.zeros(40_000, [("height", "u4"), ("width", "u4")])
    table["height"], table["width"] = 300, 500
    for crop in ("random-resized", "multi-scale"):
        pipeline = build("multilabel", True, {**PLAIN, "crop": crop, "cutout": 0.2, "auto_augment": "trivialaugment"})
        draws = drawn_by(pipeline, table, SampleRandom(3, 0, np.arange(len(table))))
        window = np.concatenate([*draws["Crop"].values()], axis=1)  # these depend on each other
        others = [draws["Flip"]["mirror"], *draws["Cutout"]["anchor"].T, *draws["Cutout"]["fill_value"].T]
        others += [values[:, 0] for values in draws["AutoAugment"].values()]
        among = np.corrcoef(others) - np.eye(len(others))
        across = np.corrcoef(others, window.T)[: len(others), len(others) :]
        assert max(abs(among).max(), abs(across).max()) < 0.025  # five standard errors


@pytest.mark.parametrize("flip", [0.0, 0.2, 0.5, 1.0])
def test_flip_rate_matches_option(flip):
    table = np.ones(20_000, [("height", "u4"), ("width", "u4")])
    random = SampleRandom(0, 0, np.arange(len(table)))
    draws = drawn_by(build("multilabel", True, {"flip": flip}), table, random)
    assert draws["Flip"]["mirror"].mean() == pytest.approx(flip, abs=0.02)


def test_windows_do_not_depend_on_batch_size_or_options(photos):
    records = photos[0]
    whole, small = (run(records, train=True, batch_size=b, cutout=0.3, crop="multi-scale") for b in (6, 1))
    assert all(np.array_equal(whole[i], small[i]) for i in whole)
    bare = drawn(records, crop="multi-scale")
    more = drawn(records, crop="multi-scale", cutout=0.5, auto_augment="randaugment")
    assert all(np.array_equal(bare[kind][name], more[kind][name]) for kind in bare for name in bare[kind])


def test_randaugment_changes_images(photos):
    records = photos[0]
    plain = run(records, train=True, crop="none")
    augmented = run(records, train=True, crop="none", auto_augment="randaugment")
    changed = [abs(plain[i] - augmented[i]).mean() > 0.02 for i in plain]
    assert sum(changed) >= 3
    assert all(pixels.min() >= 0 and pixels.max() <= 1 for pixels in augmented.values())


def test_boxes_follow_crop_window(tmp_path):
    boxed_set(tmp_path / "boxes", 16, 160)
    checked = 0
    for crop in ("none", "multi-scale"):
        loader = build_loader(
            "multilabel",
            tmp_path / "boxes",
            batch_size=8,
            train=True,
            device="cpu",
            pipeline_options={**PLAIN, "crop": crop},
        )
        for images, targets, _ in loader:
            for image, target in zip(images, targets, strict=True):
                lit = (image[0] > 0.5).nonzero()
                if len(target["boxes"]) and len(lit) > 20:
                    found = [lit[:, 1].min(), lit[:, 0].min(), lit[:, 1].max() + 1, lit[:, 0].max() + 1]
                    assert np.abs(target["boxes"][0].numpy() - np.array(found)).max() < 2.5
                    checked += 1
    assert checked > 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "centre"}, "crop='centre': must be one of random-resized, multi-scale, none"),
        ({"normalization": "mean"}, "normalization='mean': must be one of imagenet, half, none"),
        ({"image_size": 1025}, "image_size=1025"),
        ({"cutout": 1.5}, "cutout=1.5"),
        ({"scale": (0.9, 0.7)}, "scale="),
        ({"auto_augment": "augmix"}, "auto_augment='augmix'"),
        ({"mean": (0, 0, 0)}, "has no option 'mean'"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        build("multilabel", True, options)


def test_none_value_equals_none_name():
    """`--cfg-options pipeline.crop=none` is parsed as None."""
    given, named = (build("multilabel", True, {"crop": none, "normalization": none}) for none in (None, "none"))
    assert (given.mean, given.std) == (named.mean, named.std) == ((0, 0, 0), (1, 1, 1))
    assert [type(step) for step in given.steps] == [type(step) for step in named.steps] == [Crop, Resize, Flip]


def test_jpeg_window_decoding_matches_pil(tmp_path):
    pixels = picture(150, 210)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=98, subsampling=0)
    write_set(tmp_path / "set", [(file.getvalue(), [1.0, 0.0])], task="multilabel", classes="ab")
    records = RecordSet(tmp_path / "set")
    image, draws = run(records, train=True)[0], drawn(records)
    decoded = np.asarray(Image.open(io.BytesIO(file.getvalue())))
    wanted = resized(decoded, draws["Crop"]["anchor"][0], draws["Crop"]["shape"][0], draws["Flip"]["mirror"][0])
    assert abs(image - wanted)[:, 1:-1, 1:-1].mean() * 255 < 1.0
