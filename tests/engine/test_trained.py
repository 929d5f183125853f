"""Models loaded from checkpoints and weight files: other classes, another task or damage are refused."""

import numpy as np
import pytest
import torch

from dali_mix.engine.checkpoint.files import load_checkpoint, save_checkpoint
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.run import evaluate_checkpoint, train
from dali_mix.engine.train.finite import NonFinite
from tests.engine.processes import newest_state
from tests.engine.scenes import DIGITS, cli, old_checkpoint
from tests.engine.synthetic import make_loaders, recipe


@pytest.mark.parametrize("cut", [1, 20, 50, 80, 120])
def test_truncated_checkpoint_is_not_read_as_plain_weights(tmp_path, cut):
    config = make_config(recipe())
    assert train(config, tmp_path / "run", make_loaders=make_loaders) == "finished"
    path = tmp_path / "run" / "checkpoints" / "best.pt"
    assert evaluate_checkpoint(config, path, make_loaders=make_loaders).values["top1"] > 0
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r"best\.pt: (cut short|damaged)|best\.pt is a damaged weight file"):
        evaluate_checkpoint(config, path, make_loaders=make_loaders)


def test_folder_as_checkpoint_is_refused_with_suggestion(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.pt").touch()
    with pytest.raises(FileNotFoundError, match=r"weight file or checkpoint in it: checkpoints/best\.pt"):
        evaluate_checkpoint(make_config(recipe()), tmp_path, make_loaders=make_loaders)


@pytest.mark.parametrize("entry", ["conv.weight", "norm.running_mean", "head.bias"])
@pytest.mark.parametrize("plain", [True, False], ids=["weights", "checkpoint"])
def test_non_finite_weights_are_not_evaluated(tmp_path, entry, plain):
    config = make_config(recipe(max_steps=1))
    train(config, tmp_path / "run", make_loaders=make_loaders)
    weights = newest_state(tmp_path / "run")["model"]
    weights[entry].view(-1)[0] = float("nan")
    torch.save(weights if plain else {"model": weights}, tmp_path / "bad.pt")
    with pytest.raises(NonFinite, match=rf"bad\.pt: {entry} contains NaN or infinity: use an earlier checkpoint"):
        evaluate_checkpoint(config, tmp_path / "bad.pt", make_loaders=make_loaders)


def test_checkpoint_stores_class_names_and_task(digit_scenes, standalone, capsys):
    recipe, checkpoint = standalone
    assert cli("predict", recipe, checkpoint, digit_scenes / "scenes" / "00.png", "--top-k", 10) == 0
    assert set(capsys.readouterr().out.split("prediction: ")[1].split("  ")[0].split(",")) == set(DIGITS)
    for name in ("best.pt", "latest"):
        folder = digit_scenes / "run" / "checkpoints"
        state = load_checkpoint(folder / (name if name == "best.pt" else (folder / name).read_text().strip()))
        assert (state["classes"], state["task"]) == (list(DIGITS), "multilabel")


def test_older_checkpoint_gets_class_names_from_set_or_file(digit_scenes, best, standalone, tmp_path, capsys):
    old, image = old_checkpoint(best, tmp_path / "old.pt"), digit_scenes / "scenes" / "00.png"
    assert (
        cli("predict", digit_scenes / "recipe.py", best, image)
        == cli("predict", digit_scenes / "recipe.py", old, image)
        == 0
    )
    one, two = capsys.readouterr().out.splitlines()
    assert one == two
    assert cli("predict", standalone[0], old, image) == 1
    assert "give the names, one per line, with --class-file FILE" in capsys.readouterr().err
    names = tmp_path / "names.txt"
    names.write_text("".join(f"digit {name}\n" for name in DIGITS))
    assert cli("predict", standalone[0], old, image, "--classes", names) == 0
    where, predicted, rest = one.partition("prediction: ")
    named, gap, scores = rest.partition("  (")
    renamed = ",".join(f"digit {name}" for name in named.split(","))
    assert named and capsys.readouterr().out.strip() == where + predicted + renamed + gap + scores
    names.write_text("one\ntwo\n")
    assert cli("predict", digit_scenes / "recipe.py", best, image, "--classes", names) == 1
    assert "2 class names for a model of 10 classes" in capsys.readouterr().err
    assert cli("predict", standalone[0], old, image, "--classes", names) == 1
    assert "for a different model from the recipe's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("classes", "said"),
    [(DIGITS[::-1], ": class 0 is '0', not '9'"), (DIGITS[:-1], "has 9 classes, not the 10")],
)
def test_evaluation_with_other_class_order_or_count_is_refused(digit_scenes, best, tmp_path, capsys, classes, said):
    save_checkpoint(tmp_path / "other.pt", {**load_checkpoint(best), "classes": list(classes)})
    assert cli("evaluate", digit_scenes / "recipe.py", tmp_path / "other.pt") == 1
    found = capsys.readouterr()
    assert "other.pt has" in found.err and said in found.err
    assert "mAP" not in found.out


def test_resume_from_older_checkpoint_saves_class_names(digit_scenes, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    before = digit_scenes / "run" / "checkpoints"
    name = (before / "latest").read_text().strip()
    old_checkpoint(before / name, checkpoints / name)
    (checkpoints / "latest").write_text(name + "\n")
    more = ["--resume", "--cfg-options", "epochs=3"]
    assert cli("train", digit_scenes / "recipe.py", "--work-dir", tmp_path / "run", *more) == 0
    assert load_checkpoint(checkpoints / (checkpoints / "latest").read_text().strip())["classes"] == list(DIGITS)


def test_evaluation_on_other_classes_is_refused(digit_scenes, best, tmp_path, capsys):
    lines = ["\t".join([f"{row:02d}.png", *map(str, np.eye(10, dtype=int)[row])]) + "\n" for row in range(10)]
    (tmp_path / "list.txt").write_text("".join(lines))
    (tmp_path / "names.txt").write_text("\n".join((*DIGITS[:9], "ten")))
    pack = ["pack", "list", "--root", digit_scenes / "scenes", "--list", tmp_path / "list.txt", "--task", "multilabel"]
    assert cli(*pack, "--classes", tmp_path / "names.txt", "--out", tmp_path / "other") == 0
    capsys.readouterr()
    assert cli("evaluate", digit_scenes / "recipe.py", best, "--cfg-options", f"val_set={tmp_path / 'other'}") == 1
    said = capsys.readouterr().err
    assert f"of val_set {tmp_path / 'other'}: class 9 is 'ten', not '9'" in said


def test_evaluation_on_another_task_is_refused(digit_scenes, best, tmp_path, capsys):
    assert cli("pack", "digits", "--split", "val", "--out", tmp_path / "digits", "--quiet") == 0
    capsys.readouterr()
    assert cli("evaluate", digit_scenes / "recipe.py", best, "--cfg-options", f"val_set={tmp_path / 'digits'}") == 1
    assert (
        f"trained on a multilabel set, but val_set {tmp_path / 'digits'} is a set for class" in capsys.readouterr().err
    )
