"""Recipes of existing runs: stored values are restored, options override them, and stored values cannot add code."""

import json
import shutil
from pathlib import Path

import pytest

import dali_mix
from dali_mix.engine.build import build_mixer
from dali_mix.engine.checkpoint.files import load_checkpoint, save_checkpoint
from dali_mix.engine.config.recipe_files import load_config
from dali_mix.engine.config.saved import load_evaluated, load_resumed
from dali_mix.engine.inference.predict import Predictor, predict
from dali_mix.models.weights.files import follow_pointer
from tests.engine.scenes import cli


def resumable(tmp_path, **changes):
    """Make a work directory with a checkpoint and a config.json with `changes`; return it."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000001.pt").touch()
    values = {
        "recipe": "quickstart",
        **load_config("quickstart", ["batch_size=32", "mixer=none"]).resolved(),
        **changes,
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    return tmp_path


def test_resume_restores_previous_options(tmp_path):
    assert load_resumed("quickstart", tmp_path / "new", ["seed=3"]).batch_size != 32
    config = load_resumed("quickstart", resumable(tmp_path), ["seed=3"])
    assert (config.batch_size, config.mixer, config.seed) == (32, None, 3)


def test_evaluation_restores_options_of_run(tmp_path):
    checkpoint = resumable(tmp_path) / "checkpoints" / "step-00000001.pt"
    config, found = load_evaluated("quickstart", checkpoint, ["val_batch_size=7"])
    assert (config.batch_size, config.val_batch_size, found) == (32, 7, tmp_path / "config.json")
    own = load_config("quickstart", []).batch_size
    for name, path in (
        ("quickstart_cifar10", checkpoint),  # another recipe
        ("quickstart", tmp_path / "weights.pt"),  # outside of the run
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
def test_resume_error_names_option_or_file(tmp_path, changes, options, message):
    with pytest.raises(ValueError, match=message):
        load_resumed("quickstart", resumable(tmp_path, **changes), options)


def test_option_replaces_invalid_stored_value(tmp_path):
    assert load_resumed("quickstart", resumable(tmp_path, epochs=0), ["epochs=2"]).epochs == 2


def test_resume_strict_is_not_restored(tmp_path):
    assert load_resumed("quickstart", resumable(tmp_path, resume_strict=False)).resume_strict


def test_resume_refuses_other_recipe_or_damaged_config(tmp_path):
    with pytest.raises(ValueError, match="uses the recipe quickstart, not quickstart_cifar10"):
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
def test_code_named_only_in_stored_config_is_refused(tmp_path, changes, option):
    """A module:name is accepted only if the recipe or an option names it. The option in the message is sufficient."""
    checkpoint = resumable(tmp_path, **changes) / "checkpoints" / "step-00000001.pt"
    with pytest.raises(ValueError, match=f"{option}=subprocess:run is code that the recipe does not name"):
        load_resumed("quickstart", tmp_path)
    with pytest.raises(ValueError, match="does not name"):
        load_evaluated("quickstart", checkpoint)
    part = option.partition(".")[0]
    assert getattr(load_resumed("quickstart", tmp_path, [f"{option}=subprocess:run"]), part) == changes[part]


def test_modules_in_work_directory_are_not_imported(tmp_path):
    (tmp_path / "foreign_code.py").write_text("raise SystemExit('ran')")
    resumable(tmp_path, mixer={"type": "foreign_code:Mine"})
    config = load_resumed("quickstart", tmp_path, ["mixer.type=foreign_code:Mine"])
    with pytest.raises(ValueError, match="No module named 'foreign_code'"):
        build_mixer(config, 10)


@pytest.mark.parametrize("text", [b"\xff\xfe{}", b"[" * 100000, b'{"a": ' * 500 + b"1" + b"}" * 500, b"[1]", b'{"a": '])
def test_damaged_config_is_named(tmp_path, text):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000001.pt").touch()
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"config\.json: damaged \(.*delete it to use the recipe's own values"):
        load_resumed("quickstart", tmp_path)


@pytest.fixture(scope="module")
def changed_run(digit_scenes):
    """Train the recipe with another image_size and head option; return the work directory."""
    options = ("epochs=1", "pipeline.image_size=(32,40)", "model.head.num_heads=2", "val_batch_size=7")
    work_dir = digit_scenes / "narrow"
    assert cli("train", digit_scenes / "recipe.py", "--work-dir", work_dir, "--cfg-options", *options) == 0
    return work_dir


def evaluation_metrics(recipe, checkpoint, out):
    assert cli("evaluate", recipe, checkpoint, "--json", out) == 0
    return {key: value for key, value in json.loads(out.read_text()).items() if key not in ("recipe", "checkpoint")}


@pytest.mark.parametrize("name", ["best.pt", "latest"])
def test_copied_checkpoint_uses_values_of_its_run(digit_scenes, changed_run, tmp_path, name, capsys, caplog):
    recipe, checkpoint = digit_scenes / "recipe.py", follow_pointer(changed_run / "checkpoints" / name)
    expected = evaluation_metrics(recipe, checkpoint, tmp_path / "there.json")
    copied = shutil.copy(checkpoint, tmp_path / "copied.pt")
    assert evaluation_metrics(recipe, copied, tmp_path / "here.json") == expected
    assert "using the run's values from " in capsys.readouterr().err
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy(recipe, tmp_path / "elsewhere")
    assert evaluation_metrics(moved, checkpoint, tmp_path / "moved.json") == expected
    config, _ = load_evaluated(str(recipe), copied, ["pipeline.image_size=(48,48)"])
    assert (config.pipeline["image_size"], config.val_batch_size) == ((48, 48), 7)
    # In Python, a recipe's path works as in the commands. A config is used as it is, with a warning.
    image = digit_scenes / "scenes" / "00.png"
    caplog.clear()
    assert Predictor(recipe, copied)([image]).scores.equal(Predictor(recipe, checkpoint)([image]).scores)
    assert not caplog.records
    predict(load_config(str(recipe), ["model.head.num_heads=2"]), copied, [image])
    assert "copied.pt is used with different values than in training" in caplog.text
    assert "pipeline.image_size=[48, 64] (the run: [32, 40])" in caplog.text and "num_heads" not in caplog.text


def test_checkpoint_with_other_recipe_uses_values_of_that_recipe(digit_scenes, changed_run, tmp_path, caplog):
    other = shutil.copy(digit_scenes / "recipe.py", tmp_path / "other.py")
    copied = Path(shutil.copy(changed_run / "checkpoints" / "best.pt", tmp_path / "copied.pt"))
    config, found = load_evaluated(str(other), copied, ["model.head.num_heads=2"])
    assert found is None and tuple(config.pipeline["image_size"]) == (48, 64)
    dali_mix.evaluate(config, copied)
    assert "pipeline.image_size=[48, 64] (the run: [32, 40])" in caplog.text


def test_code_named_in_copied_checkpoint_is_refused(digit_scenes, best, tmp_path):
    state = load_checkpoint(best)
    state["recipe"]["pipeline"] = {"type": "subprocess:run"}
    save_checkpoint(tmp_path / "copied.pt", state)
    with pytest.raises(ValueError, match=r"copied\.pt: pipeline\.type=subprocess:run is code that the recipe does not"):
        load_evaluated(str(digit_scenes / "recipe.py"), tmp_path / "copied.pt")


def test_older_copied_checkpoint_uses_recipe_values(digit_scenes, best, tmp_path, caplog):
    state = load_checkpoint(best)
    save_checkpoint(tmp_path / "old.pt", {key: state[key] for key in ("model", "classes", "task")})
    for path in (tmp_path / "old.pt", tmp_path / "not_there.pt"):
        config, found = load_evaluated(str(digit_scenes / "recipe.py"), path)
        assert found is None and config == load_config(str(digit_scenes / "recipe.py"))
    assert dali_mix.evaluate(digit_scenes / "recipe.py", tmp_path / "old.pt").values["mAP"] > 0
    assert not caplog.records
