"""Packed digit scenes and a run on them, shared by the tests in this folder."""

import pytest

from dali_mix.recordio import RecordSet
from tests.engine.scenes import CSRA, RECIPE, cli, pack_scenes
from tests.engine.sets import pack_digits


@pytest.fixture(scope="session")
def scene_sets(tmp_path_factory):
    """Return {"train_set", "val_set": prefixes of packed digit scenes, "digits": prefix of a classification set}."""
    folder = tmp_path_factory.mktemp("scenes")
    pack_scenes(folder, train=160, val=60)
    return {"train_set": str(folder / "train"), "val_set": str(folder / "val"), "digits": pack_digits(folder, 40)[0]}


@pytest.fixture(scope="session")
def digit_scenes(tmp_path_factory):
    """Train on packed scenes; return the folder with the sets, recipe.py, run/ and the validation images in scenes/."""
    folder = tmp_path_factory.mktemp("multilabel")
    pack_scenes(folder, train=100, val=30)
    (folder / "recipe.py").write_text(RECIPE.format(folder=folder, head=CSRA))
    assert cli("train", folder / "recipe.py", "--work-dir", folder / "run") == 0
    records = RecordSet(folder / "val")
    (folder / "scenes").mkdir()
    for row in range(len(records)):
        (folder / "scenes" / f"{row:02d}.png").write_bytes(records.encoded(row).tobytes())
    return folder


@pytest.fixture(scope="session")
def best(digit_scenes):
    """Return the path of the best checkpoint of the run in `digit_scenes`."""
    return digit_scenes / "run" / "checkpoints" / "best.pt"


@pytest.fixture(scope="session")
def standalone(digit_scenes):
    """Return the paths of a recipe and a checkpoint outside of any run. The sets that the recipe names do not exist."""
    away = digit_scenes / "away"
    away.mkdir()
    (away / "recipe.py").write_text(RECIPE.format(folder="/nowhere", head=CSRA))
    (away / "best.pt").write_bytes((digit_scenes / "run" / "checkpoints" / "best.pt").read_bytes())
    return away / "recipe.py", away / "best.pt"
