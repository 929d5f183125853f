import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from dali_mix import build_loader, pipelines
from dali_mix.recordio import write_set
from tests.loading.sets import encode, pixels_by_id, png_set

PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"
PLUGIN = '''
import numpy as np
from dali_mix.pipelines import Pipeline
from nvidia.dali import fn, types


class Squares(Pipeline):
    """A pipeline without steps that resizes images to squares and mirrors half of them."""

    name = "squares"

    def __init__(self, *, train, side=20):
        super().__init__(train=train, image_size=side, mean=(0, 0, 0), std=(1, 1, 1))

    def draw(self, rows, random):
        return {"mirror": random.integers(0, 2, 1)[:, 0].astype(np.int32)}

    def graph(self, encoded, draws, device):
        images = fn.resize(fn.decoders.image(encoded), size=self.image_size)
        return fn.crop_mirror_normalize(images, dtype=types.FLOAT, std=[255.0] * 3, mirror=draws["mirror"])


not_a_pipeline = 3
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Create an installed distribution: a module, and metadata with entry points."""
    (tmp_path / "squares_plugin.py").write_text(PLUGIN)
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "my_steps.py").write_text(next(block for block in code if "(Step)" in block))
    info = tmp_path / "squares_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: squares-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        textwrap.dedent(
            """
            [dali_mix.pipelines]
            squares = squares_plugin:Squares
            broken = no_such_module_here:Squares
            wrong = squares_plugin:not_a_pipeline
            [dali_mix.pipeline_steps]
            upside-down = my_steps:UpsideDown
            wrong = squares_plugin:Squares
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("squares_plugin", None)
    sys.modules.pop("my_steps", None)


def test_entry_point_adds_pipeline(installed):
    prefix = png_set(installed / "set", 10)
    one = build_loader(
        "squares", prefix, batch_size=4, train=True, device="cpu", num_threads=1, pipeline_options={"side": 24}
    )
    assert [tuple(batch.images.shape) for batch in one] == [(4, 3, 24, 24), (4, 3, 24, 24), (2, 3, 24, 24)]
    with pytest.raises(ValueError, match=r"has no option 'sides' \(did you mean side\?\): its options are side"):
        pipelines.build("squares", True, {"sides": 3})


def test_unloadable_plugins_are_reported(installed):
    with pytest.raises(ValueError, match=r"'broken' \(no_such_module_here:Squares\) cannot be imported"):
        pipelines.get("broken")
    with pytest.raises(ValueError, match=r"'wrong' .* is not a subclass"):
        pipelines.get("wrong")
    with pytest.raises(
        ValueError, match="of broken, cifar, detection, imagenet, multilabel, squares, wrong, your own as module:Class"
    ):
        pipelines.get("nothing")
    with pytest.raises(ValueError, match="'squares_plugin:not_a_pipeline' is not a class"):
        pipelines.get("squares_plugin:not_a_pipeline")
    assert pipelines.get("squares_plugin:Squares") is pipelines.get("squares")


def test_loader_accepts_constructed_pipeline(tmp_path):
    prefix = png_set(tmp_path / "set", 6)
    made = pipelines.build("cifar", True, {"image_size": 32})
    assert len(list(build_loader(made, prefix, batch_size=4, train=True, device="cpu"))) == 2
    with pytest.raises(ValueError, match="train=True, the loader with train=False"):
        build_loader(made, prefix, batch_size=4, train=False, device="cpu")
    with pytest.raises(ValueError, match="already constructed"):
        build_loader(made, prefix, batch_size=4, train=True, device="cpu", pipeline_options={"flip": 0})


@pytest.mark.parametrize("kind", ["upside-down", "my_steps:UpsideDown", "constructed"])
@pytest.mark.parametrize("pipeline", ["imagenet", "multilabel"])
def test_documented_step_flips_images(installed, pipeline, kind):
    """The documented step works as an entry point, as module:Class and as an object, and only flips the images."""
    prefix = png_set(installed / "set", 9)
    step = {"type": kind, "prob": 1.0}
    if kind == "constructed":
        from my_steps import UpsideDown

        step = UpsideDown(1.0)
    plain, turned = (
        pixels_by_id(
            [
                build_loader(
                    pipeline,
                    prefix,
                    batch_size=4,
                    train=True,
                    device="cpu",
                    num_threads=1,
                    pipeline_options={"image_size": 32, "fuse": False, "steps": steps},
                )
            ]
        )
        for steps in ([], [step])
    )
    for number, image in plain.items():
        np.testing.assert_array_equal(turned[number], image[:, ::-1])


def test_documented_step_moves_boxes(installed):
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[10:30, 20:60] = 255
    label = [2, 6, 0, 20 / 80, 10 / 60, 60 / 80, 30 / 60, 0]
    write_set(installed / "boxes", [(encode(pixels), label)] * 8, task="detection", classes="a")
    loader = build_loader(
        "multilabel",
        installed / "boxes",
        batch_size=8,
        train=True,
        device="cpu",
        pipeline_options={"image_size": (60, 80), "crop": "none", "steps": [{"type": "upside-down"}]},
    )
    (batch,) = loader
    tops = []
    for image, target in zip(batch.images, batch.targets, strict=True):
        lit = (image[0] > 0).nonzero()
        tops.append(int(lit[:, 0].min()))
        found = [lit[:, 1].min(), lit[:, 0].min(), lit[:, 1].max() + 1, lit[:, 0].max() + 1]
        assert target["boxes"][0].tolist() == [float(side) for side in found]
    assert set(tops) == {10, 30}


def test_added_step_does_not_change_other_draws(installed):
    rows = np.ones(50, [("height", "u4"), ("width", "u4")])

    def random():  # a fresh generator
        return pipelines.SampleRandom(1, 2, np.arange(50))

    plain = pipelines.build("imagenet", True, {"erasing": 0.5}).draw(rows, random())
    step = {"type": "upside-down"}
    more = pipelines.build("imagenet", True, {"erasing": 0.5, "steps": [step, step]}).draw(rows, random())
    own = {name for name in more if name.endswith(".turned")}
    assert own == {"3.turned", "4.turned"} and (more["3.turned"] != more["4.turned"]).any()
    assert [*plain] == ["0.anchor", "0.shape", "2.anchor", "2.shape", "3.mirror"]
    others = [values for name, values in more.items() if name not in own]
    assert all(np.array_equal(a, b) for a, b in zip(plain.values(), others, strict=True))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"type": "upside-dwn"}], r"step 'upside-dwn' is not known \(did you mean upside-down\?\): choose one of"),
        ([{"type": "upside-down", "prop": 1}], r"step 'upside-down' has no option 'prop' \(did you mean prob\?\)"),
        ([{"type": "wrong"}], r"step 'wrong' \(squares_plugin:Squares\) is not a subclass of dali_mix.pipelines.Step"),
        ([{"type": "nowhere_at_all:Step"}], "step type 'nowhere_at_all:Step' cannot be imported"),
        (["upside-down"], "steps has 'upside-down': must be steps, or dicts of a type and options"),
        ([{"prob": 1}], "steps has {'prob': 1}: must be"),
        (5, "steps has 5: must be"),
    ],
)
def test_invalid_steps_are_refused(installed, steps, message):
    for train in (True, False):
        with pytest.raises(ValueError, match=message):
            pipelines.build("imagenet", train, {"steps": steps})
