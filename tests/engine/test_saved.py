"""Recipes of existing runs: their values come back, changed by new options, and name no code of their own."""

import json

import pytest

from dali_mix.engine.build import build_mixer
from dali_mix.engine.config.recipe_files import load_config
from dali_mix.engine.config.saved import load_evaluated, load_resumed


def resumable(tmp_path, **changes):
    """A work directory with a checkpoint, and a config.json changed in places."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000001.pt").touch()
    values = {
        "recipe": "quickstart",
        **load_config("quickstart", ["batch_size=32", "mixer=none"]).resolved(),
        **changes,
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    return tmp_path


def test_resume_takes_the_options_given_before(tmp_path):
    assert load_resumed("quickstart", tmp_path / "new", ["seed=3"]).batch_size != 32
    config = load_resumed("quickstart", resumable(tmp_path), ["seed=3"])
    assert (config.batch_size, config.mixer, config.seed) == (32, None, 3)


def test_evaluation_takes_the_options_a_run_had(tmp_path):
    checkpoint = resumable(tmp_path) / "checkpoints" / "step-00000001.pt"
    config, found = load_evaluated("quickstart", checkpoint, ["val_batch_size=7"])
    assert (config.batch_size, config.val_batch_size, found) == (32, 7, tmp_path / "config.json")
    own = load_config("quickstart", []).batch_size
    for name, path in (
        ("quickstart_cifar10", checkpoint),  # another recipe's
        ("quickstart", tmp_path / "weights.pt"),  # not in a run
    ):
        config, found = load_evaluated(name, path)
        assert found is None and (name != "quickstart" or config.batch_size == own)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, ["epochs=0"], "quickstart: epochs=0"),
        ({}, ["epocs=3"], "quickstart: unknown key 'epocs'"),
        ({"epochs": 0}, [], r"config\.json: epochs=0"),
        ({"epochs": 0}, ["seed=-1"], r"config\.json: epochs=0"),
    ],
)
def test_resume_blames_the_option_or_the_file(tmp_path, changes, options, message):
    with pytest.raises(ValueError, match=message):
        load_resumed("quickstart", resumable(tmp_path, **changes), options)


def test_resume_takes_an_option_in_place_of_a_wrong_value(tmp_path):
    assert load_resumed("quickstart", resumable(tmp_path, epochs=0), ["epochs=2"]).epochs == 2


def test_resume_strict_is_asked_for_each_time(tmp_path):
    assert load_resumed("quickstart", resumable(tmp_path, resume_strict=False)).resume_strict


def test_resume_of_another_recipe_or_of_a_damaged_config(tmp_path):
    with pytest.raises(ValueError, match="of the recipe quickstart, not quickstart_cifar10"):
        load_resumed("quickstart_cifar10", resumable(tmp_path))
    (tmp_path / "config.json").write_text('{"batch_')
    with pytest.raises(ValueError, match=r"config\.json: damaged"):
        load_resumed("quickstart", tmp_path)


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"model": {"type": "subprocess:run"}}, "model.type"),
        ({"mixer": {"type": "subprocess:run"}}, "mixer.type"),
        ({"loss": {"type": "subprocess:run"}}, "loss.type"),
        (
            {"mixer": {"type": "MixChoice", "mixers": [{"type": "subprocess:run"}], "probs": [0.5]}},
            "mixer.mixers.0.type",
        ),
        ({"model": {"type": "multilabel", "backbone": {"type": "subprocess:run"}}}, "model.backbone.type"),
        ({"model": {"type": "wrn-16-1", "inner": [[{"type": "subprocess:run"}]]}}, "model.inner.0.0.type"),
        ({"pipeline": {"type": "subprocess:run"}}, "pipeline.type"),
        ({"train_pipeline": {"steps": [{"type": "subprocess:run"}]}}, "train_pipeline.steps.0.type"),
    ],
)
def test_resume_runs_no_code_the_work_directory_names(tmp_path, changes, option):
    """A module:name counts only where the recipe or an option names it; the option that the message names is enough."""
    checkpoint = resumable(tmp_path, **changes) / "checkpoints" / "step-00000001.pt"
    with pytest.raises(ValueError, match=f"{option}=subprocess:run is code the recipe does not name"):
        load_resumed("quickstart", tmp_path)
    with pytest.raises(ValueError, match="does not name"):
        load_evaluated("quickstart", checkpoint)
    part = option.partition(".")[0]
    assert getattr(load_resumed("quickstart", tmp_path, [f"{option}=subprocess:run"]), part) == changes[part]


def test_resume_finds_no_module_in_the_work_directory(tmp_path):
    (tmp_path / "foreign_code.py").write_text("raise SystemExit('ran')")
    resumable(tmp_path, mixer={"type": "foreign_code:Mine"})
    config = load_resumed("quickstart", tmp_path, ["mixer.type=foreign_code:Mine"])
    with pytest.raises(ValueError, match="No module named 'foreign_code'"):
        build_mixer(config, 10)


@pytest.mark.parametrize("text", [b"\xff\xfe{}", b"[" * 100000, b'{"a": ' * 500 + b"1" + b"}" * 500, b"[1]", b'{"a": '])
def test_a_damaged_config_is_named(tmp_path, text):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000001.pt").touch()
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"config\.json: damaged \(.*with it deleted, the recipe's own values count"):
        load_resumed("quickstart", tmp_path)
