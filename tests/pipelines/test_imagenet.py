import io

import numpy as np
import pytest
import torch
from dali_mix.pipelines import SampleRandom, build
from dali_mix.pipelines.imagenet import ImageNet
from dali_mix.pipelines.steps.auto_augment import AutoAugment
from nvidia.dali import fn, pipeline_def
from nvidia.dali.auto_aug.core import signed_bin
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode, v2

from dali_mix import build_loader
from dali_mix.recordio import RecordSet, write_set
from tests.loading.sets import encode, picture, pixels_by_id
from tests.pipelines.draws import drawn_by

UNIT = {"mean": (0, 0, 0), "std": (1, 1, 1)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Write parts of two photographs as PNGs. Windows of a PNG are exact, so only resizing is compared."""
    china, flower = load_sample_images().images
    parts = [china, flower, china[:300, 200:420], flower[100:260, :500], china[200:, :150], flower[50:110, 100:171]]
    prefix = tmp_path_factory.mktemp("photos") / "set"
    write_set(prefix, [(encode(np.ascontiguousarray(part)), 0) for part in parts], classes="a")
    return RecordSet(prefix), parts


def run(records, *, train, epoch=0, **options):
    one = build_loader(
        "imagenet",
        records,
        batch_size=4,
        train=train,
        device="cpu",
        num_threads=1,
        pipeline_options={**UNIT, **options},
    )
    one.set_epoch(epoch)
    return pixels_by_id([one])


def drawn(records, epoch=0, **options):
    pipeline = build("imagenet", True, options)
    return drawn_by(pipeline, records.table[:], SampleRandom(0, epoch, np.arange(len(records))))


def grey_levels(ours, theirs):
    return abs(255 * ours - np.asarray(theirs, dtype=np.float32))


@pytest.mark.parametrize("size", [224, 64, (48, 80)])
def test_training_matches_torchvision_and_pil(photos, size):
    records, parts = photos
    for epoch in range(2):
        images, draws = run(records, train=True, epoch=epoch, image_size=size, preset="parity"), drawn(records, epoch)
        for i, part in enumerate(parts):
            (top, left), (height, width) = draws["Crop"]["anchor"][i], draws["Crop"]["shape"][i]
            goal = list(images[i].shape[1:])
            whole = torch.from_numpy(part.copy()).permute(2, 0, 1)
            theirs = v2.functional.resized_crop(
                whole, top, left, height, width, goal, InterpolationMode.BILINEAR, antialias=True
            )
            crop = Image.fromarray(part[top : top + height, left : left + width])
            pil = np.asarray(crop.resize(goal[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)
            for reference in (theirs.numpy(), pil):
                reference = reference[:, :, ::-1] if draws["Flip"]["mirror"][i] else reference
                difference = grey_levels(images[i], reference)
                assert difference[:, 1:-1, 1:-1].max() <= 1.01 and difference.mean() < 0.25
                # DALI repeats the edge and PIL uses fewer pixels at the border, so the outermost lines differ
                assert difference.max() < 32


def test_evaluation_matches_torchvision(photos):
    records, parts = photos
    images = run(records, train=False, image_size=224, preset="parity")
    transform = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    for i, part in enumerate(parts):
        theirs = transform(torch.from_numpy(part.copy()).permute(2, 0, 1)).numpy()
        difference = grey_levels(images[i], theirs)
        assert difference.max() <= 1.01 and difference.mean() < 0.25


def test_window_decoding_matches_full_decoding(tmp_path):
    """By default only the window of a JPEG is decoded, and the preset `parity` crops the complete image.

    They agree except for rounding at the border of the window.
    """
    china = load_sample_images().images[0]
    write_set(tmp_path / "jpeg", [(encode(china, "JPEG", quality=95), 0)] * 1, classes="a")
    records = RecordSet(tmp_path / "jpeg")
    for epoch in range(4):
        window = run(records, train=True, epoch=epoch, fuse=False)[0]
        whole = run(records, train=True, epoch=epoch, preset="parity")[0]
        assert 255 * abs(window - whole).mean() < 0.5


def test_filter_options_change_expected_images(photos):
    records, _ = photos
    plain, mixed = (
        run(records, train=True, image_size=128, fuse=False),
        run(records, train=True, image_size=128, preset="resizemix"),
    )
    shape = drawn(records, image_size=128)["Crop"]["shape"]
    grown, shrunk = [i for i in range(6) if (shape[i] < 128).all()], [i for i in range(6) if (shape[i] > 128).all()]
    assert grown and shrunk
    assert all(255 * abs(plain[i] - mixed[i]).max() > 1.5 for i in grown)  # Lanczos3 and linear differ
    assert all(255 * abs(plain[i] - mixed[i]).max() <= 1.01 for i in shrunk)  # triangular equals antialiased linear
    for name in ("nearest", "cubic", "lanczos3"):
        other = run(records, train=True, image_size=128, min_filter=name, mag_filter=name)
        assert any((other[i] != plain[i]).any() for i in range(6))
    sharp = run(records, train=True, image_size=128, antialias=False, fuse=False)
    assert all((sharp[i] != plain[i]).any() for i in shrunk)


def test_normalization_uses_mean_and_std(photos):
    records, _ = photos
    plain, normal = run(records, train=True), run(records, train=True, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2))
    mean, std = np.array([0.1, 0.2, 0.3])[:, None, None], np.array([0.5, 0.25, 2])[:, None, None]
    for i, image in plain.items():
        assert abs((image - mean) / std - normal[i]).max() < 1e-5


def test_color_is_applied_as_drawn(photos):
    records, _ = photos
    options = {"color_jitter": (0.4, 0.4, 0.4, 0.1), "pca_lighting": 0.1}
    before, after = run(records, train=True, fuse=False), run(records, train=True, **options)
    draws = drawn(records, **options)["Color"]
    for i in range(6):
        pixels = before[i].transpose(1, 2, 0) * 255
        shift = draws["mean"][i] @ pixels.mean(axis=(0, 1)) + draws["offset"][i]
        expected = np.clip(pixels @ draws["matrix"][i].T + shift, 0, 255)
        assert abs(255 * after[i].transpose(1, 2, 0) - expected).max() <= 0.6


def test_erasing_fills_drawn_window_with_mean(photos):
    records, _ = photos
    before, after = run(records, train=True, fuse=False, flip=0.0), run(records, train=True, erasing=1.0, flip=0.0)
    draws = drawn(records, erasing=1.0, flip=0.0)["Erasing"]
    for i in range(6):
        (top, left), (height, width) = draws["anchor"][i].astype(int), draws["shape"][i].astype(int)
        expected = before[i].copy()
        expected[:, top : top + height, left : left + width] = 0
        assert abs(after[i] - expected).max() < 1e-5
        assert 0.01 < height * width / 224**2 < 0.34
    half = drawn(records, erasing=0.5)["Erasing"]["shape"]
    assert half.shape == (6, 2) and 0 < half.any(axis=1).sum() < 6


@pytest.mark.parametrize("kind", ["randaugment", "trivialaugment", "autoaugment"])
def test_auto_augment_depends_only_on_draws(photos, kind):
    records, _ = photos
    options = {"image_size": 64, "auto_augment": kind}
    plain = run(records, train=True, image_size=64, fuse=False)
    first, again = run(records, train=True, **options), run(records, train=True, **options)
    draws = AutoAugment(kind, (64, 64)).draw(np.zeros((6, 2)), SampleRandom(0, 0, np.arange(6)).branch(2))
    operations = AutoAugment(kind, (64, 64)).operations
    for i in range(6):
        assert np.array_equal(first[i], again[i])
        names = {operations[number].name for number in draws["operation"][i]}
        if names == {"identity"}:
            assert abs(255 * (first[i] - plain[i])).max() < 1e-3
    assert any(abs(255 * (first[i] - plain[i])).mean() > 2 for i in range(6))


@pytest.mark.filterwarnings("ignore:.*nvidia.dali.fn.experimental:DeprecationWarning")  # raised within DALI
@pytest.mark.parametrize("kind", ["randaugment", "trivialaugment", "autoaugment"])
def test_auto_augment_applies_drawn_operation_and_strength(kind):
    """A batch with different draws equals each operation applied alone, for every operation and both signs."""
    augment = AutoAugment(kind, (40, 52), count=1)
    count, image = len(augment.operations), picture(40, 52, 5)
    operation, level = np.repeat(np.arange(count), 2), np.arange(2 * count) * 7 % augment.bins
    sign = np.tile([0, 1], count)
    drawn = {"operation": operation, "bin": level, "sign": sign}
    drawn = {name: np.stack([array] * augment.count, axis=1).astype(np.int32) for name, array in drawn.items()}
    drawn["operation"][:, 1:] = count - 1  # AutoAugment's second step is the identity

    def feed(array, layout=None):
        return fn.external_source(source=lambda: [np.array(row) for row in array], batch=True, layout=layout)

    @pipeline_def(batch_size=2 * count, num_threads=1, device_id=None, enable_conditionals=True)
    def chosen():
        return augment.graph(
            feed([image] * 2 * count, "HWC"), {name: feed(array) for name, array in drawn.items()}, "cpu"
        )

    @pipeline_def(batch_size=2 * count, num_threads=1, device_id=None)
    def each_alone():
        images, levels, signs = (
            feed([image] * 2 * count, "HWC"),
            feed(level.astype(np.int32)),
            feed(sign.astype(np.int32)),
        )
        magnitude = signed_bin(levels, signs)
        fixed = {"magnitude_bin": magnitude, "num_magnitude_bins": augment.bins, "fill_value": 128}
        return tuple(single(images, **fixed) for single in augment.operations)

    def output(made):
        made.build()
        return [[np.asarray(one) for one in out] for out in made.run()]

    (found,) = output(chosen())
    alone = output(each_alone())
    assert sum(not np.array_equal(one, image) for one in found) > count  # most operations change the image
    for place, one in enumerate(found):
        assert np.array_equal(one, alone[operation[place]][place]), augment.operations[operation[place]].name


def test_auto_augment_draws_follow_policies():
    def drawn(augment):
        return augment.draw(np.zeros((20_000, 2)), SampleRandom(0, 0, np.arange(20_000)))

    rand = drawn(AutoAugment("randaugment", (224, 224), 3, 7))
    assert rand["operation"].shape == (20_000, 3) and set(rand["bin"].ravel()) == {7}
    assert set(rand["operation"].ravel()) == set(range(14)) and abs(rand["sign"].mean() - 0.5) < 0.02
    trivial = drawn(AutoAugment("trivialaugment", (224, 224)))
    assert trivial["operation"].shape == (20_000, 1) and set(trivial["bin"].ravel()) == set(range(31))
    auto = AutoAugment("autoaugment", (224, 224))
    chosen = drawn(auto)["operation"]
    identity = len(auto.operations) - 1
    # two of the 25 sub-policies have a single step; the probabilities of the others are in the paper's table
    expected = (auto._policy[:, :, 1] * (auto._policy[:, :, 0] != identity)).mean(axis=0)
    assert np.allclose((chosen != identity).mean(axis=0), expected, atol=0.015)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("image_size", 16),
        ("image_size", 513),
        ("image_size", (224, 224, 3)),
        ("image_size", 224.0),
        ("image_size", "224"),
        ("image_size", True),
        ("scale", 0.5),
        ("scale", "ab"),
        ("ratio", (None, 1)),
        ("mean", 0.5),
        ("std", (1, "1", 1)),
        ("scale", (0.5, 0.2)),
        ("ratio", (0.0, 1.0)),
        ("flip", 1.5),
        ("crop_ratio", 0.5),
        ("preset", "fast"),
        ("min_filter", "bilinear"),
        ("mag_filter", "sinc"),
        ("auto_augment", "fastaugment"),
        ("erasing", -0.1),
        ("mean", (1, 2)),
        ("std", (1, 0, 1)),
    ],
)
def test_invalid_options_are_refused(option, value):
    with pytest.raises(ValueError, match=option):
        ImageNet(train=True, **{option: value})


@pytest.mark.parametrize(("count", "magnitude"), [(0, 9), (2, 31), (True, 9), (2, -1)])
def test_invalid_augment_strength_is_refused(count, magnitude):
    with pytest.raises(ValueError, match="augment_"):
        ImageNet(train=True, auto_augment="randaugment", augment_count=count, augment_magnitude=magnitude)


@pytest.mark.parametrize("size", [32, 512, (96, 160)])
@pytest.mark.parametrize("train", [True, False])
def test_images_have_requested_size(photos, size, train):
    records, _ = photos
    shape = (size, size) if isinstance(size, int) else size
    images = run(records, train=train, image_size=size)
    assert all(image.shape == (3, *shape) and 0 <= image.min() < image.max() <= 1 for image in images.values())


@pytest.mark.gpu
def test_gpu_matches_cpu(photos):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    records, _ = photos
    for train in (True, False):
        options = {**UNIT, "color_jitter": 0.4, "erasing": 0.5}
        one = build_loader("imagenet", records, batch_size=4, train=train, device="cuda", pipeline_options=options)
        here = run(records, train=train, color_jitter=0.4, erasing=0.5)
        for images, _, ids in one:
            assert images.is_cuda and images.is_contiguous(memory_format=torch.channels_last)
            for image, i in zip(images.cpu().numpy(), ids.tolist(), strict=True):
                assert 255 * abs(image - here[i]).mean() < 3  # resizing differs slightly, PNG decoding does not


def test_decoded_jpeg_is_close_to_pil(tmp_path):
    """Without resizing, decoded JPEGs are within a few grey levels of PIL's and nearly identical on average."""
    flower = load_sample_images().images[1][:224, :224]
    encoded = encode(np.ascontiguousarray(flower), "JPEG", quality=90)
    write_set(tmp_path / "one", [(encoded, 0)], classes="a")
    image = run(RecordSet(tmp_path / "one"), train=False, crop_ratio=1.0)[0]
    reference = np.asarray(Image.open(io.BytesIO(encoded))).transpose(2, 0, 1)
    difference = grey_levels(image, reference)
    assert difference.max() <= 4.01 and difference.mean() < 0.3
