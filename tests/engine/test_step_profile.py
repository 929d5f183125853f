"""`profile` in a recipe: some steps are measured part by part and traced; the run itself is unchanged."""

import json

import pytest
import torch

from dali_mix.cli.main import main
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.train.step_profile import PARTS
from tests.engine.processes import newest_state, output_of, run
from tests.engine.synthetic import recipe, train_synthetic
from tests.engine.test_trainer import stop_at


def read_profile(folder):
    return json.loads((folder / "profile" / "profile.json").read_text())


def test_profile_measures_steps_without_changing_run(tmp_path, capsys):
    values = recipe(checkpoint={"interval_steps": 2}, evaluate_epochs=1)
    train_synthetic(values, tmp_path / "plain")
    train_synthetic({**values, "profile": {"first": 2, "last": 9}}, tmp_path / "run")
    found = read_profile(tmp_path / "run")
    assert found["what"] == "steps 2 to 9, on cpu"
    assert list(found["milliseconds"]) == list(PARTS)
    assert min(found["milliseconds"].values()) > 0
    total = sum(found["milliseconds"].values())
    images = 7 * 9 + 4  # 40 records per epoch, so one step has only 4
    assert found["images_per_second"] == pytest.approx(1000 * images / 8 / total)
    trace = json.loads((tmp_path / "run" / "profile" / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in trace if event.get("cat") == "user_annotation"]
    assert [names.count(part) for part in ("mixing", "forward", "backward", "step")] == [8] * 4
    assert "profile of steps 2 to 9" in (tmp_path / "run" / "train.log").read_text()
    for name, value in newest_state(tmp_path / "plain")["model"].items():
        assert torch.equal(value, newest_state(tmp_path / "run")["model"][name]), name
    assert "profile" not in json.loads((tmp_path / "run" / "config.json").read_text())
    capsys.readouterr()
    assert main(["profile", str(tmp_path / "run"), "--out", str(tmp_path / "run.png")]) == 0
    assert f"limited by {found['limit']}" in capsys.readouterr().out
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_profile_of_run_that_ends_early(tmp_path):
    train_synthetic(recipe(max_steps=3, profile={"first": 2, "last": 100}), tmp_path / "run")
    assert read_profile(tmp_path / "run")["what"].startswith("steps 2 to 3")
    with pytest.raises(KeyboardInterrupt):
        train_synthetic(recipe(profile={"first": 2, "last": 9}), tmp_path / "broken", callbacks=[stop_at(4)])
    assert read_profile(tmp_path / "broken")["what"].startswith("steps 2 to ")
    train_synthetic(recipe(max_steps=3, profile={}), tmp_path / "short")
    assert not (tmp_path / "short" / "profile").exists()


def test_profile_counts_steps_from_process_start(tmp_path):
    values = recipe(checkpoint={"interval_steps": 1})
    with pytest.raises(KeyboardInterrupt):
        train_synthetic(values, tmp_path / "run", callbacks=[stop_at(5)])
    train_synthetic({**values, "profile": {"first": 2, "last": 3}}, tmp_path / "run", resume="must")
    assert read_profile(tmp_path / "run")["what"] == "steps 2 to 3, on cpu"


def test_profile_on_two_ranks_with_accumulation(tmp_path):
    values = recipe(batch_size=8, accumulate=2, profile={"first": 1, "last": 4})
    assert run(values, tmp_path / "run", ranks=2) == [0, 0], output_of(tmp_path / "run")
    assert read_profile(tmp_path / "run")["what"].startswith("steps 1 to 4")


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"first": 5, "last": 4}, "profile.last=4 is before profile.first=5"),
        ({"first": 0}, "profile.first=0"),
        ({"steps": 3}, "profile: unknown"),
        (True, "profile must be a dict"),
    ],
)
def test_invalid_profile_is_refused(profile, message):
    with pytest.raises(ValueError, match=message):
        make_config(recipe(profile=profile))
