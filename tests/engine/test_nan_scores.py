"""Scores that are NaN or all the same: an error, nan, or what guessing gives; never a plausible figure."""

import json

import pytest
import torch

from dali_mix.engine.checkpoint.files import json_text
from dali_mix.engine.config.schema import make_config
from dali_mix.engine.evaluate import NonFiniteScores
from dali_mix.engine.run import evaluate_checkpoint, train
from dali_mix.engine.train.finite import NonFinite
from dali_mix.reports import curves
from tests.engine.processes import newest_state, run, said
from tests.engine.synthetic import SyntheticLoader, make_loaders, recipe


def scoring(how, **changes):
    return recipe(model={"type": "tests.engine.broken:Scoring", "how": how}, mixer=None, **changes)


def several(**changes):
    """The same over made-up images with several labels."""
    pipeline, loss = {"type": "multilabel", "image_size": 8}, {"type": "BinaryCrossEntropy"}
    return {**changes, "pipeline": pipeline, "loss": loss}


def strict(text):
    """A record of strict JSON."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def bright():
    """Records of the evaluation set that `Scoring` gives NaN for."""
    batches = list(SyntheticLoader(22, 22, train=False))
    found = [number for number, image in zip(batches[0].ids.tolist(), batches[0].images, strict=True)
             if image.mean() > 0.25]  # fmt: skip
    assert 5 < len(found) < 22
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_training_goes_on_without_a_best_and_says_why(tmp_path, ranks):
    values = scoring("nan", batch_size=8, early_stopping={"patience": 2}, epochs=9)
    assert run(values, tmp_path / "run", ranks=ranks) == [0] * ranks, said(tmp_path / "run")
    found = bright()
    text = said(tmp_path / "run")
    assert f"step 5: the model gives NaN for {len(found)} records, among them {found[:5]}" in text
    assert "step 5, averaged weights: the model gives NaN" in text
    assert "stopped early: step 10, no best.pt (top1 was NaN in all 2 evaluations)" in text
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    lines = [strict(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line["kind"] == "val"]
    assert [line["step"] for line in validations] == [5, 10]
    assert all(line[key] is None for line in validations for key in ("top1", "top5", "loss", "ema_top1", "ema_loss"))
    assert curves(tmp_path / "run", tmp_path / "curves.png").is_file()
    assert (
        run({**values, "early_stopping": {"patience": 3}}, tmp_path / "run", ranks=ranks, resume="must") == [0] * ranks
    )


@pytest.mark.parametrize("changes", [{}, several()], ids=["classification", "multi-label"])
def test_an_evaluation_names_the_records_it_gives_nan_for(tmp_path, changes):
    config = make_config(scoring("nan", max_steps=1, **changes))
    train(config, tmp_path / "run", make_loaders=make_loaders)
    with pytest.raises(NonFiniteScores, match=r"gives NaN for \d+ records, among them \[\d+, .*there is no figure"):
        evaluate_checkpoint(config, tmp_path / "run" / "checkpoints" / "latest", make_loaders=make_loaders)


@pytest.mark.parametrize("entry", ["conv.weight", "norm.running_mean", "head.bias"])
@pytest.mark.parametrize("plain", [True, False], ids=["weights", "checkpoint"])
def test_weights_that_are_not_finite_are_not_evaluated(tmp_path, entry, plain):
    config = make_config(recipe(max_steps=1))
    train(config, tmp_path / "run", make_loaders=make_loaders)
    weights = newest_state(tmp_path / "run")["model"]
    weights[entry].view(-1)[0] = float("nan")
    torch.save(weights if plain else {"model": weights}, tmp_path / "bad.pt")
    with pytest.raises(NonFinite, match=rf"bad\.pt: {entry} holds NaN or infinity: take an earlier checkpoint"):
        evaluate_checkpoint(config, tmp_path / "bad.pt", make_loaders=make_loaders)


def test_constant_scores_get_what_guessing_would(tmp_path):
    for name, changes in (("classes", {}), ("labels", several())):
        config = make_config(scoring("constant", max_steps=1, **changes))
        train(config, tmp_path / name, make_loaders=make_loaders)
        found = evaluate_checkpoint(
            config, tmp_path / name / "checkpoints" / "latest", make_loaders=make_loaders
        ).values
        if name == "classes":
            assert (found["top1"], found["top5"]) == (25.0, 100.0)
            continue
        rows = torch.cat([batch.targets for batch in SyntheticLoader(22, 22, train=False, multilabel=True)])
        shares = [(rows[:, k] == 1).sum().item() / (rows[:, k] >= 0).sum().item() for k in range(4)]
        assert 100 * sum(shares) / 4 < found["mAP"] < 100 * sum(shares) / 4 + 15
        assert found["OP"] == pytest.approx(100 * (rows == 1).sum().item() / (rows >= 0).sum().item())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_json_knows_no_nan(value):
    text = json_text({"a": [1, value, {"b": (value, 2.5)}], "c": "NaN", "d": value})
    assert strict(text) == {"a": [1, None, {"b": [None, 2.5]}], "c": "NaN", "d": None}
