"""Sets of uncompressed images are read without a decoder, with the same batches and the same error checks."""

import copy
import io

import numpy as np
import pytest
from dali_mix.pipelines import Pipeline, Step
from dali_mix.pipelines.steps import CentreCrop, Crop, Flip, RandomResizedCrop, Resize
from nvidia.dali import fn, types
from PIL import Image

from dali_mix import build_loader
from dali_mix.loading.decoder import Decoder
from dali_mix.recordio import RecordSet, Sample, write_set
from tests.loading.sets import FIXED_SIZE_GRAPHS, boxed_set, encode, picture, pixels_by_id

SIZES = [(36 + 7 * number % 40, 33 + 11 * number % 50) for number in range(12)]
PIXELS = [picture(*size, seed=number) for number, size in enumerate(SIZES)]
GRAPHS = FIXED_SIZE_GRAPHS | {
    "variable size": ("detection", {"shorter": [32, 48], "longest": 64}),
    "variable size, cropped": ("detection", {"shorter": 48, "longest": 64, "zoom_out": 0.5, "iou_crop": 0.5}),
}


def ppm(pixels: np.ndarray) -> bytes:
    return encode(pixels, "PPM")


@pytest.fixture
def decoders(monkeypatch):
    """Return a list that collects, for each decoder built from now on, whether it reads uncompressed pixels."""
    made, init = [], Decoder.__init__

    def record_decoder(self, *args, **options):
        init(self, *args, **options)
        made.append(self._pipeline.takes_pixels)

    monkeypatch.setattr(Decoder, "__init__", record_decoder)
    return made


def loader(prefix, graph, train, **more):
    pipeline, options = GRAPHS[graph] if isinstance(graph, str) else (graph, None)
    return build_loader(
        pipeline, prefix, batch_size=4, train=train, device="cpu", num_threads=2, pipeline_options=options, **more
    )


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("graph", GRAPHS)
def test_raw_batches_equal_decoded_batches(tmp_path, decoders, graph, train, dtype):
    found = []
    for name, file in (("png", encode), ("raw", ppm)):
        write_set(tmp_path / name, [(file(pixels), 0) for pixels in PIXELS], classes="a")
        found.append(pixels_by_id([loader(tmp_path / name, graph, train, dtype=dtype)]))
    assert decoders == [False, True]
    assert found[0].keys() == found[1].keys() == set(range(12))
    for number, image in found[0].items():
        np.testing.assert_array_equal(found[1][number], image)


def test_raw_boxes_equal_decoded_boxes(tmp_path, decoders):
    boxed_set(tmp_path / "png", 8, 120)
    records = RecordSet(tmp_path / "png")
    samples = [(ppm(np.asarray(Image.open(io.BytesIO(records.encoded(row))))), records.label(row)) for row in range(8)]
    write_set(tmp_path / "raw", samples, task="detection", classes=("a", "b"))
    png, raw = (list(loader(tmp_path / name, "variable size, cropped", True)) for name in ("png", "raw"))
    assert decoders == [False, True] and len(png) == len(raw) == 2
    for a, b in zip(png, raw, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        for mine, other in zip(a.targets, b.targets, strict=True):
            np.testing.assert_array_equal(mine["boxes"], other["boxes"])


class Bright(Step):
    """A custom step that changes images; it must not write to the mapped file."""

    moves = False

    def graph(self, images, draws, device):
        return fn.cast(images + 1, dtype=types.UINT8)


@pytest.mark.parametrize("steps", [[Bright(), Resize(32)], [Crop(), Bright(), Resize(32), Flip()], [Resize(32)]])
def test_custom_steps_work_on_raw_pixels(tmp_path, decoders, steps):
    found = []
    for name, file in (("png", encode), ("raw", ppm)):
        write_set(tmp_path / name, [(file(pixels // 2), 0) for pixels in PIXELS], classes="a")
        pipeline = Pipeline(train=False, image_size=32, mean=(0, 0, 0), std=(1, 1, 1), steps=steps)
        found.append(pixels_by_id([loader(tmp_path / name, pipeline, False)]))
    assert decoders == [False, True]
    for number, image in found[0].items():
        np.testing.assert_array_equal(found[1][number], image)


class Decodes(RandomResizedCrop):
    def decode(self, encoded, draws, device):
        return super().decode(encoded, draws, device)


def test_custom_decode_or_draw_disables_raw_path(tmp_path, decoders):
    class Own(Pipeline):
        def graph(self, encoded, draws, device):
            return super().graph(encoded, draws, device)

    class Draws(Pipeline):
        def draw(self, rows, random):  # these draws are not checked
            return super().draw(rows, random)

    class DrawsFromBoxes(Pipeline):
        def draw_from_boxes(self, rows, random, boxes):
            return super().draw_from_boxes(rows, random, boxes)

    write_set(tmp_path / "raw", [(ppm(pixels), 0) for pixels in PIXELS], classes="a")
    steps = [RandomResizedCrop((0.3, 1), (0.8, 1.2)), Resize(32)]
    options = {"train": True, "image_size": 32, "mean": (0, 0, 0), "std": (1, 1, 1)}
    for pipeline in (
        Own(**options, steps=steps),
        Draws(**options, steps=steps),
        DrawsFromBoxes(**options, steps=steps),
        Pipeline(**options, steps=[Decodes((0.3, 1), (0.8, 1.2)), Resize(32)]),
    ):
        assert len(pixels_by_id([loader(tmp_path / "raw", pipeline, True)])) == 12
    assert decoders == [False] * 4


def test_one_encoded_image_disables_raw_path(tmp_path, decoders):
    for at in (0, 5):
        files = [ppm(pixels) for pixels in PIXELS]
        files[at] = encode(PIXELS[0])
        write_set(tmp_path / f"{at}", [(file, 0) for file in files], classes="a")
        assert not RecordSet(tmp_path / f"{at}").unencoded
        assert len(pixels_by_id([loader(tmp_path / f"{at}", "imagenet", True)])) == 12
    assert decoders == [False, False]


# name → (height, width, PNM magic number, maximum value)
KINDS = {
    "grey": (40, 50, "P5", 255),
    "tiny grey": (4, 4, "P5", 255),
    "16 bits": (40, 50, "P6", 65535),
    "16-bit grey": (40, 50, "P5", 65535),
    "all 16-bit values": (256, 256, "P5", 65535),
}


@pytest.mark.parametrize("labels", [0, 400])
@pytest.mark.parametrize("kind", KINDS)
def test_raw_grey_and_16_bit_images_equal_decoded(tmp_path, monkeypatch, kind, labels):
    height, width, letters, maximum = KINDS[kind]
    count = height * width * (3 if letters == "P6" else 1)
    values = (np.arange(count) % (maximum + 1)).astype(">u2" if maximum > 255 else "u1")
    file = f"{letters}\n{width} {height}\n{maximum}\n".encode() + values.tobytes()
    label = {"task": "multilabel", "classes": [str(number) for number in range(labels)]} if labels else {"classes": "a"}
    write_set(tmp_path / "raw", [(file, [0] * labels if labels else 0)] * 2, **label)
    steps = {"image_size": (height, width), "mean": (0, 0, 0), "std": (1, 1, 1), "steps": [Crop()]}
    found = []
    for own in (True, False):
        monkeypatch.setattr(RecordSet, "unencoded", own)
        (batch,) = loader(tmp_path / "raw", Pipeline(train=False, **steps), False, dtype="uint8")
        found.append(batch.images.numpy())
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize(("letters", "maximum", "own"), [("P5", 255, False), ("P5", 65535, True), ("P6", 255, True)])
def test_8_bit_grey_images_are_decoded_by_dali(tmp_path, decoders, letters, maximum, own):
    """DALI is faster at expanding 8-bit grey images to three channels."""
    count = 40 * 50 * (3 if letters == "P6" else 1) * (2 if maximum > 255 else 1)
    write_set(tmp_path / "raw", [(f"{letters}\n50 40\n{maximum}\n".encode() + bytes(count), 0)] * 4, classes="a")
    list(loader(tmp_path / "raw", "imagenet", True))
    assert decoders == [own]


def test_pixels_exclude_header_comments_and_trailing_bytes(tmp_path):
    pixels = picture(40, 50)
    odd = b"P6 # a comment\n50 # another\n40\n255\n" + pixels.tobytes() + b"\n\n"
    write_set(tmp_path / "raw", [(odd, [0, 1, 1])], task="multilabel", classes="abc")
    records = RecordSet(tmp_path / "raw")
    assert records.unencoded
    np.testing.assert_array_equal(records.pixels(0), pixels)
    assert not records.pixels(0).flags.writeable


# name → (file, error message); the manifest says 40×50
WRONG = {
    "wrong size": (ppm(picture(41, 50)), "the image is 41×50 pixels, the manifest says 40×50"),
    "rotated": (ppm(picture(50, 40)), "the image is 50×40 pixels, the manifest says 40×50"),
    "plain PPM": (b"P3\n50 40\n255\n" + bytes(6000), "the image is not a PNM of 8 or 16 bits"),
    "maximum 7": (b"P6\n50 40\n7\n" + bytes(6000), "the image is not a PNM of 8 or 16 bits"),
    "grey, cut short": (b"P5\n50 40\n255\n" + bytes(1999), "its image of 40×50 pixels is cut short"),
    "16 bits, cut short": (b"P6\n50 40\n65535\n" + bytes(11999), "its image of 40×50 pixels is cut short"),
    "header without numbers": (b"P6\nwide high\n" + bytes(6000), "no number after byte 2"),
    "cut short": (b"P6\n50 40\n" + b"#" * 100 + b"\n255\n" + bytes(5990), "its image of 40×50 pixels is cut short"),
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", WRONG)
def test_damaged_pnm_is_named_or_skipped(tmp_path, decoders, name, train):
    data, reason = WRONG[name]
    good = [Sample(ppm(picture(40, 50, seed=number)), 0) for number in range(9)]
    write_set(tmp_path / "raw", [*good[:6], Sample(data, 0, 40, 50, "pnm"), *good[6:]], classes="a")
    with pytest.raises(ValueError, match=rf"raw\.rec: record 6: .*{reason}"):
        list(loader(tmp_path / "raw", "imagenet", train))
    skipping = loader(tmp_path / "raw", "imagenet", train, on_bad_record="skip")
    for _ in range(2):
        ids = [number for batch in skipping for number in batch.ids.tolist()]
        assert sorted(ids) == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert [row for row, _ in skipping.skipped] == [6] and all(decoders)


class Corner(Step):
    """A step that cuts out 40 x 40 pixels; DALI fails if the image is smaller."""

    def graph(self, images, draws, device):
        return fn.slice(images, start=(0, 0), shape=(40, 40), axis_names="HW")

    def resized(self, sizes, draws):
        return np.full_like(sizes, 40)


def test_only_image_that_step_fails_on_is_skipped(tmp_path, decoders):
    files = [ppm(picture(39 if number == 3 else 41, 50, seed=number)) for number in range(8)]
    write_set(tmp_path / "raw", [(file, 0) for file in files], classes="a")
    pipeline = Pipeline(train=False, image_size=40, mean=(0, 0, 0), std=(1, 1, 1), steps=[Corner()])
    skipping = loader(tmp_path / "raw", pipeline, False, on_bad_record="skip")
    assert [number for batch in skipping for number in batch.ids.tolist()] == [0, 1, 2, 4, 5, 6, 7]
    [(row, reason)] = skipping.skipped
    assert row == 3 and "record 3: DALI fails on the image: " in reason and decoders == [True]


class Outside(Crop):
    def __init__(self, anchor, shape):
        self.window = {"anchor": anchor, "shape": shape}

    def draw(self, sizes, random):
        return {name: np.full((len(sizes), 2), value, np.int32) for name, value in self.window.items()}


@pytest.mark.parametrize("window", [((0, -1), (9, 9)), ((0, 0), (9, 999)), ((30, 0), (9, 9)), ((0, 0), (0, 9))])
@pytest.mark.parametrize("file", [encode, ppm])
def test_crop_window_outside_image_is_refused(tmp_path, file, window):
    """The crop operator does not check its window and would read beyond the image."""
    write_set(tmp_path / "set", [(file(picture(36, 40)), 0)] * 4, classes="a")
    pipeline = Pipeline(train=False, image_size=32, mean=(0, 0, 0), std=(1, 1, 1), steps=[Outside(*window), Resize(32)])
    with pytest.raises(
        ValueError, match=r"step Outside: its window of .* is not inside the image of \[36, 40\] pixels"
    ):
        list(loader(tmp_path / "set", pipeline, False))


class Outer(CentreCrop):
    def draw(self, sizes, random):
        draws = super().draw(sizes, random)
        return draws | {"anchor": draws["anchor"] + 9}


@pytest.mark.parametrize("fuse", [True, False])
def test_crop_window_outside_resized_image_is_refused(tmp_path, fuse):
    write_set(tmp_path / "set", [(encode(picture(36, 40)), 0)] * 4, classes="a")
    steps = [Outer(32, 1.2, fuse=fuse)]
    pipeline = Pipeline(train=False, image_size=32, mean=(0, 0, 0), std=(1, 1, 1), steps=steps)
    with pytest.raises(ValueError, match=r"step Outer: its window of \[32, 32\] pixels at \[12, 14\] is not inside"):
        list(loader(tmp_path / "set", pipeline, False))


def test_image_smaller_than_manifest_is_found_before_crop(tmp_path):
    """The crop operator does not check its window and would read beyond the image."""
    small = Sample(encode(picture(20, 20)), 0, 3000, 3000, "png")
    write_set(tmp_path / "set", [(encode(picture(36, 40)), 0), small], classes="a")
    pipeline = Pipeline(train=False, image_size=32, mean=(0, 0, 0), std=(1, 1, 1), steps=[Bright(), Crop(), Resize(32)])
    with pytest.raises(ValueError, match="the image is 20×20 pixels, the manifest says 3000×3000"):
        list(loader(tmp_path / "set", pipeline, False))


def test_deepcopy_yields_identical_batches(tmp_path):
    write_set(tmp_path / "raw", [(ppm(pixels), 0) for pixels in PIXELS], classes="a")
    one = loader(tmp_path / "raw", "imagenet", True)
    expected = pixels_by_id([one])
    one.set_epoch(0)
    found = pixels_by_id([copy.deepcopy(one)])
    for number, image in expected.items():
        np.testing.assert_array_equal(found[number], image)
