"""What made a run."""

import json

from dali_mix.engine.config.schema import make_config
from dali_mix.engine.run import train
from tests.engine.synthetic import make_loaders, recipe


def test_a_run_says_what_made_it(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["dali-mix", "train", "my recipe.py"])
    train(make_config(recipe(max_steps=1)), tmp_path / "run", make_loaders=make_loaders)
    made = json.loads((tmp_path / "run" / "config.json").read_text())["made_by"]
    assert made["command"] == "dali-mix train 'my recipe.py'"
    assert {"dali_mix", "python", "torch"} <= made["versions"].keys()
    log = (tmp_path / "run" / "train.log").read_text()
    assert f"torch {made['versions']['torch']}" in log and "; dali-mix train 'my recipe.py'" in log
