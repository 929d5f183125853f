import sys
import textwrap

import pytest

from dali_mix import build_loader, pipelines
from tests.loading.sets import png_set

PLUGIN = '''
import numpy as np
from dali_mix.pipelines import Pipeline
from nvidia.dali import fn, types


class Squares(Pipeline):
    """A graph that is no list of steps: everything resized to a square, half of it mirrored."""

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
    """A distribution as pip leaves it: a module, and metadata with entry points."""
    (tmp_path / "squares_plugin.py").write_text(PLUGIN)
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
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("squares_plugin", None)


def test_an_installed_package_adds_a_pipeline(installed):
    prefix = png_set(installed / "set", 10)
    one = build_loader(
        "squares", prefix, batch_size=4, train=True, device="cpu", num_threads=1, pipeline_options={"side": 24}
    )
    assert [tuple(batch.images.shape) for batch in one] == [(4, 3, 24, 24), (4, 3, 24, 24), (2, 3, 24, 24)]
    with pytest.raises(ValueError, match=r"has no option 'sides' \(did you mean side\?\): it knows side"):
        pipelines.build("squares", True, {"sides": 3})


def test_what_does_not_load_is_said(installed):
    with pytest.raises(ValueError, match=r"'broken' \(no_such_module_here:Squares\) does not load"):
        pipelines.get("broken")
    with pytest.raises(ValueError, match=r"'wrong' .* is not a subclass"):
        pipelines.get("wrong")
    with pytest.raises(ValueError, match="choose one of broken, cifar, imagenet, multilabel, squares, wrong"):
        pipelines.get("nothing")


def test_a_constructed_pipeline_is_taken(tmp_path):
    prefix = png_set(tmp_path / "set", 6)
    made = pipelines.build("cifar", True, {"image_size": 32})
    assert len(list(build_loader(made, prefix, batch_size=4, train=True, device="cpu"))) == 2
    with pytest.raises(ValueError, match="train=True, the loader with train=False"):
        build_loader(made, prefix, batch_size=4, train=False, device="cpu")
    with pytest.raises(ValueError, match="constructed already"):
        build_loader(made, prefix, batch_size=4, train=True, device="cpu", pipeline_options={"flip": 0})
