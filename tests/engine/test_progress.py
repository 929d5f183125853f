"""The best score so far, and the boxes dropped in an epoch."""

import pytest

from dali_mix.engine.config.schema import make_config
from dali_mix.engine.run import train
from dali_mix.engine.scores import ClassificationScores
from dali_mix.engine.train.progress import Best, BoxCount
from tests.engine.synthetic import make_loaders, recipe, train_synthetic


def test_nan_score_is_never_best():
    best = Best("loss", lower_is_better=True)
    for step, value in enumerate([float("nan"), 0.5, float("nan"), 0.4, 0.6]):
        assert bool(best.update({"loss": value}, step)) == (value in (0.5, 0.4))
    assert (best.value, best.step, best.since) == (0.4, 3, 1)


@pytest.mark.parametrize(("lower", "best"), [(True, 0.2), (False, 0.5)])
def test_best_follows_direction_of_score(lower, best, monkeypatch, tmp_path):
    """The score states its direction, independent of its name. The same holds for scores of averaged weights."""
    found = Best("loss_like", lower_is_better=lower)
    for step, value in enumerate([0.3, 0.5, 0.2]):
        found.update({"loss_like": value}, step)
    assert found.value == best
    monkeypatch.setattr(ClassificationScores, "lower_is_better", ("top1",) if lower else ())
    directions = []
    noted = [lambda trainer: directions.append(trainer.best.lower_is_better)]
    train_synthetic(recipe(max_steps=1, checkpoint={"best": "ema_top1"}), tmp_path / "run", callbacks=noted)
    assert directions == [lower]


def test_best_without_evaluation_is_logged(tmp_path):
    def training_only(config, ranks):
        return make_loaders(config, ranks)[0], None

    config = make_config(recipe(val_set=None, max_steps=1, checkpoint={"best": "loss"}))
    train(config, tmp_path / "run", make_loaders=training_only)
    assert "no best.pt by loss" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.parametrize(
    ("images", "kept", "dropped", "line", "warns"),
    [
        (0, 0, 0, "", False),
        (3, 10, 0, "", False),
        (3, 9, 1, "steps and crops dropped 1 of 10 boxes (10.0%)", False),
        (3, 4, 6, "steps and crops dropped 6 of 10 boxes (60.0%)", True),
        (3, 0, 6, "no box was left to train on: steps and crops dropped all 6", True),
        (3, 0, 0, "none of the 3 images has a box", True),
    ],
)
def test_box_count_summary(images, kept, dropped, line, warns):
    said, warning = BoxCount.summary(images, kept, dropped)
    assert said.startswith(line) and bool(said) == bool(line) and warning == warns
