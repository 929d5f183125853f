"""Pipelines as lists of steps: outputs, boxes, omitted steps."""

import numpy as np
import pytest
from dali_mix.pipelines import Pipeline, SampleRandom, Step, build
from dali_mix.pipelines.detection import Detection
from dali_mix.pipelines.steps import (
    AutoAugment,
    CentreCrop,
    Color,
    Crop,
    Cutout,
    Erasing,
    Flip,
    MultiScaleCrop,
    PhotometricDistort,
    RandomResizedCrop,
    Resize,
)
from nvidia.dali import fn, types

from dali_mix import build_loader
from dali_mix.recordio import RecordSet, write_set
from tests.loading.sets import boxed_set, encode, picture, pixels_by_id

SIZE = (64, 96)
LISTS = {
    "crop, resize, flip": [RandomResizedCrop((0.3, 0.9), (0.5, 2.0)), Resize(SIZE), Flip()],
    "stock operators": [RandomResizedCrop((0.3, 0.9), (0.5, 2.0)), Resize(SIZE, fuse=False), Flip()],
    "full decoding": [RandomResizedCrop((0.3, 0.9), (0.5, 2.0), decode_window=False), Resize(SIZE), Flip()],
    "centre": [CentreCrop(SIZE, 1.3)],
    "centre, stock operators": [CentreCrop(SIZE, 1.3, "linear", "linear", True, False), Flip(1.0)],
    "flip first": [Flip(), MultiScaleCrop(), Resize(SIZE)],
    "one class twice": [Resize((120, 150)), Flip(), RandomResizedCrop((0.3, 0.9), (0.5, 2.0)), Flip(), Resize(SIZE)],
}


def pipeline(steps, **options):
    return Pipeline(**{"train": True, "image_size": SIZE, "mean": (0, 0, 0), "std": (1, 1, 1), **options}, steps=steps)


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """Write black pictures of many sizes, each with a white rectangle and its box."""
    return RecordSet(boxed_set(tmp_path_factory.mktemp("boxes") / "set", 24, 200))


@pytest.mark.parametrize("name", LISTS)
def test_boxes_stay_on_their_objects(boxes, name):
    checked = 0
    for images, targets, _ in build_loader(pipeline(LISTS[name]), boxes, batch_size=8, train=True, device="cpu"):
        assert images.shape == (8, 3, *SIZE)
        for image, target in zip(images, targets, strict=True):
            lit = (image[0] > 0.5).nonzero()
            if len(target["boxes"]) and len(lit) > 20:
                found = [lit[:, 1].min(), lit[:, 0].min(), lit[:, 1].max() + 1, lit[:, 0].max() + 1]
                assert np.abs(target["boxes"][0].numpy() - np.array(found)).max() < 2.5
                checked += 1
    assert checked > 16


@pytest.mark.parametrize("name", LISTS)
def test_crop_windows_lie_inside_input_images(boxes, name):
    one, rows = pipeline(LISTS[name]), boxes.table[:]
    draws = one.draw(rows, SampleRandom(0, 0, np.arange(len(rows))))
    for index, step in enumerate(one.steps):
        if isinstance(step, Crop):
            arrives = np.array([120, 150]) if index > 1 else np.stack([rows["height"], rows["width"]], axis=1)
            anchor, shape = draws[f"{index}.anchor"], draws[f"{index}.shape"]
            assert (anchor >= 0).all() and (shape >= 1).all() and (anchor + shape <= arrives).all()


def test_flip_before_last_step_equals_final_flip(tmp_path):
    samples = [(encode(picture(70, 90, seed)), 0) for seed in range(4)]
    write_set(tmp_path / "set", samples, classes="a")
    last, first = (
        pixels_by_id([build_loader(pipeline(steps), tmp_path / "set", batch_size=4, train=True, device="cpu")])
        for steps in ([Resize(SIZE, fuse=False), Flip(1.0)], [Resize(SIZE, fuse=False), Flip(1.0), Cutout(1e-9)])
    )
    for number, image in last.items():
        np.testing.assert_array_equal(first[number], image)


def test_inactive_steps_are_omitted():
    steps = [Color(None, 0.0), AutoAugment(None, SIZE), Erasing(0.0, (0, 0, 0)), Cutout(0.0), Resize(SIZE)]
    one = pipeline(steps)
    assert [type(step) for step in one.steps] == [Resize] and not one.conditional
    steps = [Color(0.1, 0.0), AutoAugment("randaugment", SIZE), Erasing(0.1, (0, 0, 0)), Cutout(0.1), Resize(SIZE)]
    one = pipeline(steps)
    assert one.steps == steps and one.conditional


def test_branch_draws_do_not_depend_on_other_steps():
    rows = np.full(30, 50, [("height", "u4"), ("width", "u4")])
    random = SampleRandom(0, 0, np.arange(30))
    flip = Flip()
    alone = pipeline([flip.on_branch(3), Resize(SIZE)]).draw(rows, random)
    after = pipeline([Flip(), Flip(), flip.on_branch(3), Resize(SIZE)]).draw(rows, random)
    assert np.array_equal(alone["0.mirror"], after["2.mirror"]) and flip.branch == 0
    assert (after["0.mirror"] != after["1.mirror"]).any() and (after["0.mirror"] != after["2.mirror"]).any()


def test_pipelines_without_box_support_are_refused():
    build("imagenet", False, {"auto_augment": "randaugment"}).check_boxes()
    for name in ("imagenet", "multilabel"):
        build(name, True, {"flip": 0.3}).check_boxes()
        with pytest.raises(ValueError, match="auto_augment='randaugment' would rotate and shift images but not"):
            build(name, True, {"auto_augment": "randaugment"}).check_boxes()
    with pytest.raises(ValueError, match="pipeline 'cifar' does not support boxes"):
        build("cifar", True).check_boxes()
    with pytest.raises(ValueError, match="pipeline 'cifar' does not support boxes"):
        build("cifar", True).map_boxes(np.zeros((1, 4)), {"height": 32, "width": 32}, {}, 0)

    class Own(Pipeline):
        """A pipeline without steps that maps boxes itself."""

        def map_boxes(self, boxes, row, draws, sample):
            return boxes

    Own(train=True, image_size=32, mean=(0, 0, 0), std=(1, 1, 1)).check_boxes()


@pytest.mark.parametrize(
    ("steps", "sizes"),
    [([CentreCrop(64, 1.0)], r"\[64, 64\]"), ([Crop(), Resize(96)], r"\[96, 96\]"), ([Flip()], "pixels")],
)
def test_steps_with_wrong_final_size_are_refused(boxes, steps, sizes):
    with pytest.raises(ValueError, match=rf"return images of .*{sizes}.*image_size is \[64, 96\]"):
        next(iter(build_loader(pipeline(steps), boxes, batch_size=8, train=True, device="cpu")))


class UpsideDown(Flip):
    def graph(self, images, draws, device):
        return fn.flip(images, vertical=1, horizontal=0, device=device)


class Black(Resize):
    def graph(self, images, draws, device):
        return super().graph(images, draws, device) * np.uint8(0)


class White(Crop):
    def graph(self, images, draws, device):
        return fn.cast(images, dtype=types.UINT8) * np.uint8(0) + np.uint8(255)


def test_subclassed_step_uses_its_own_graph(boxes):
    def first_of(*steps):
        return next(
            iter(build_loader(pipeline(steps, train=False), boxes, batch_size=8, train=False, device="cpu"))
        ).images

    plain = first_of(Resize(SIZE))
    assert np.allclose(first_of(Resize(SIZE), UpsideDown()), plain.flip(2), atol=1)
    assert plain.any() and not first_of(Black(SIZE)).any()
    assert (first_of(White(), Resize(SIZE)) == first_of(White(), Resize(SIZE)).max()).all()


def test_pipeline_without_active_step_is_refused():
    with pytest.raises(ValueError, match="has no active step"):
        pipeline([Cutout(0.0)]).graph(None, {}, "cpu")


@pytest.mark.parametrize("drawn", [np.zeros(3), 1, [1, 2]])
def test_draws_of_wrong_length_error_names_step(drawn):
    class Wrong(Flip):
        def draw(self, sizes, random):
            return {"turned": drawn}

    rows = np.full(10, 50, [("height", "u4"), ("width", "u4")])
    with pytest.raises(ValueError, match=r"step Wrong: draw's 'turned' has shape .* for 10 images: must be \(10, "):
        pipeline([Wrong(), Resize(SIZE)]).draw(rows, SampleRandom(0, 0, np.arange(10)))


class Still(Step):
    def graph(self, images, draws, device):
        return images


class Wrong(Still):
    def __init__(self, result):
        self.result = result

    def map_boxes(self, boxes, size, draws):
        return self.result(boxes) if len(boxes) else boxes


def detecting(step):
    return Detection(train=True, shorter=64, longest=96, steps=[step])


def test_step_without_map_boxes_is_refused():
    with pytest.raises(ValueError, match="step Still does not define how boxes move: add `map_boxes`, or, if"):
        detecting(Still()).check_boxes()
    still = Still()
    still.moves = False
    detecting(still).check_boxes()
    for step in (Color(0.1, 0.1), PhotometricDistort(0.5), Erasing(0.5, (0, 0, 0)), Cutout(0.5)):
        detecting(step).check_boxes()


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (lambda boxes: boxes[:1], r"an array of shape \(1, 4\) for 2 boxes"),
        (lambda boxes: boxes.tolist(), "a list for 2 boxes"),
        (lambda boxes: None, "a NoneType for 2 boxes"),
        (lambda boxes: boxes * np.nan, r"\[\[nan, nan, nan, nan\]\], which is not finite, for 2 boxes"),
    ],
)
def test_invalid_boxes_error_names_step(result, what):
    pipeline = detecting(Wrong(result))
    pipeline.check_boxes()
    rows = np.full(1, 64, [("height", np.int32), ("width", np.int32)])
    draws = pipeline.draw(rows, SampleRandom(0, 0, np.arange(1)))
    with pytest.raises(ValueError, match=f"step Wrong: map_boxes returned {what}: must be a finite array"):
        pipeline.map_boxes(np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5]]), rows[0], draws, 0)
