"""The command and the versions that a run records."""

import json

from tests.engine.synthetic import recipe, train_synthetic


def test_run_records_command_and_versions(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["dali-mix", "train", "my recipe.py"])
    train_synthetic(recipe(max_steps=1), tmp_path / "run")
    made = json.loads((tmp_path / "run" / "config.json").read_text())["made_by"]
    assert made["command"] == "dali-mix train 'my recipe.py'"
    assert {"dali_mix", "python", "torch"} <= made["versions"].keys()
    log = (tmp_path / "run" / "train.log").read_text()
    assert f"torch {made['versions']['torch']}" in log and "; dali-mix train 'my recipe.py'" in log
