"""Evaluation is exact over ranks and batches. NaN scores are reported; constant scores get metrics of chance."""

import json

import pytest
import torch

from dali_mix.engine.config.schema import make_config
from dali_mix.engine.distributed.process_group import Ranks
from dali_mix.engine.evaluate import NonFiniteScores, evaluate
from dali_mix.engine.run import evaluate_checkpoint
from dali_mix.engine.scores import DetectionScores, MultiLabelScores
from dali_mix.engine.train.objectives import is_summed
from dali_mix.losses import AsymmetricLoss, BinaryCrossEntropy, MultiLabelSoftMargin, SGRELoss
from dali_mix.models import build_detector
from dali_mix.reports import curves
from tests.engine.processes import output_of, records, run
from tests.engine.synthetic import PLAIN, Batch, SyntheticLoader, make_loaders, recipe, train_synthetic


def scoring_recipe(how, **changes):
    return recipe(model={"type": "tests.engine.broken:Scoring", "how": how}, mixer=None, **changes)


def parse_strict_json(text):
    """Parse a record as strict JSON; fail on NaN and Infinity."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def nan_records():
    """Return the ids of the evaluation records for which `Scoring` returns NaN."""
    batches = list(SyntheticLoader(22, 22, train=False))
    found = [number for number, image in zip(batches[0].ids.tolist(), batches[0].images, strict=True)
             if image.mean() > 0.25]  # fmt: skip
    assert 5 < len(found) < 22
    return found


def multilabel_changes(**changes):
    """Return `changes` with a multi-label pipeline and loss added."""
    pipeline, loss = {"type": "multilabel", "image_size": 8}, {"type": "BinaryCrossEntropy"}
    return {**changes, "pipeline": pipeline, "loss": loss}


def values(**changes):
    """Return the values of a run over synthetic multi-label images of 32 pixels."""
    base = {"pipeline": {"type": "multilabel", "image_size": 32}, "loss": {"type": "BinaryCrossEntropy"}, "mixer": None}
    return recipe(**{**base, "epochs": 2, **changes})


def train_and_evaluate(tmp_path, values):
    """Train a run; return the scores of its latest checkpoint."""
    train_synthetic(values, tmp_path / "run")
    latest = tmp_path / "run" / "checkpoints" / "latest"
    return evaluate_checkpoint(make_config(values), latest, make_loaders=make_loaders).values


def test_nan_output_of_detector_names_records():
    model = build_detector("torchvision/resnet18", 2, channels=16, hidden=16, rois=16).train()
    images = torch.randn(3, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    images[1, 0, 3, 3] = torch.nan
    target = {
        "boxes": torch.tensor([[2.0, 3, 20, 30]]),
        "labels": torch.tensor([1]),
        "difficult": torch.tensor([False]),
    }
    targets, cpu = [target | {"size": (32, 64), "original": (32, 64)}] * 3, torch.device("cpu")
    batches = [Batch(images, targets, torch.tensor([7, 4, 9]))]
    with pytest.raises(NonFiniteScores, match=r"NaN for 1 records, among them \[4\]"):
        evaluate(model, batches, None, Ranks(0, 1, cpu), scores=DetectionScores(2, cpu))
    assert model.training


@pytest.mark.parametrize("ranks", [1, 2])
def test_training_with_nan_scores_continues_without_best(tmp_path, ranks):
    values = scoring_recipe("nan", batch_size=8, early_stopping={"patience": 2}, epochs=9)
    assert run(values, tmp_path / "run", ranks=ranks) == [0] * ranks, output_of(tmp_path / "run")
    found = nan_records()
    text = output_of(tmp_path / "run")
    assert f"step 5: the model returns NaN for {len(found)} records, among them {found[:5]}" in text
    assert "step 5, averaged weights: the model returns NaN" in text
    assert "stopped early: step 10, no best.pt (top1 was NaN in all 2 evaluations)" in text
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    lines = [parse_strict_json(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line["kind"] == "val"]
    assert [line["step"] for line in validations] == [5, 10]
    assert all(line[key] is None for line in validations for key in ("top1", "loss", "ema_top1", "ema_loss"))
    assert curves(tmp_path / "run", tmp_path / "curves.png").is_file()
    assert (
        run({**values, "early_stopping": {"patience": 3}}, tmp_path / "run", ranks=ranks, resume="must") == [0] * ranks
    )


@pytest.mark.parametrize("changes", [{}, multilabel_changes()], ids=["classification", "multi-label"])
def test_evaluation_names_records_with_nan_scores(tmp_path, changes):
    with pytest.raises(NonFiniteScores, match=r"returns NaN for \d+ records, among them \[\d+, .*cannot be scored"):
        train_and_evaluate(tmp_path, scoring_recipe("nan", max_steps=1, **changes))


def test_constant_class_scores_get_chance_accuracy(tmp_path):
    found = train_and_evaluate(tmp_path, scoring_recipe("constant", max_steps=1))
    assert found["top1"] == 25.0
    assert "top5" not in found  # there are only four classes


def test_constant_label_scores_get_chance_map(tmp_path):
    found = train_and_evaluate(tmp_path, scoring_recipe("constant", max_steps=1, **multilabel_changes()))
    rows = torch.cat([batch.targets for batch in SyntheticLoader(22, 22, train=False, multilabel=True)])
    shares = [(rows[:, k] == 1).sum().item() / (rows[:, k] >= 0).sum().item() for k in range(4)]
    assert 100 * sum(shares) / 4 < found["mAP"] < 100 * sum(shares) / 4 + 15
    assert found["OP"] == pytest.approx(100 * (rows == 1).sum().item() / (rows >= 0).sum().item())


def test_two_ranks_evaluate_as_one_process(tmp_path):
    """All scores but the loss are exactly equal. The 22 records do not divide evenly, and some targets are unknown."""
    still = {"model": PLAIN, "max_steps": 1, "ema": None, "optimizer": {"type": "SGD", "lr": 1e-20}, "batch_size": 8}
    for ranks in (1, 2):
        assert run(values(**still), tmp_path / str(ranks), ranks=ranks) == [0] * ranks, output_of(tmp_path / str(ranks))
    one, two = (next(r for r in records(tmp_path / n) if r["kind"] == "val") for n in ("1", "2"))
    assert 0 < one["mAP"] < 100
    assert one.pop("loss") == pytest.approx(two.pop("loss"), rel=1e-6)
    assert one == two


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), MultiLabelSoftMargin(), SGRELoss(), AsymmetricLoss()])
def test_evaluation_loss_is_independent_of_batch_sizes(loss):
    logits = 3 * torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(-1, 2, (9, 4), generator=torch.Generator().manual_seed(1)).float()
    targets[4:6] = -1
    ids, ranks = torch.arange(9), Ranks(0, 1, torch.device("cpu"))
    whole = loss(logits, targets).item() / (9 if is_summed(loss) else 1)
    for sizes in ((9,), (4, 2, 3), (1, 5, 1, 2)):
        batches = [Batch(*parts) for parts in zip(*(x.split(sizes) for x in (logits, targets, ids)), strict=True)]
        scores = MultiLabelScores(4, ranks.device)
        found = evaluate(torch.nn.Identity(), batches, loss, ranks, scores=scores)
        assert found["loss"] == pytest.approx(whole, rel=1e-6), sizes
